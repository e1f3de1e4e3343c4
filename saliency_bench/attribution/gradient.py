"""Gradients at points and weighted sums of them, computed in chunks: the primitive that all methods share.

Every gradient method is Σ_s w_s ∇F(p_s), and a sweep over K settings that share their points is a matrix of
weights [K S]. Rows (example, point) are split into chunks within a token budget, and their gradients are added up chunk
by chunk, so that memory does not grow with S, and with K only by the K sums.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from saliency_bench.attribution.points import Input, Points
from saliency_bench.attribution.statistics import DISPLACED, RELATIVE, Row, Term
from saliency_bench.core.errors import is_out_of_memory
from saliency_bench.core.tensors import ScoreFn, TokenBudget, at_least_float32, on_device
from saliency_bench.models.rounding import products


@dataclass
class Clean:
    """The unperturbed inputs of a batch: their embeddings, scores F(x) and gradients ∇F(x).

    `take` computes the gradients. It is called at first use, since many quadrature rules have no node at the input.
    """

    embeddings: Float[Tensor, "B T D"]
    scores: Float[Tensor, " B"]
    take: Callable[[], Float[Tensor, "B T D"]]
    _taken: Float[Tensor, "B T D"] | None = None

    @property
    def gradients(self) -> Float[Tensor, "B T D"]:
        """∇F(x), computed once."""
        # No cached_property: that of Python 3.11 holds a lock for all threads while the model runs.
        if self._taken is None:
            self._taken = self.take()
        return self._taken


@dataclass(frozen=True)
class Rows:
    """A chunk of (example, node) pairs with the score and the gradient at each.

    Pairs are sorted by example and then by node. `examples` and `nodes` are their indices, on the host.
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
    """Gradients of a score with respect to embeddings, in passes of at most a budget of tokens.

    `widths` has the number of tokens of each example that count (all if None). A pass is as wide as its widest row, and
    gradients beyond that are 0. When memory runs out, the chunk is cut in half and the budget is lowered, for all who
    share it. On a GPU the host runs ahead: nothing here waits for a result. `n_gradients` counts (example, point) pairs.
    """

    score: ScoreFn
    budget: TokenBudget
    widths: Sequence[int] | None = None
    n_gradients: int = 0

    def clean(self, embeddings: Float[Tensor, "B T D"], scores: Float[Tensor, " B"]) -> Clean:
        """The unperturbed inputs with their scores; gradients are computed at first use."""

        def take() -> Float[Tensor, "B T D"]:
            pairs = [(row, 0) for row in range(len(embeddings))]
            chunks = self.pairs(Input(embeddings), [None], pairs, clean)
            return torch.cat([rows.gradients for rows in chunks])

        clean = Clean(embeddings, scores, take)
        return clean

    @torch.no_grad()
    def scores_at(self, points: Points, node: Any, clean: Clean) -> Float[Tensor, " B"]:
        """F at one node of every example, by forward passes."""
        examples = range(len(clean.embeddings))
        parts: list[Tensor] = []
        for chunk, width in self._chunks(examples, clean.embeddings.shape[1]):
            rows = on_device(examples[chunk], clean.embeddings.device, torch.long)
            at = points.at(rows, [node] * len(rows))[:, :width]
            parts += self._fitting(lambda *inputs: (self.score(*inputs),), at, rows)
        return torch.cat(parts)

    def rows(
        self,
        points: Points,
        nodes: Sequence[Any],
        clean: Clean,
        examples: Sequence[int] | None = None,
    ) -> Iterator[Rows]:
        """Every pair of an example (all if None) and a node, once. Pairs at the input come first and cost nothing."""
        pairs = [
            (example, s)
            for example in (range(len(clean.embeddings)) if examples is None else examples)
            for s, node in enumerate(nodes)
            if points.applies(example, node)
        ]
        at_input = {s for s, node in enumerate(nodes) if points.is_input(node)}
        free = [pair for pair in pairs if pair[1] in at_input]
        for chunk, _ in self._chunks([example for example, _ in free], clean.embeddings.shape[1]):
            yield _clean_rows(clean, free[chunk])
        yield from self.pairs(
            points, nodes, [pair for pair in pairs if pair[1] not in at_input], clean
        )

    def pairs(
        self, points: Points, nodes: Sequence[Any], pairs: Sequence[tuple[int, int]], clean: Clean
    ) -> Iterator[Rows]:
        """The given pairs of an example and a node's index, which are sorted by example."""
        whole, device = clean.embeddings.shape[1], clean.embeddings.device
        for chunk, width in self._chunks([example for example, _ in pairs], whole):
            examples, indices = map(list, zip(*pairs[chunk], strict=True))
            row_example = on_device(examples, device, torch.long)
            at = points.at(row_example, [nodes[s] for s in indices])[:, :width]
            scores, gradients = self._fitting(self._gradients, at, row_example)
            if width < whole:
                gradients = functional.pad(gradients, (0, 0, 0, whole - width))
            yield Rows(examples, indices, scores, gradients)

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
            clean_gradient = displacement = None
            if RELATIVE & matrices.keys():
                clean_gradient = clean.gradients[row_example].to(dtype)
            if DISPLACED & matrices.keys():
                nodes_of_rows = [nodes[s] for s in rows.nodes]
                displacement = points.displacement(row_example, nodes_of_rows).to(dtype)
            row = Row(rows.gradients.to(dtype), clean_gradient, displacement)
            for term, matrix in matrices.items():
                weight = matrix[:, on_device(rows.nodes, device, torch.long)]
                _accumulate(sums[term], weight, term(row), rows.examples)
        return sums

    def _chunks(self, examples: Sequence[int], whole: int) -> Iterator[tuple[slice, int]]:
        """Splits rows, given by their examples, into passes within the budget; yields each with its widest row's width."""
        if self.widths is None:
            widths = [whole] * len(examples)
        else:
            widths = [self.widths[example] for example in examples]
        start = 0
        while start < len(widths):
            stop, widest = start + 1, widths[start]
            while stop < len(widths) and stop - start < self.budget.rows(max(widest, widths[stop])):
                widest = max(widest, widths[stop])
                stop += 1
            yield slice(start, stop), widest
            start = stop

    def _fitting(
        self,
        run: Callable[..., tuple[Tensor, ...]],
        points: Float[Tensor, "R T D"],
        row_example: Int[Tensor, " R"],
    ) -> tuple[Tensor, ...]:
        """The outputs of `run` for these rows, computed in as many parts as memory requires."""
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
        self.n_gradients += len(points)
        return scores.detach(), gradient


