"""Integrated Gradients on a path that is chosen by the model's gradients."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods.base import Values, method
from saliency_bench.attribution.points import Anywhere
from saliency_bench.core.tensors import at_least_float32

#: The part of the L1 length of the path that a step may lack because of rounding.
ROUNDING = 1e-12


@method(
    "product",
    label="Guided Integrated Gradients",
    family="integrated_gradients",
    sums_to="F(x) - F(x') in the limit of many steps",
)
def guided_ig(
    ctx: Context,
    *,
    baseline: str,
    baseline_special_tokens: str,
    n_steps: int,
    fraction: float,
    max_distance: float,
) -> Values:
    """Σ_k ∇F(p_k) ⊙ (p_{k+1} - p_k), on a path that moves the numbers with the smallest gradients first.

    Kapishnikov et al. 2021, with the bound on the path of the authors' code. The numbers are the dimensions of all
    embeddings in which x and x' differ. In step k of n, the `fraction` of the numbers with the smallest |∂F| moves, then
    the next ones, until the L1 distance to the input has decreased by 1/n of its whole. No number is more than
    `max_distance` of its path ahead of the straight line or behind it. With 0 the path is the straight line, which is
    Integrated Gradients by the left rule.

    It claims Σ = F(x) - F(x') in the limit of many steps. Steps depend on each other, so that only texts are computed
    together. Dimensions that do not affect the score still count for the L1 distance. If two gradients are equal up to
    rounding, the path may depend on the batch.
    """
    path = ctx.path(baseline, baseline_special_tokens)
    # The path is chosen in float64 on the host, from exact copies.
    start, end = (side.double().cpu().numpy() for side in (path.reference, path.embeddings))
    guides = [Guide(b - a, fraction, max_distance) for a, b in zip(start, end, strict=True)]
    moving = [(row, 0) for row, guide in enumerate(guides) if guide.moves]
    for step in range(n_steps):
        now = np.stack([a + g.alpha * g.displacement for a, g in zip(start, guides, strict=True)])
        points = Anywhere(torch.from_numpy(now).to(path.embeddings))
        for rows in ctx.engine.pairs(points, [step], moving, ctx.clean):
            gradients = rows.gradients.double().cpu().numpy()
            for row, gradient in zip(rows.examples, gradients, strict=True):
                guides[row].step(gradient, (step + 1) / n_steps)
    values = torch.from_numpy(np.stack([guide.values for guide in guides]))
    cost = np.array([n_steps if guide.moves else 0 for guide in guides])
    like: Tensor = at_least_float32(path.embeddings)
    return Values(values.to(like), cost, ctx.path_difference(path))


class Guide:
    """The path of one text: the position of each number of its embeddings, and the sum of the steps so far."""

    def __init__(
        self, displacement: Float[np.ndarray, "T D"], fraction: float, max_distance: float
    ) -> None:
        self.displacement = displacement
        self.length = np.abs(displacement)
        self.total = float(self.length.sum())
        self.fraction = fraction
        self.max_distance = max_distance
        self.alpha = np.zeros_like(displacement)  # 0 at the baseline, 1 at the input
        self.values = np.zeros_like(displacement)

    @property
    def moves(self) -> bool:
        """Whether the input differs from the baseline; True if a number is not finite, so that its values are not."""
        return self.total != 0

    def step(self, gradient: Float[np.ndarray, "T D"], target: float) -> None:
        """Moves numbers until the share `target` of the L1 distance is behind."""
        before = self.alpha
        self.alpha = self._next(np.abs(gradient), target)
        moved = (self.alpha - before) * self.displacement
        self.values += np.where(self.displacement != 0, moved * gradient, 0.0)

    def _next(self, size: Float[np.ndarray, "T D"], target: float) -> Float[np.ndarray, "T D"]:
        """The position α of each number after a step, from the magnitudes of the gradient."""
        least, most = max(target - self.max_distance, 0.0), min(target + self.max_distance, 1.0)
        # Numbers that are too far behind are moved first.
        alpha: Float[np.ndarray, "T D"] = np.maximum(self.alpha, least)
        moving = self.displacement != 0
        if not np.isfinite(size[moving]).all():
            return np.full_like(alpha, target)  # magnitudes that are not finite have no order
        count = 1 + int(self.fraction * (moving.sum() - 1))
        while True:
            missing = target * self.total - float((alpha * self.length).sum())
            movable = moving & (alpha < most)
            if missing <= ROUNDING * self.total or not movable.any():
                return alpha
            sizes = size[movable]
            last = min(count, len(sizes)) - 1
            chosen = movable & (size <= np.partition(sizes, last)[last])
            room = float(((most - alpha) * self.length)[chosen].sum())
            share = min(1.0, missing / room)
            alpha = np.where(chosen, most if share == 1 else alpha + share * (most - alpha), alpha)
