"""Captum's layer methods: Captum is given token ids and the embedding layer, whose output it replaces."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saliency_bench.attribution.captum import LAYER_METHODS, inputs, lacks, paid, refuse, steps
from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods.base import Values
from saliency_bench.models.intake import captured
from saliency_bench.models.references import TOKENS
from saliency_bench.models.tasks.scores import output_of


@LAYER_METHODS.register
def integrated_gradients(
    ctx: Context, *, baseline: str, baseline_special_tokens: str, n_steps: int, quadrature: str
) -> Values:
    """`LayerIntegratedGradients` of the embedding layer, from the ids of a text to those of its baseline.

    Captum runs the baseline's ids through the model once to see what the layer makes of them. On the path between
    the two outputs the real ids stay in place, and with them position ids and pooling.
    """
    from captum.attr import LayerIntegratedGradients

    refuse(lacks("captum_layer", {"baseline": baseline}))
    score = _score_of_ids(ctx)
    refuse(_no_layer_of_captums(ctx, score))
    path = ctx.path(baseline, baseline_special_tokens)
    layer = LayerIntegratedGradients(score, ctx.references.model.embedding)
    values = layer.attribute(
        inputs=ctx.batch.input_ids,
        baselines=_baseline_ids(ctx, baseline, baseline_special_tokens),
        additional_forward_args=inputs(ctx)["additional_forward_args"],
        **steps(ctx, quadrature, n_steps),
    )
    return Values(values, paid(quadrature, n_steps), ctx.path_difference(path))


def _baseline_ids(ctx: Context, baseline: str, special_tokens: str) -> Int[Tensor, "B T"]:
    """The ids that a path from a token baseline starts at: the real ones wherever nothing moves."""
    model, batch = ctx.references.model, ctx.batch
    moved = batch.attributable if special_tokens == "keep" else batch.mask
    token = getattr(model.tokenizer, TOKENS[baseline])
    return batch.input_ids.masked_fill(moved, token)


def _score_of_ids(ctx: Context) -> Callable[[Tensor, Tensor], Tensor]:
    """F as a function of token ids [R T] and of each row's example, for an embedding layer that Captum hooks."""
    model, batch = ctx.references.model, ctx.batch

    def score(ids: Int[Tensor, "R T"], rows: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
        mask = batch.mask[rows] if batch.padded else None
        types = None if batch.token_type_ids is None else batch.token_type_ids[rows]
        logits = model.output(ids, mask, types, extra=batch.extra_of(rows))
        return output_of(model, ctx.output)(batch.read(logits, rows), ctx.target[rows])

    return score


def _no_layer_of_captums(ctx: Context, score: Callable[[Tensor, Tensor], Tensor]) -> str | None:
    """Why Captum, which replaces whatever the embedding layer gives, would explain another function than ours."""
    model, ids = ctx.references.model, ctx.batch.input_ids[:1]
    with captured(model.embedding) as seen:
        score(ids, torch.zeros(1, dtype=torch.long, device=ids.device))
    if len(seen) != 1 or model.intake.echoes:
        how = "asks for embeddings more than once in a pass, and Captum replaces one alone, or all alike"
    elif not isinstance(seen[0], Tensor) or seen[0].shape[:2] != ids.shape:
        how = "has an embedding layer whose output is not [B T D]"
    elif seen[0]._version:
        how = "changes its embeddings in place"
    else:
        return None
    return f"backend=captum_layer: {model.name} {how}. Use backend=captum."
