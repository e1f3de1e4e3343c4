"""The one primitive: gradients at points, a chunk at a time, and weighted sums of them.

Every gradient method is Σ_s w_s ∇F(p_s), and a sweep over K settings that share their points is a matrix of
weights [K S]. Rows (example, point) are cut to a token budget in both directions, gradients are added up as they
come, and memory grows neither with S nor with K beyond the K sums themselves.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saliency_bench.attribution.points import Points
from saliency_bench.attribution.statistics import DISPLACED, RELATIVE, Row, Term
from saliency_bench.core.errors import is_out_of_memory
from saliency_bench.core.tensors import ScoreFn, TokenBudget, at_least_float32, on_device
from saliency_bench.models.rounding import products


@dataclass
class Spent:
    """What was paid, in units that do not depend on the machine."""

    gradients: int = 0  # (example, point) pairs
    tokens: int = 0  # of those, padding included
    calls: int = 0  # forward and backward passes


@dataclass
class Clean:
    """The unperturbed inputs of a batch: their embeddings, scores F(x) and gradients ∇F(x).

    Gradients are taken when they are first asked for: many a rule has no node at the input.
    """

    embeddings: Float[Tensor, "B T D"]
    scores: Float[Tensor, " B"]
    take: Callable[[], Float[Tensor, "B T D"]]

    @cached_property
    def gradients(self) -> Float[Tensor, "B T D"]:
        """∇F(x), paid for once."""
        return self.take()


@dataclass(frozen=True)
class Rows:
    """A chunk of (example, node) pairs with the score and the gradient at each.

    Pairs come sorted by example and, within one, in the order of the nodes; `examples` and `nodes` are their
    indices, on the host.
    """

    examples: Sequence[int]
    nodes: Sequence[int]
    scores: Float[Tensor, " R"]
    gradients: Float[Tensor, "R T D"]

    @property
    def row_example(self) -> Int[Tensor, " R"]:
        """The rows' examples on the gradients' device."""
        return on_device(self.examples, self.gradients.device, torch.long)


@dataclass
class GradientEngine:
    """Gradients of a score with respect to embeddings, at most a budget of tokens at a time.

    Where memory runs out, the chunk is cut in half and goes on; whoever shares the budget keeps the smaller size.
    On a GPU the host runs ahead: nothing here waits for a result.
    """

    score: ScoreFn
    budget: TokenBudget
    spent: Spent = field(default_factory=Spent)

    def clean(self, embeddings: Float[Tensor, "B T D"], scores: Float[Tensor, " B"]) -> Clean:
        """The embeddings themselves with their scores, and their gradients once they are wanted."""

        def take() -> Float[Tensor, "B T D"]:
            rows = torch.arange(len(embeddings), device=embeddings.device)
            chunks = self._chunks(len(rows), embeddings.shape[1])
            return torch.cat(
                [
                    self._fitting(self._gradients, embeddings[chunk], rows[chunk])[1]
                    for chunk in chunks
                ]
            )

        return Clean(embeddings, scores, take)

    @torch.no_grad()
    def scores_at(self, points: Points, node: Any, clean: Clean) -> Float[Tensor, " B"]:
        """F at one node of every example, forward only."""
        n, width = clean.embeddings.shape[:2]
        parts: list[Tensor] = []
        for chunk in self._chunks(n, width):
            own = on_device(range(n)[chunk], clean.embeddings.device, torch.long)
            at = points.at(own, [node] * len(own))
            parts += self._fitting(lambda *asked: (self.score(*asked),), at, own)
        return torch.cat(parts)

    def rows(
        self,
        points: Points,
        nodes: Sequence[Any],
        clean: Clean,
        examples: Sequence[int] | None = None,
    ) -> Iterator[Rows]:
        """Every pair of an example (all where None) and a node, once; nodes at the input cost nothing.

        What the clean pass knows comes in a chunk of its own for each example, in its place.
        """
        wanted = range(len(clean.embeddings)) if examples is None else examples
        free = [points.is_input(node) for node in nodes]
        asked: list[tuple[int, int]] = []
        for example in wanted:
            own = [s for s, node in enumerate(nodes) if points.applies(example, node)]
            if known := [s for s in own if free[s]]:
                yield _known(clean, example, known)
            asked += [(example, s) for s in own if not free[s]]
        yield from self.pairs(points, nodes, asked, clean)

    def pairs(
        self, points: Points, nodes: Sequence[Any], asked: Sequence[tuple[int, int]], clean: Clean
    ) -> Iterator[Rows]:
        """The named pairs of an example and a node's index, in the order given, which is sorted by example."""
        device = clean.embeddings.device
        for chunk in self._chunks(len(asked), clean.embeddings.shape[1]):
            own = asked[chunk]
            row_example = on_device([example for example, _ in own], device, torch.long)
            at = points.at(row_example, [nodes[s] for _, s in own])
            scores, gradients = self._fitting(self._gradients, at, row_example)
            yield Rows([e for e, _ in own], [s for _, s in own], scores, gradients)

    def weighted_sums(
        self,
        points: Points,
        nodes: Sequence[Any],
        weights: Mapping[Term, Float[Tensor, "K S"]],
        clean: Clean,
        examples: Sequence[int] | None = None,
    ) -> dict[Term, Float[Tensor, "K B T D"]]:
        """Σ_s weights[k, s] term(∇F(points at node s)) for every term, k and example, in at least float32."""
        dtype = torch.promote_types(clean.embeddings.dtype, torch.float32)
        device = clean.embeddings.device
        matrices = {term: matrix.to(device, dtype) for term, matrix in weights.items()}
        sums = {
            term: torch.zeros(len(matrix), *clean.embeddings.shape, dtype=dtype, device=device)
            for term, matrix in matrices.items()
        }
        for rows in self.rows(points, nodes, clean, examples):
            row_example = rows.row_example
            moved = None
            if DISPLACED & matrices.keys():
                moved = points.displacement(row_example, [nodes[s] for s in rows.nodes]).to(dtype)
            own = clean.gradients[row_example].to(dtype) if RELATIVE & matrices.keys() else None
            row = Row(rows.gradients.to(dtype), own, moved)
            for term, matrix in matrices.items():
                weight = matrix[:, on_device(rows.nodes, device, torch.long)]
                _accumulate(sums[term], weight, term(row), rows.examples)
        return sums

    def _chunks(self, n_rows: int, width: int) -> Iterator[slice]:
        start = 0
        while start < n_rows:
            stop = min(n_rows, start + self.budget.rows(width))
            yield slice(start, stop)
            start = stop

    def _fitting(
        self,
        run: Callable[..., tuple[Tensor, ...]],
        points: Float[Tensor, "R T D"],
        row_example: Int[Tensor, " R"],
    ) -> tuple[Tensor, ...]:
        """What `run` gives for rows, in as many parts as memory asks for."""
        try:
            return run(points, row_example)
        except RuntimeError as error:
            if len(points) == 1 or not is_out_of_memory(error):
                raise
        # Outside the handler: the exception would keep the failed pass's tensors alive.
        torch.cuda.empty_cache()
        half = len(points) // 2
        self.budget.fit(half * points.shape[1])
        first = self._fitting(run, points[:half], row_example[:half])
        second = self._fitting(run, points[half:], row_example[half:])
        return tuple(torch.cat(pair) for pair in zip(first, second, strict=True))

    def _gradients(
        self, points: Float[Tensor, "R T D"], row_example: Int[Tensor, " R"]
    ) -> tuple[Float[Tensor, " R"], Float[Tensor, "R T D"]]:
        points = at_least_float32(points.detach()).requires_grad_()
        with torch.enable_grad():
            scores = self.score(points, row_example)
            # Rows are independent, so the gradient of their sum is each row's own gradient.
            (gradient,) = torch.autograd.grad(scores.sum(), points)
        self.spent.calls += 1
        self.spent.gradients += len(points)
        self.spent.tokens += points.shape[0] * points.shape[1]
        return scores.detach(), gradient


