"""The one primitive: weighted sums of gradients at points.

Every gradient method is Σ_s w_s ∇F(p_s), and a sweep over K settings that share their points is a matrix of
weights [K S]. Rows (example, point) are cut to a token budget in both directions, gradients are added up as they
come, and memory grows neither with S nor with K beyond the K sums themselves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saliency_bench.attribution.points import Points
from saliency_bench.types import ScoreFn


@dataclass
class Spent:
    """What was paid, in units that do not depend on the machine."""

    gradients: int = 0  # (example, point) pairs
    tokens: int = 0  # of those, padding included
    calls: int = 0  # forward and backward passes
    budget_halvings: int = 0


@dataclass
class GradientEngine:
    """Gradients of a score with respect to embeddings, at most `token_budget` tokens at a time.

    Where memory runs out, the chunk is cut in half and goes on; later chunks keep the smaller size.
    """

    score: ScoreFn
    token_budget: int
    spent: Spent = field(default_factory=Spent)

    def at_input(
        self, embeddings: Float[Tensor, "B T D"]
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, "B T D"]]:
        """Scores and their gradients at the embeddings themselves."""
        rows = torch.arange(len(embeddings), device=embeddings.device)
        parts = [
            self._gradients(embeddings[chunk], rows[chunk])
            for chunk in self._chunks(len(rows), embeddings.shape[1])
        ]
        return torch.cat([score for score, _ in parts]), torch.cat(
            [gradient for _, gradient in parts]
        )

    def weighted_sums(
        self,
        points: Points,
        nodes: Sequence[Any],
        weights: Float[Tensor, "K S"],
        embeddings: Float[Tensor, "B T D"],
        input_gradient: Float[Tensor, "B T D"],
    ) -> Float[Tensor, "K B T D"]:
        """Σ_s weights[k, s] ∇F(points at node s), for every k and example, in at least float32.

        `input_gradient` is the gradient at the unperturbed input, which is used and not computed again.
        """
        dtype = torch.promote_types(embeddings.dtype, torch.float32)
        weights = weights.to(embeddings.device, dtype)
        known = [index for index, node in enumerate(nodes) if points.is_input(node)]
        asked = [index for index in range(len(nodes)) if index not in set(known)]
        sums = weights[:, known].sum(1)[:, None, None, None] * input_gradient.to(dtype)
        n_examples, width = embeddings.shape[:2]
        for chunk in self._chunks(n_examples * len(asked), width):
            index = torch.arange(chunk.start, chunk.stop, device=embeddings.device)
            row_example = index // len(asked)
            row_node = [asked[row % len(asked)] for row in range(chunk.start, chunk.stop)]
            _, gradient = self._gradients(
                points.at(row_example, [nodes[s] for s in row_node]), row_example
            )
            _accumulate(
                sums, weights[:, row_node], gradient.to(dtype), row_example, chunk, len(asked)
            )
        return sums

    def _chunks(self, n_rows: int, width: int) -> Iterator[slice]:
        start = 0
        while start < n_rows:
            stop = min(n_rows, start + max(1, self.token_budget // width))
            yield slice(start, stop)
            start = stop

    def _gradients(
        self, points: Float[Tensor, "R T D"], row_example: Int[Tensor, " R"]
    ) -> tuple[Float[Tensor, " R"], Float[Tensor, "R T D"]]:
        try:
            return self._gradients_at_once(points, row_example)
        except torch.OutOfMemoryError:
            if len(points) == 1:
                raise
        # Outside the handler: the exception would keep the failed pass's tensors alive.
        torch.cuda.empty_cache()
        half = len(points) // 2
        self.token_budget = max(1, half * points.shape[1])
        self.spent.budget_halvings += 1
        first = self._gradients(points[:half], row_example[:half])
        second = self._gradients(points[half:], row_example[half:])
        return torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])

    def _gradients_at_once(
        self, points: Float[Tensor, "R T D"], row_example: Int[Tensor, " R"]
    ) -> tuple[Float[Tensor, " R"], Float[Tensor, "R T D"]]:
        points = points.detach().requires_grad_()
        with torch.enable_grad():
            scores = self.score(points, row_example)
            # Rows are independent, so the gradient of their sum is each row's own gradient.
            (gradient,) = torch.autograd.grad(scores.sum(), points)
        self.spent.calls += 1
        self.spent.gradients += len(points)
        self.spent.tokens += points.shape[0] * points.shape[1]
        return scores.detach(), gradient


def _accumulate(
    sums: Float[Tensor, "K B T D"],
    weights: Float[Tensor, "K R"],
    gradient: Float[Tensor, "R T D"],
    row_example: Int[Tensor, " R"],
    chunk: slice,
    n_points: int,
) -> None:
    """Adds each row's weighted gradient to its example's sums: one matrix product per chunk."""
    first, last = chunk.start // n_points, (chunk.stop - 1) // n_points
    examples = torch.arange(first, last + 1, device=row_example.device)
    own = (row_example[None, :] == examples[:, None]).to(weights.dtype)  # [b R]
    spread = (weights[:, None, :] * own[None]).flatten(0, 1)  # [K·b R]
    added = spread @ gradient.flatten(1)
    sums[:, first : last + 1] += added.view(len(weights), len(examples), *gradient.shape[1:])
