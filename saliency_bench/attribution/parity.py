"""The tolerance of the comparison with Captum, derived from rounding.

All numbers are relative to the largest score of a text. u is half a unit in the last place of float32 at 1, ε the same
for the model's type. A tolerance is the sum of those of the following terms that apply:

1. The order of sums, r: the largest difference between any two batchings (`REORDERING`). It is the only term for methods
   in which Captum rounds no weights: the gradient, its products with the input, means over noise, and GradientShap, whose
   random positions have the type of the input.
2. Rounded quadrature, in float64 (in float32 it is small beside r). Captum rounds its weights to float32 whatever the
   type of the model, and takes the nodes of its Riemann rules from a float32 linspace: a weight w_s has an error of at
   most u |w_s|, a node of at most 2u. Its Gauss-Legendre nodes are float64. With c_s the contribution of node s to a token
   (Σ_d (x - x')_d ∂_d F for a signed sum, each dimension by itself for a norm), a score changes, to first order, by at
   most u Σ_s |w_s c_s| + 2u Σ_s |w_s dc_s/dα|. The derivative is taken by a difference quotient.
   In a noise tunnel the value v_i of each sample changes by such a p_i, hence the mean of v by at most E p, the mean of
   v² by 2 E |v| p, and the variance by 2 E |v - E v| p.
3. Cancellation in E v² - (E v)², the formula of the noise tunnel for the variance of n samples. The first term has up to
   n + 1 roundings, the second 2n + 1, and the difference one: together at most 3 (n + 2) ε E v². Our variance is taken
   about a point among the samples, where less cancels. It gets the same bound, so that both have 6 (n + 2) ε E v².
   The rounding ρ of the gradients themselves changes a variance V by 2 ρ sqrt(V E v²). By the inequality of arithmetic
   and geometric means this is covered by 1 and 3 as long as ρ² < 6 (n + 2) r ε: for n = 4 if ρ is below 6e-14 in float64
   and 6e-6 in float32.
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

#: The largest difference between sums in two orders, relative to a text's largest score, that this package promises.
REORDERING = {torch.float64: 1e-12, torch.float32: 2e-5}

#: The step of the difference quotient, as a fraction of the path. Its truncation error is proportional to the step, its
#: rounding error to the rounding of float64 divided by the step.
STEP = 2.0**-17


def relative_tolerance(
    ctx: Context, setting: Setting, *, copied: bool = False
) -> Float[np.ndarray, " B"]:
    """The largest difference to Captum that rounding explains, relative to each text's largest score.

    With `copied` it is the tolerance for the numbers of `in_captums_rounding`, to which term 2 does not apply.
    """
    dtype = ctx.embeddings.dtype
    promised = REORDERING.get(dtype, float(torch.finfo(dtype).eps * 100))
    tolerance = np.full(len(ctx.batch), promised)
    plan = METHODS.call(setting.method, ctx, setting.hyper)
    if isinstance(plan, GradientSum | Expectation):
        on_path = isinstance(plan.points, StraightPath | NoisyPaths)
        rounded = not copied and on_path and dtype == torch.float64
        if rounded or _cancels(plan):
            tolerance += [
                _terms_2_and_3(ctx, setting, plan, example, rounded)
                for example in range(len(ctx.batch))
            ]
    return tolerance


def in_captums_rounding(ctx: Context, setting: Setting) -> Attribution:
    """Our attribution at the nodes and with the weights that Captum rounds, so that only the order of sums differs."""
    with captum.standing_in(paths, rule=in_this_thread(captum.rounded_rule, quadrature)):
        return explain(ctx, [setting])[setting.id]


def has_rounded_weights(setting: Setting) -> bool:
    """Whether Captum rounds the weights of this setting's quadrature."""
    return "quadrature" in setting.hyper


def _cancels(plan: Plan) -> bool:
    """Whether the plan takes a variance."""
    return VARIANCE in (plan.moment, _across(plan))


def _across(plan: Plan) -> Any:
    return plan.across if isinstance(plan, Expectation) else None