def _known(clean: Clean, example: int, nodes: Sequence[int]) -> Rows:
    """Rows that the clean pass has paid for."""
    n = len(nodes)
    scores = clean.scores[example].expand(n)
    return Rows([example] * n, nodes, scores, clean.gradients[example].expand(n, -1, -1))


def _accumulate(
    sums: Float[Tensor, "K B T D"],
    weights: Float[Tensor, "K R"],
    values: Float[Tensor, "R T D"],
    examples: Sequence[int],
) -> None:
    """Adds each row's weighted values to its example's sums: one matrix product per chunk.

    A value that is not finite makes NaN of what it is part of, and of nothing else: in the product a weight of 0 times NaN
    would be NaN, and one example's fault would be its neighbours'.
    """
    first, last = examples[0], examples[-1]
    place = on_device(examples, values.device, torch.long) - first
    spread = torch.arange(last + 1 - first, device=values.device)[:, None] == place  # [b R]
    spread_weights = (weights[:, None, :] * spread).flatten(0, 1)  # [K·b R]
    flat = values.flatten(1)
    wrong = ~flat.isfinite()
    with products(tf32=False):  # the model may round its factors; sums are not rounded
        added = spread_weights @ flat.masked_fill(wrong, 0.0)
    struck = (spread_weights != 0).to(flat.dtype) @ wrong.to(flat.dtype)
    added = added.masked_fill(struck > 0, torch.nan)
    sums[:, first : last + 1] += added.view(len(weights), last + 1 - first, *values.shape[1:])
