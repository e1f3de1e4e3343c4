"""Integrated Gradients to a stated accuracy: points where an example needs them, until its own error is small.

Two things make the error visible, and both say where to refine.

* Of the sum over tokens the integral is known: F at every node that was visited. The token integrands c_t sum to
  dF/dα, so over each cell between two nodes Σ_t ∫ c_t must be the difference of F. What the spline through the visited
  nodes gives instead is that cell's residual.
* Of a single token nothing is known but its integrand at the nodes. Each node is left out in turn and predicted by the
  cubic through its four neighbours. What it differs by, times the node's share of the path, is what the node's
  neighbours did not know of this token.

Errors of different cells are taken as independent. With r the root of the sum of squared residuals, and d that of the
squared differences of the worst token, the estimate of the largest token error is sqrt(r² + (d/2)²), in units of the
largest score, so that the output's own unit does not count.

What `converged` promises: this estimate and the completeness gap are at most the tolerance. It is no bound. At a
tolerance of 1 %, with 128 gradients at most, it was measured that

* on ReLU nets with one and two hidden layers, whose integrals are known, 0.4 % of the converged maps are off by more
  (of 900, the worst by 1.3 %), and 0.8 % of all maps by more than is stated;
* on nets with smooth units (tanh, softplus; 900 maps), and on 100 test sentences of the bundled classifier with mask
  and zero baselines, none is off by more than is stated; there the true error is an eighth of it in the median.

It cannot see what lies between two nodes and moves neither F nor the gradient at a node: a bump that cancels between
two tokens is found where it is as wide as 5 % of the path, and missed where it is 2 % wide.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.density import (
    Density,
    cell_integrals,
    middles,
    refined,
    spline_weights,
    unpredicted,
)
from saliency_bench.attribution.gradient import Rows
from saliency_bench.attribution.points import StraightPath
from saliency_bench.core.tensors import Attribution, Convergence

#: Nodes of the first round at a tolerance of 1 %, besides the input itself; they grow with tolerance^(-1/4).
FIRST_ROUND = 12

#: What a difference between a node and its neighbours' cubic counts in the estimate, beside a residual.
LEFT_OUT = 0.5


class Step(NamedTuple):
    """An example's scores after a round; how far off they may be, and their gap, in units of the largest of them."""

    scores: Float[np.ndarray, " T"]
    error: float
    gap: float
    n: int
    floor: float  # what rounding alone may make of `error`: no further node lowers it


@dataclass
class Refinement:
    """One example on its path: the nodes so far, and what was found there."""

    density: Density
    start: float  # F(x')
    end: float  # F(x)
    u: Float[np.ndarray, " S"]
    integrands: Float[np.ndarray, "S T"]  # per du
    values: Float[np.ndarray, " S"]  # F at the nodes
    epsilon: float  # of the type in which F was computed

    @classmethod
    def at_input(
        cls,
        density: Density,
        start: float,
        end: float,
        integrand: Float[np.ndarray, " T"],
        epsilon: float,
    ) -> "Refinement":
        """A path of which the clean pass has paid for the end."""
        last = np.array([1.0])
        per_u = integrand[None] * density.stretch(last)[:, None]
        return cls(density, start, end, last, per_u, np.array([end]), epsilon)

    def add(
        self,
        u: Float[np.ndarray, " N"],
        integrands: Float[np.ndarray, "N T"],
        values: Float[np.ndarray, " N"],
    ) -> Step:
        """Takes the token integrands (per dα) and F at new nodes."""
        per_u = integrands * self.density.stretch(self.density.alpha(u))[:, None]
        together = np.concatenate([self.u, u])
        order = np.argsort(together)
        self.u = together[order]
        self.integrands = np.concatenate([self.integrands, per_u])[order]
        self.values = np.concatenate([self.values, values])[order]
        return self._step()

    def next_nodes(self, n_more: int) -> Float[np.ndarray, " N"]:
        """Where to look further, in u."""
        left_out = np.abs(unpredicted(self.u, self.integrands)).max(1)
        beside = (left_out[:-1] + left_out[1:]) / 2
        ends = left_out[[0]], left_out[[-1]]
        expected = np.concatenate([ends[0], beside, ends[1]]) * self._widths()
        return refined(self.u, np.maximum(self._residuals(), expected), n_more)

    def _step(self) -> Step:
        weights = spline_weights(self.u)
        # The spline's weights are exact for constants in u; in α they are made so.
        scores = weights @ self.integrands
        scores = scores / float(weights @ self.density.stretch(self.density.alpha(self.u)))
        size = float(np.abs(scores).max(initial=0.0))
        # A residual is the difference of two values of F, each rounded, over each of the cells.
        rounding = self.epsilon * float(np.abs([*self.values, self.start]).max())
        floor = rounding * len(self.u) ** 0.5
        gap = abs(float(scores.sum()) - (self.end - self.start))
        if size == 0:
            # In units of nothing: all that F does beyond its rounding is missing from the scores.
            missing = 0.0 if max(self._error(), gap) <= floor else math.inf
            return Step(scores, missing, missing, len(self.u), 0.0)
        return Step(scores, self._error() / size, gap / size, len(self.u), floor / size)

    def _error(self) -> float:
        """The estimate of the largest token error, in the unit of F."""
        widths = self._widths()
        widths_of_nodes = (widths[:-1] + widths[1:]) / 2
        left_out = unpredicted(self.u, self.integrands) * widths_of_nodes[:, None]
        worst = np.linalg.norm(left_out, axis=0).max(initial=0.0)
        return float(np.hypot(np.linalg.norm(self._residuals()), LEFT_OUT * worst))

    def _widths(self) -> Float[np.ndarray, " C"]:
        return np.diff(np.concatenate([[0.0], self.u, [1.0]]))

    def _residuals(self) -> Float[np.ndarray, " C"]:
        differences = np.diff(np.concatenate([[self.start], self.values, [self.end]]))
        return np.asarray(np.abs(differences - cell_integrals(self.u, self.integrands.sum(1))))


