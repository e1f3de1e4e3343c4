"""Settings to attributions: the settings of a batch that use the same points share their gradients."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saliency_bench.attribution import captum
from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods import METHODS, GradientSum
from saliency_bench.attribution.reduction import reduce_scores
from saliency_bench.rows import Setting
from saliency_bench.types import Attribution


def explain(ctx: Context, settings: Sequence[Setting]) -> Mapping[str, Attribution]:
    """The attribution of every setting, by setting id.

    Native gradient sums are planned first and then computed one family of points at a time, over the union of
    the nodes that their settings ask for.
    """
    found: dict[str, Attribution] = {}
    planned: dict[object, list[tuple[Setting, GradientSum]]] = {}
    for setting in settings:
        if setting.backend == "captum":
            found[setting.id] = captum.attribute(ctx, setting)
            continue
        made = METHODS[setting.method](ctx, **setting.hyper)
        if isinstance(made, Attribution):
            found[setting.id] = made
        else:
            planned.setdefault(made.points.key, []).append((setting, made))
    for family in planned.values():
        found |= _compute(ctx, family)
    return {setting.id: found[setting.id] for setting in settings}


def _compute(ctx: Context, family: Sequence[tuple[Setting, GradientSum]]) -> dict[str, Attribution]:
    """All settings of one family of points, from one pass over the union of their nodes."""
    nodes = sorted({node for _, plan in family for node in plan.nodes}, key=_sample_first)
    column = {node: index for index, node in enumerate(nodes)}
    weights = np.zeros((len(family), len(nodes)))
    for row, (_, plan) in enumerate(family):
        for node, weight in zip(plan.nodes, plan.weights, strict=True):
            weights[row, column[node]] += weight
    sums = ctx.engine.weighted_sums(
        family[0][1].points, nodes, torch.from_numpy(weights), ctx.embeddings, ctx.clean_gradient
    )
    return {
        setting.id: _finish(ctx, setting, plan, sums[row])
        for row, (setting, plan) in enumerate(family)
    }


def _sample_first(node: Any) -> Any:
    # Noise levels of one sample stand side by side, so that its draw is used while it is warm.
    return (node[1], node[0]) if isinstance(node, tuple) else node


def _finish(
    ctx: Context, setting: Setting, plan: GradientSum, values: Float[Tensor, "B T D"]
) -> Attribution:
    if plan.multiplier is not None:
        values = values * plan.multiplier
    scores = reduce_scores(setting.reduction, values, ctx.embeddings, ctx.batch.mask)
    paid = sum(weight != 0 for weight in plan.weights)
    total = None if plan.difference is None else values.double().sum((1, 2))
    return Attribution(scores, paid, total, plan.difference)