def _clean_rows(clean: Clean, pairs: Sequence[tuple[int, int]]) -> Rows:
    """Rows at the input, from the clean pass."""
    examples, nodes = map(list, zip(*pairs, strict=True))
    rows = on_device(examples, clean.scores.device, torch.long)
    return Rows(examples, nodes, clean.scores[rows], clean.gradients[rows])


def _accumulate(
    sums: Float[Tensor, "K B T D"],
    weights: Float[Tensor, "K R"],
    values: Float[Tensor, "R T D"],
    examples: Sequence[int],
) -> None:
    """Adds each row's weighted values to its example's sums, by one matrix product per chunk.

    Values that are not finite are left out of the product, where 0 times NaN would spoil the other examples. The sums
    that they belong to are set to NaN afterwards.
    """
    first, last = examples[0], examples[-1]
    place = on_device(examples, values.device, torch.long) - first
    is_of = torch.arange(last + 1 - first, device=values.device)[:, None] == place  # [b R]
    row_weights = (weights[:, None, :] * is_of).flatten(0, 1)  # [K·b R]
    flat = values.flatten(1)
    not_finite = ~flat.isfinite()
    with products(tf32=False):  # the model may round its factors; sums are not rounded
        added = row_weights @ flat.masked_fill(not_finite, 0.0)
    n_not_finite = (row_weights != 0).to(flat.dtype) @ not_finite.to(flat.dtype)
    added = added.masked_fill(n_not_finite > 0, torch.nan)
    sums[:, first : last + 1] += added.view(len(weights), last + 1 - first, *values.shape[1:])
