"""How far Captum must be from exact arithmetic: the tolerance of the comparison, derived and not chosen.

All of it is relative to the largest score of a text. u is half a unit in the last place of float32 at 1, ε the same
for the model's type. A tolerance is the sum of what applies:

1. The order of sums, r: what the library promises of any two ways to batch (`REORDERING`). Nothing else applies where
   Captum rounds no weights: to the gradient, its products with the input, means over noise, and GradientShap, whose
   random positions have the type of the input.
2. Rounded quadrature, in float64 (in float32 it drowns in r). Captum rounds its weights to float32 whatever the type
   of the model, and takes the nodes of its Riemann rules from a float32 linspace: a weight w_s is off by at most
   u |w_s|, a node by at most 2u. Its Gauss-Legendre nodes are those of float64. With c_s the contribution of node s to a token
   (Σ_d (x - x')_d ∂_d F for a signed sum, and each dimension by itself for a norm), a score moves, to first order, by
   at most u Σ_s |w_s c_s| + 2u Σ_s |w_s dc_s/dα|. The derivative is a difference quotient.
   In a noise tunnel the value v_i of each sample moves by such a p_i: the mean of v by at most E p, the mean of v² by
   2 E |v| p, the variance by 2 E |v - E v| p.
3. Cancellation in E v² - (E v)², as the noise tunnel takes its variance of n samples. The first term has up to n + 1
   roundings, the second 2n + 1, and the difference one: together at most 3 (n + 2) ε E v². Our variance is taken about
   a point among the samples, where less cancels, and is granted as much: 6 (n + 2) ε E v² in all.
   The rounding ρ of the gradients themselves moves a variance V by 2 ρ sqrt(V E v²). By the inequality of arithmetic
   and geometric means that is within 1 and 3 together as long as ρ² < 6 (n + 2) r ε, so for n = 4 if ρ is below 6e-14
   in float64 and 6e-6 in float32.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saliency_bench.attribution import captum
from saliency_bench.attribution.context import Context
from saliency_bench.attribution.explain import explain
from saliency_bench.attribution.methods import METHODS, paths
from saliency_bench.attribution.methods.base import Expectation, GradientSum, Plan
from saliency_bench.attribution.points import NoiseCloud, NoisyPaths, Points, StraightPath
from saliency_bench.attribution.quadrature import quadrature
from saliency_bench.attribution.reduction import REDUCTIONS
from saliency_bench.attribution.statistics import SQUARE, VARIANCE
from saliency_bench.core.rows import Setting
from saliency_bench.core.tensors import Attribution
from saliency_bench.models.threads import in_this_thread

#: Half a unit in the last place of float32 at 1.
UNIT_ROUNDOFF = 2.0**-24

#: What reordered sums may differ by, relative to a text's largest score: the library's own promise by type.
REORDERING = {torch.float64: 1e-12, torch.float32: 2e-5}

#: How far along its path a point is moved for a difference quotient. Its own error is of this size, and the
#: rounding of float64 divided by it.
STEP = 2.0**-17


def relative_tolerance(
    ctx: Context, setting: Setting, *, copied: bool = False
) -> Float[np.ndarray, " B"]:
    """The largest difference to Captum that rounding explains, relative to each text's largest score.

    `copied`: of our numbers `in_captums_rounding`, to which 2 does not apply.
    """
    dtype = ctx.embeddings.dtype
    promised = REORDERING.get(dtype, float(torch.finfo(dtype).eps * 100))
    tolerance = np.full(len(ctx.batch), promised)
    plan = METHODS.call(setting.method, ctx, setting.hyper)
    if isinstance(plan, GradientSum | Expectation):
        rounded = not copied and _on_path(plan) and dtype == torch.float64
        if rounded or _cancels(plan):
            tolerance += [
                _forced(ctx, setting, plan, example, rounded) for example in range(len(ctx.batch))
            ]
    return tolerance


def in_captums_rounding(ctx: Context, setting: Setting) -> Attribution:
    """Our attribution at Captum's own nodes and weights, as it rounds them: then only the order of sums is left."""
    with captum.standing_in(paths, rule=in_this_thread(captum.rounded_rule, quadrature)):
        return explain(ctx, [setting])[setting.id]


def has_rounded_weights(setting: Setting) -> bool:
    """Whether Captum rounds the weights of this setting's quadrature."""
    return "quadrature" in setting.hyper


def _on_path(plan: Plan) -> bool:
    """Whether a quadrature is what is added up."""
    return isinstance(plan.points, StraightPath | NoisyPaths)


def _cancels(plan: Plan) -> bool:
    return VARIANCE in (plan.moment, _across(plan))


def _across(plan: Plan) -> Any:
    return plan.across if isinstance(plan, Expectation) else None


