"""Integrated Gradients on a path that the model's own gradients choose."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods.base import Values, method
from saliency_bench.attribution.points import Anywhere
from saliency_bench.core.tensors import at_least_float32

#: What of the whole way a step may lack, by rounding.
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

    Kapishnikov et al. 2021, with the bound on the path of the authors' code: in step k of n, the `fraction`
    of numbers with the smallest |∂F| moves on, then the next, until the L1 way to the input has shrunk by 1/n; no
    number is more than `max_distance` of its way ahead of the straight line or behind it. 0 is the straight line, and
    Integrated Gradients by the left rule. Numbers are dimensions of embeddings; those that have no way to go take no part.

    It claims Σ = F(x) - F(x') in the limit of many steps. Steps depend on each other, so that only texts are computed
    together, and dimensions that the score does not read have a say in the pace. Where two gradients are equal up to
    rounding, another batch may choose another path.
    """
    path = ctx.path(baseline, baseline_special_tokens)
    # Exact copies on the host, where the path is chosen in float64.
    start, end = (side.double().cpu().numpy() for side in (path.reference, path.embeddings))
    guides = [Guide(b - a, fraction, max_distance) for a, b in zip(start, end, strict=True)]
    waiting = [row for row, guide in enumerate(guides) if guide.moves]
    for step in range(n_steps):
        now = np.stack([a + g.alpha * g.way for a, g in zip(start, guides, strict=True)])
        points = Anywhere(torch.from_numpy(now).to(path.embeddings))
        for rows in ctx.engine.pairs(points, [step], [(row, 0) for row in waiting], ctx.clean):
            gradients = rows.gradients.double().cpu().numpy()
            for row, gradient in zip(rows.examples, gradients, strict=True):
                guides[row].step(gradient, (step + 1) / n_steps)
    values = torch.from_numpy(np.stack([guide.values for guide in guides]))
    cost = np.array([n_steps if guide.moves else 0 for guide in guides])
    like: Tensor = at_least_float32(path.embeddings)
    return Values(values.to(like), cost, ctx.path_difference(path))


class Guide:
    """One text's way: how far each number of its embeddings has come, and what the steps so far have added up to."""

    def __init__(self, way: Float[np.ndarray, "T D"], fraction: float, max_distance: float) -> None:
        self.way = way
        self.length = np.abs(way)
        self.total = float(self.length.sum())
        self.fraction = fraction
        self.max_distance = max_distance
        self.alpha = np.zeros_like(way)  # 0 at the baseline, 1 at the input
        self.values = np.zeros_like(way)

    @property
    def moves(self) -> bool:
        """Whether there is any way to go."""
        return self.total != 0  # what is not finite moves, and its values are not finite

    def step(self, gradient: Float[np.ndarray, "T D"], target: float) -> None:
        """Goes on until the share `target` of the whole way is behind."""
        before = self.alpha
        self.alpha = self._next(np.abs(gradient), target)
        moved = (self.alpha - before) * self.way
        self.values += np.where(self.way != 0, moved * gradient, 0.0)

    def _next(self, size: Float[np.ndarray, "T D"], target: float) -> Float[np.ndarray, "T D"]:
        """Where each number stands after a step."""
        least, most = max(target - self.max_distance, 0.0), min(target + self.max_distance, 1.0)
        # Who is too far behind is brought up first.
        alpha: Float[np.ndarray, "T D"] = np.maximum(self.alpha, least)
        moving = self.way != 0
        if not np.isfinite(size[moving]).all():
            return np.full_like(alpha, target)  # no order of numbers that are none
        count = 1 + int(self.fraction * (moving.sum() - 1))
        while True:
            missing = target * self.total - float((alpha * self.length).sum())
            open_to_move = moving & (alpha < most)
            if missing <= ROUNDING * self.total or not open_to_move.any():
                return alpha
            sizes = size[open_to_move]
            limit = np.partition(sizes, min(count, len(sizes)) - 1)[min(count, len(sizes)) - 1]
            chosen = open_to_move & (size <= limit)
            room = float(((most - alpha) * self.length)[chosen].sum())
            share = min(1.0, missing / room)
            alpha = np.where(chosen, most if share == 1 else alpha + share * (most - alpha), alpha)
