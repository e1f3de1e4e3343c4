"""How far Captum must be from exact arithmetic: the tolerance of the comparison, derived and not chosen.

Captum rounds its quadrature weights to float32, and takes the nodes of its Riemann rules from a float32 linspace,
whatever the type of the model. A weight w_s is then off by at most u |w_s|, u = 2^-24, and a node by at most two
roundings, 2u. To first order the score of a token, Σ_s w_s c_s with c_s = Σ_d (x - x')_d ∂_d F at node s, moves by at
most u Σ_s |w_s c_s| + 2u Σ_s |w_s dc_s/dα|. For a norm of the D products the same holds with Σ_d |·| in c_s.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods import METHODS
from saliency_bench.attribution.methods.base import GradientSum
from saliency_bench.attribution.moments import gradient
from saliency_bench.attribution.reduction import reduce_scores
from saliency_bench.rows import Setting

#: Half a unit in the last place of float32 at 1.
UNIT_ROUNDOFF = 2.0**-24

#: What reordered sums may differ by, relative to a text's largest score: the library's own promise by type.
REORDERING = {torch.float64: 1e-12, torch.float32: 2e-5}


def relative_tolerance(ctx: Context, setting: Setting) -> Float[np.ndarray, " B"]:
    """The largest difference to Captum that rounding explains, relative to each text's largest score.

    Methods off the path have weights that Captum does not round: what is left is the order of sums.
    """
    floor = REORDERING.get(ctx.embeddings.dtype, float(torch.finfo(ctx.embeddings.dtype).eps * 100))
    tolerance = np.full(len(ctx.batch), floor)
    if ctx.embeddings.dtype != torch.float64:
        return tolerance  # the rounding of the weights drowns in that of the model
    plan = METHODS.call(setting.method, ctx, setting.hyper)
    if not isinstance(plan, GradientSum) or plan.multiplier is None or len(plan.nodes) == 1:
        return tolerance
    products = _gradients(ctx, plan) * plan.multiplier  # [S B T D]
    contributions = products.sum(-1) if setting.reduction == "sum" else products.abs().sum(-1)
    bound = np.asarray(contributions.abs().cpu()) + 2 * _slope(
        plan, np.asarray(contributions.cpu())
    )
    weights = torch.tensor(plan.weights, dtype=torch.float64, device=products.device)
    total = torch.einsum("s,sbtd->btd", weights, products)
    scores = reduce_scores(setting.reduction, total, ctx.embeddings, ctx.batch.mask).abs().amax(-1)
    moved = np.einsum("s,sbt->bt", np.abs(plan.weights), bound).max(-1)
    size = np.asarray(scores.cpu())
    # A text that is its own baseline has no scores, and nothing that could move.
    tolerance += UNIT_ROUNDOFF * np.divide(moved, size, out=np.zeros_like(moved), where=size > 0)
    return tolerance


def _gradients(ctx: Context, plan: GradientSum) -> Float[Tensor, "S B T D"]:
    one_each = torch.eye(len(plan.nodes), dtype=torch.float64)
    sums = ctx.engine.weighted_sums(plan.points, plan.nodes, {gradient: one_each}, ctx.clean)
    return sums[gradient]


def _slope(
    plan: GradientSum, contributions: Float[np.ndarray, "S B T"]
) -> Float[np.ndarray, "S B T"]:
    """|dc/dα| at each node: the steeper of the secants to its neighbours."""
    secants = np.abs(np.diff(contributions, axis=0)) / np.diff(plan.nodes)[:, None, None]
    return np.maximum(
        np.pad(secants, ((1, 0), (0, 0), (0, 0))), np.pad(secants, ((0, 1), (0, 0), (0, 0)))
    )