def _forced(ctx: Context, setting: Setting, plan: Plan, example: int, rounded: bool) -> float:
    """What 2 (where `rounded`) and 3 come to for one text, relative to its largest score."""
    # A signed sum is taken first: Captum rounds the weights of all dimensions alike.
    summed = setting.reduction == "sum" and not _cancels(plan) and _across(plan) is None
    rule = setting.hyper["quadrature"] if rounded else None
    pairs = [_value(ctx, plan.points, draw, example, rule, summed) for draw in _draws(plan)]
    values, moved = (torch.stack(side) for side in zip(*pairs, strict=True))  # [N T D]
    mean = values.mean(0)
    if _cancels(plan):
        value = (values - mean).square().mean(0)
        epsilon = torch.finfo(ctx.embeddings.dtype).eps / 2
        cancelled = 6 * (len(pairs) + 2) * epsilon * values.square().mean(0)
        off = 2 * ((values - mean).abs() * moved).mean(0) + cancelled
    elif _across(plan) is SQUARE:
        value, off = values.square().mean(0), 2 * (values.abs() * moved).mean(0)
    else:
        value, off = mean, moved.mean(0)
    size, largest = _size(setting.reduction, value), _size(setting.reduction, off)
    # A text that is its own baseline has no scores, and nothing that could move.
    return float(largest / size) if size else 0.0


def _size(reduction: str, values: Float[Tensor, "T D"]) -> float:
    """The largest score of a token."""
    return float(REDUCTIONS[reduction](values[None], values[None]).abs().max())


def _draws(plan: Plan) -> Iterator[Sequence[tuple[Any, float]]]:
    """The nodes and weights of each draw; of the one sum where nothing is drawn."""
    if isinstance(plan, Expectation):
        yield from (plan.sample(i) for i in range(plan.draws.n))
    else:
        yield list(zip(plan.nodes, plan.weights, strict=True))


def _value(
    ctx: Context,
    points: Points,
    draw: Sequence[tuple[Any, float]],
    example: int,
    rule: str | None,
    summed: bool,
) -> tuple[Float[Tensor, "T D"], Float[Tensor, "T D"]]:
    """One draw's value, and how far the rounding of its rule may move it: by nothing where there is none.

    D is 1 where the dimensions are summed first.
    """
    nodes = [node for node, _ in draw]
    weights = torch.tensor([weight for _, weight in draw], dtype=torch.float64)[:, None, None]
    values = _values(ctx, points, nodes, example, summed)
    moved = torch.zeros_like(values)
    if rule is not None:
        moved = UNIT_ROUNDOFF * values.abs()
    if rule not in (None, "gauss_legendre"):
        there = _values(ctx, Beside(points), [(node, STEP) for node in nodes], example, summed)
        moved += 2 * UNIT_ROUNDOFF * (there - values).abs() / STEP
    return (weights * values).sum(0), (weights.abs() * moved).sum(0)


def _values(
    ctx: Context, points: Points, nodes: Sequence[Any], example: int, summed: bool
) -> Float[Tensor, "S T D"]:
    """The gradient at each node, on a path times its displacement."""
    values = _gradients(ctx, points, nodes, example)
    if not isinstance(points, NoiseCloud):
        rows = torch.full((len(nodes),), example, device=ctx.embeddings.device)
        values = values * _displacement(points, rows, nodes).cpu().double()
    return values.sum(-1, keepdim=True) if summed else values


def _gradients(
    ctx: Context, points: Points, nodes: Sequence[Any], example: int
) -> Float[Tensor, "S T D"]:
    """The gradients at one example's nodes, on the host in float64."""
    gradients = torch.zeros(len(nodes), *ctx.embeddings.shape[1:], dtype=torch.float64)
    for rows in ctx.engine.rows(points, nodes, ctx.clean, [example]):
        gradients[list(rows.nodes)] = rows.gradients.cpu().double()
    return gradients


def _displacement(
    points: Points, row_example: Int[Tensor, " R"], nodes: Sequence[Any]
) -> Float[Tensor, "R T D"]:
    if isinstance(points, StraightPath):
        return (points.embeddings - points.reference)[row_example]
    return points.displacement(row_example, nodes)


@dataclass(frozen=True)
class Beside(Points):
    """Points of paths, moved along them: nodes are (node, the fraction of its path)."""

    points: Points

    @property
    def key(self) -> Hashable:  # type: ignore[override]
        """That of the paths."""
        return "beside", self.points.key

    def at(
        self, row_example: Int[Tensor, " R"], nodes: Sequence[tuple[Any, float]]
    ) -> Float[Tensor, "R T D"]:
        """The points, each moved by its fraction."""
        alphas = [node for node, _ in nodes]
        by = torch.tensor([step for _, step in nodes], device=row_example.device)
        moved = by[:, None, None] * _displacement(self.points, row_example, alphas)
        return self.points.at(row_example, alphas) + moved

    def displacement(
        self, row_example: Int[Tensor, " R"], nodes: Sequence[tuple[Any, float]]
    ) -> Float[Tensor, "R T D"]:
        """That of the paths."""
        return _displacement(self.points, row_example, [node for node, _ in nodes])
