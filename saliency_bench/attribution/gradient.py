"""The one primitive: gradients at points, a chunk at a time, and weighted sums of them.

Every gradient method is Σ_s w_s ∇F(p_s), and a sweep over K settings that share their points is a matrix of
weights [K S]. Rows (example, point) are cut to a token budget in both directions, gradients are added up as they
come, and memory grows neither with S nor with K beyond the K sums themselves.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
    _taken: Float[Tensor, "B T D"] | None = None

    @property
    def gradients(self) -> Float[Tensor, "B T D"]:
        """∇F(x), paid for once."""
        # No cached_property: that of Python 3.11 holds a lock for all threads while the model runs.
        if self._taken is None:
            self._taken = self.take()
        return self._taken


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

    `widths` says how many tokens of each example count (all where None): a pass is as wide as its widest row, and beyond
    that gradients are 0.
    Where memory runs out, the chunk is cut in half and goes on; whoever shares the budget keeps the smaller size.
    On a GPU the host runs ahead: nothing here waits for a result.
    """

    score: ScoreFn
    budget: TokenBudget
    widths: Sequence[int] | None = None
    spent: Spent = field(default_factory=Spent)

    def clean(self, embeddings: Float[Tensor, "B T D"], scores: Float[Tensor, " B"]) -> Clean:
        """The embeddings themselves with their scores, and their gradients once they are wanted."""

        def take() -> Float[Tensor, "B T D"]:
            every = [(row, 0) for row in range(len(embeddings))]
            chunks = self.pairs(Input(embeddings), [None], every, clean)
            return torch.cat([rows.gradients for rows in chunks])

        clean = Clean(embeddings, scores, take)
        return clean

    @torch.no_grad()
    def scores_at(self, points: Points, node: Any, clean: Clean) -> Float[Tensor, " B"]:
        """F at one node of every example, forward only."""
        every = range(len(clean.embeddings))
        parts: list[Tensor] = []
        for chunk, width in self._chunks(every, clean.embeddings.shape[1]):
            own = on_device(every[chunk], clean.embeddings.device, torch.long)
            at = points.at(own, [node] * len(own))[:, :width]
            parts += self._fitting(lambda *asked: (self.score(*asked),), at, own)
        return torch.cat(parts)

    def rows(
        self,
        points: Points,
        nodes: Sequence[Any],
        clean: Clean,
        examples: Sequence[int] | None = None,
    ) -> Iterator[Rows]:
        """Every pair of an example (all where None) and a node, once; nodes at the input come first and cost nothing."""
        wanted = range(len(clean.embeddings)) if examples is None else examples
        pairs = [
            (example, s)
            for example in wanted
            for s, node in enumerate(nodes)
            if points.applies(example, node)
        ]
        at_input = {s for s, node in enumerate(nodes) if points.is_input(node)}
        free = [pair for pair in pairs if pair[1] in at_input]
        for chunk, _ in self._chunks([example for example, _ in free], clean.embeddings.shape[1]):
            yield _known(clean, free[chunk])
        yield from self.pairs(
            points, nodes, [pair for pair in pairs if pair[1] not in at_input], clean
        )

    def pairs(
        self, points: Points, nodes: Sequence[Any], asked: Sequence[tuple[int, int]], clean: Clean
    ) -> Iterator[Rows]:
        """The named pairs of an example and a node's index, in the order given, which is sorted by example."""
        whole, device = clean.embeddings.shape[1], clean.embeddings.device
        for chunk, width in self._chunks([example for example, _ in asked], whole):
            own = asked[chunk]
            row_example = on_device([example for example, _ in own], device, torch.long)
            at = points.at(row_example, [nodes[s] for _, s in own])[:, :width]
            scores, gradients = self._fitting(self._gradients, at, row_example)
            if width < whole:
                gradients = functional.pad(gradients, (0, 0, 0, whole - width))
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

    def _chunks(self, examples: Sequence[int], whole: int) -> Iterator[tuple[slice, int]]:
        """Cuts rows, given by their examples, into passes within the budget, each with the width of its widest row."""
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


def _known(clean: Clean, pairs: Sequence[tuple[int, int]]) -> Rows:
    """Rows that the clean pass has paid for."""
    examples, nodes = map(list, zip(*pairs, strict=True))
    rows = on_device(examples, clean.scores.device, torch.long)
    return Rows(examples, nodes, clean.scores[rows], clean.gradients[rows])


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