def _terms_2_and_3(
    ctx: Context, setting: Setting, plan: Plan, example: int, rounded: bool
) -> float:
    """The sum of terms 2 (if `rounded`) and 3 for one text, relative to its largest score."""
    # Dimensions are summed first for a signed sum, since Captum rounds the weights of all dimensions alike.
    summed = setting.reduction == "sum" and not _cancels(plan) and _across(plan) is None
    rule = setting.hyper["quadrature"] if rounded else None
    pairs = [_value(ctx, plan.points, draw, example, rule, summed) for draw in _draws(plan)]
    values, errors = (torch.stack(side) for side in zip(*pairs, strict=True))  # [N T D]
    mean = values.mean(0)
    if _cancels(plan):
        value = (values - mean).square().mean(0)
        epsilon = torch.finfo(ctx.embeddings.dtype).eps / 2
        cancelled = 6 * (len(pairs) + 2) * epsilon * values.square().mean(0)
        error = 2 * ((values - mean).abs() * errors).mean(0) + cancelled
    elif _across(plan) is SQUARE:
        value, error = values.square().mean(0), 2 * (values.abs() * errors).mean(0)
    else:
        value, error = mean, errors.mean(0)
    size, largest = _largest(setting.reduction, value), _largest(setting.reduction, error)
    # A text that equals its baseline has scores of 0, without rounding errors.
    return float(largest / size) if size else 0.0


def _largest(reduction: str, values: Float[Tensor, "T D"]) -> float:
    """The largest magnitude of a token's score."""
    return float(REDUCTIONS[reduction](values[None], values[None]).abs().max())


def _draws(plan: Plan) -> Iterator[Sequence[tuple[Any, float]]]:
    """The nodes and weights of each draw, or those of the one sum if nothing is drawn."""
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
    """The value of one draw, and the error that the rounding of its quadrature rule may cause (0 without a rule).

    D is 1 if the dimensions are summed first.
    """
    nodes = [node for node, _ in draw]
    weights = torch.tensor([weight for _, weight in draw], dtype=torch.float64)[:, None, None]
    values = _values(ctx, points, nodes, example, summed)
    errors = torch.zeros_like(values)
    if rule is not None:
        errors = UNIT_ROUNDOFF * values.abs()
    if rule not in (None, "gauss_legendre"):
        shifted = [(node, STEP) for node in nodes]
        slopes = (_values(ctx, Shifted(points), shifted, example, summed) - values).abs() / STEP
        errors += 2 * UNIT_ROUNDOFF * slopes
    return (weights * values).sum(0), (weights.abs() * errors).sum(0)


def _values(
    ctx: Context, points: Points, nodes: Sequence[Any], example: int, summed: bool
) -> Float[Tensor, "S T D"]:
    """The gradient at each node of one example, times its displacement if it is on a path."""
    values = _gradients(ctx, points, nodes, example)
    if not isinstance(points, NoiseCloud):
        rows = torch.full((len(nodes),), example, device=ctx.embeddings.device)
        values = values * points.displacement(rows, nodes).cpu().double()
    return values.sum(-1, keepdim=True) if summed else values


def _gradients(
    ctx: Context, points: Points, nodes: Sequence[Any], example: int
) -> Float[Tensor, "S T D"]:
    """The gradients at one example's nodes, on the host in float64."""
    gradients = torch.zeros(len(nodes), *ctx.embeddings.shape[1:], dtype=torch.float64)
    for rows in ctx.engine.rows(points, nodes, ctx.clean, [example]):
        gradients[list(rows.nodes)] = rows.gradients.cpu().double()
    return gradients


@dataclass(frozen=True)
class Shifted(Points):
    """Points of paths, shifted along them: nodes are (node of the path, shift as a fraction of the path)."""

    points: Points

    @property
    def key(self) -> Hashable:  # type: ignore[override]
        """The key of the paths, marked."""
        return "shifted", self.points.key

    def at(
        self, row_example: Int[Tensor, " R"], nodes: Sequence[tuple[Any, float]]
    ) -> Float[Tensor, "R T D"]:
        """The shifted points."""
        alphas = [node for node, _ in nodes]
        shifts = torch.tensor([shift for _, shift in nodes], device=row_example.device)
        moved = shifts[:, None, None] * self.points.displacement(row_example, alphas)
        return self.points.at(row_example, alphas) + moved

    def displacement(
        self, row_example: Int[Tensor, " R"], nodes: Sequence[tuple[Any, float]]
    ) -> Float[Tensor, "R T D"]:
        """The displacement of the paths."""
        return self.points.displacement(row_example, [node for node, _ in nodes])