def schedule(tolerance: float, max_steps: int) -> Iterator[int]:
    """How many nodes each round adds, at most `max_steps` in all, the input counted: 12, 3, 3, 6, 12, 24 ... at 1 %."""
    left = max_steps - 1
    first = max(6, round(FIRST_ROUND * (0.01 / tolerance) ** 0.25))
    more = max(1, round(first / 4))
    for n in (first, more):
        yield min(n, left)
        left -= min(n, left)
    while left > 0:
        yield min(more, left)
        left -= min(more, left)
        more *= 2


def token_integrand(path: StraightPath, rows: Rows) -> Float[Tensor, "R T"]:
    """Σ_d (x - x')_d ∂_d F of every row: what Integrated Gradients integrates, token by token."""
    moved = (path.embeddings - path.reference)[rows.row_example]
    return (rows.gradients.double() * moved.double()).sum(-1)


def integrate(
    ctx: Context, path: StraightPath, density: Density, tolerance: float, max_steps: int
) -> Attribution:
    """Token scores of every example, each with as many points as it needs; see the module."""
    n, width = ctx.embeddings.shape[:2]
    start = ctx.reference_score(path).double().cpu().numpy()
    end = ctx.clean_score.double().cpu().numpy()
    at_input = Rows(range(n), [0] * n, ctx.clean_score, ctx.clean_gradient)
    integrand = token_integrand(path, at_input).cpu().numpy()
    epsilon = torch.finfo(ctx.embeddings.dtype).eps
    working = [
        Refinement.at_input(density, start[row], float(end[row]), integrand[row], epsilon)
        for row in range(n)
    ]
    steps: dict[int, Step] = {}
    waiting = list(range(n))
    for n_more in schedule(tolerance, max_steps):
        next_nodes = {
            row: working[row].next_nodes(n_more) if row in steps else middles(n_more)
            for row in waiting
        }
        for row, visited in _visit(ctx, path, density, next_nodes).items():
            steps[row] = working[row].add(next_nodes[row], *visited)
        waiting = [row for row in waiting if _may_improve(steps[row], tolerance)]
        if not waiting:
            break
    return _attribution(ctx, path, [steps[row] for row in range(n)], tolerance, width)


def _may_improve(step: Step, tolerance: float) -> bool:
    """Whether the error is too large, and more than what rounding makes of it."""
    worst = max(step.error, step.gap)
    return bool(worst > max(tolerance, step.floor))


def _visit(
    ctx: Context,
    path: StraightPath,
    density: Density,
    next_nodes: dict[int, Float[np.ndarray, " N"]],
) -> dict[int, tuple[Float[np.ndarray, "N T"], Float[np.ndarray, " N"]]]:
    """Token integrands and F at each example's own nodes."""
    nodes = [float(alpha) for u in next_nodes.values() for alpha in density.alpha(u)]
    if not nodes:
        return {row: (np.zeros((0, ctx.embeddings.shape[1])), np.zeros(0)) for row in next_nodes}
    pairs = [row for row, u in next_nodes.items() for _ in u]
    visited = ctx.engine.pairs(
        path, nodes, list(zip(pairs, range(len(pairs)), strict=True)), ctx.clean
    )
    results = [(token_integrand(path, rows), rows.scores.double()) for rows in visited]
    # Brought to the host when all have been asked for: until then a GPU is not waited for.
    integrands = torch.cat([integrand for integrand, _ in results]).cpu().numpy()
    values = torch.cat([scores for _, scores in results]).cpu().numpy()
    places = np.array(pairs)
    return {row: (integrands[places == row], values[places == row]) for row in next_nodes}


def _attribution(
    ctx: Context, path: StraightPath, steps: Sequence[Step], tolerance: float, width: int
) -> Attribution:
    scores = torch.from_numpy(np.stack([step.scores for step in steps]))
    dtype = str(ctx.embeddings.dtype).removeprefix("torch.")
    error = np.array([max(step.error, step.gap) for step in steps])
    return Attribution(
        scores=scores * ctx.batch.mask.cpu(),
        n_gradients=np.array([step.n for step in steps]),
        total=scores.sum(1),
        difference=ctx.path_difference(path).double().cpu(),
        convergence=Convergence(
            error=error,
            converged=error <= tolerance,
            reasons=tuple(
                None if worst <= tolerance else _reason(step, worst, tolerance, dtype)
                for step, worst in zip(steps, error, strict=True)
            ),
        ),
    )


def _reason(step: Step, worst: float, tolerance: float, dtype: str) -> str:
    """Why a map has not converged."""
    if math.isinf(worst):
        return f"after {step.n} gradients every score is 0, and yet the output changes on the path"
    reason = f"after {step.n} gradients the error may be {worst:.3g} of the largest score, not {tolerance:g}"
    return reason if worst > step.floor else f"{reason}, by the rounding of {dtype} alone"
