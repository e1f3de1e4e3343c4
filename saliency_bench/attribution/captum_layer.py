"""Captum's layer methods: Captum gets token ids and replaces the output of the embedding layer."""

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
    """`LayerIntegratedGradients` of the embedding layer, from the ids of the baseline to those of the text.

    Captum runs the baseline's ids through the model once to get the layer's output for them. On the path between the two
    outputs the model receives the text's ids, so that position ids and pooling stay as they are.

    Raises:
        InputError: the baseline is no token, or Captum cannot replace the output of this model's embedding layer.
    """
    from captum.attr import LayerIntegratedGradients

    refuse(lacks("captum_layer", {"baseline": baseline}))
    model, score = ctx.references.model, _score_of_ids(ctx)
    refuse(_lacks_layer(ctx, score))
    path = ctx.path(baseline, baseline_special_tokens)
    layer = LayerIntegratedGradients(score, model.embedding)
    token = getattr(model.tokenizer, TOKENS[baseline])
    values = layer.attribute(
        inputs=ctx.batch.input_ids,
        baselines=ctx.batch.input_ids.masked_fill(ctx.moved(baseline_special_tokens), token),
        additional_forward_args=inputs(ctx)["additional_forward_args"],
        **steps(ctx, quadrature, n_steps),
    )
    return Values(values, paid(quadrature, n_steps), ctx.path_difference(path))


def _score_of_ids(ctx: Context) -> Callable[[Tensor, Tensor], Tensor]:
    """F as a function of token ids and each row's example, for Captum to call with its hook on the embedding layer."""
    model, batch = ctx.references.model, ctx.batch

    def score(ids: Int[Tensor, "R T"], rows: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
        mask = batch.mask[rows] if batch.padded else None
        types = None if batch.token_type_ids is None else batch.token_type_ids[rows]
        logits = model.output(ids, mask, types, extra=batch.extra_of(rows))
        return output_of(model, ctx.output)(batch.read(logits, rows), ctx.target[rows])

    return score


def _lacks_layer(ctx: Context, score: Callable[[Tensor, Tensor], Tensor]) -> str | None:
    """The reason for which Captum, replacing the layer's output, would explain another function; None if there is none."""
    model, ids = ctx.references.model, ctx.batch.input_ids[:1]
    with captured(model.embedding) as outputs:
        score(ids, torch.zeros(1, dtype=torch.long, device=ids.device))
    if len(outputs) != 1 or model.intake.echoes:
        reason = "calls its embedding layer more than once in a pass, and Captum replaces one output, or all by the same vectors"
    elif not isinstance(outputs[0], Tensor) or outputs[0].shape[:2] != ids.shape:
        reason = "has an embedding layer whose output is not [B T D]"
    elif outputs[0]._version:
        reason = "changes its embeddings in place"
    else:
        return None
    return f"backend=captum_layer: {model.name} {reason}. Use backend=captum."
