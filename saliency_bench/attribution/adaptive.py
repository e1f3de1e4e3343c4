"""Integrated Gradients to a stated accuracy: points where an example needs them, until its own error is small.

What is known for nothing makes the error visible: F at every node that was visited. The token integrands c_t sum to
dF/dα, so over each cell between two nodes Σ_t ∫ c_t must be the difference of F; what the spline through the visited
nodes gives instead is that cell's residual. Residuals say where to refine, and, all together, how far to trust.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.density import Density, cells, middles, refined
from saliency_bench.attribution.gradient import Rows
from saliency_bench.attribution.points import StraightPath
from saliency_bench.types import Attribution, Convergence

#: Nodes of the first round at a tolerance of 1 %, besides the input itself; they grow with tolerance^(-1/4).
FIRST_ROUND = 12

#: The estimate of the error is SAFETY × min(round, 4) × the root of the sum of squared residuals, in units of the
#: largest score. Chosen on 100 training sentences of the bundled data (mask and zero baselines, five random
#: divisions into 24 for the density and 76 for the test) so that at least 95 % of the errors stay below it where
#: refinement stops at 1 %. It grows with the round since each round places nodes where the residual was, which
#: lowers the residual faster than the error.
SAFETY = 0.45


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
    rounds: int = 0

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
        self.rounds += 1
        return self._step()

    def next_nodes(self, n_more: int) -> Float[np.ndarray, " N"]:
        """Where to look further, in u."""
        return refined(self.u, self._residuals(), n_more)

    def _step(self) -> Step:
        weights = cells(self.u).sum(0)
        # The spline's weights are exact for constants in u; in α they are made so.
        scores = weights @ self.integrands
        scores = scores / float(weights @ self.density.stretch(self.density.alpha(self.u)))
        size = float(np.abs(scores).max(initial=0.0)) or 1.0
        factor = SAFETY * min(self.rounds, 4)
        error = factor * float(np.linalg.norm(self._residuals())) / size
        gap = abs(float(scores.sum()) - (self.end - self.start)) / size
        # A residual is the difference of two values of F, each rounded, over each of the cells.
        rounding = self.epsilon * float(np.abs([*self.values, self.start]).max())
        floor = factor * rounding * len(self.u) ** 0.5 / size
        return Step(scores, error, gap, len(self.u), floor)

    def _residuals(self) -> Float[np.ndarray, " C"]:
        known = np.diff(np.concatenate([[self.start], self.values, [self.end]]))
        return np.asarray(np.abs(known - cells(self.u) @ self.integrands.sum(1)))


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
        asked = {
            row: working[row].next_nodes(n_more) if row in steps else middles(n_more)
            for row in waiting
        }
        for row, found in _visit(ctx, path, density, asked).items():
            steps[row] = working[row].add(asked[row], *found)
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
    asked: dict[int, Float[np.ndarray, " N"]],
) -> dict[int, tuple[Float[np.ndarray, "N T"], Float[np.ndarray, " N"]]]:
    """Token integrands and F at each example's own nodes."""
    nodes = [float(alpha) for u in asked.values() for alpha in density.alpha(u)]
    if not nodes:
        return {row: (np.zeros((0, ctx.embeddings.shape[1])), np.zeros(0)) for row in asked}
    pairs = [row for row, u in asked.items() for _ in u]
    visited = ctx.engine.pairs(
        path, nodes, list(zip(pairs, range(len(pairs)), strict=True)), ctx.clean
    )
    found = [(token_integrand(path, rows), rows.scores.double()) for rows in visited]
    # Brought to the host when all have been asked for: until then a GPU is not waited for.
    integrands = torch.cat([integrand for integrand, _ in found]).cpu().numpy()
    values = torch.cat([scores for _, scores in found]).cpu().numpy()
    places = np.array(pairs)
    return {row: (integrands[places == row], values[places == row]) for row in asked}


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
                None
                if worst <= tolerance
                else f"after {step.n} gradients the error may be {worst:.3g} of the largest score, not {tolerance:g}"
                + ("" if worst > step.floor else f", by the rounding of {dtype} alone")
                for step, worst in zip(steps, error, strict=True)
            ),
        ),
    )
