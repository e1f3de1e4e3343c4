"""The methods of AllenNLP Interpret and of koren-v/Interpret, including their faults, for comparison.

Both explain the cross-entropy of a class, sum over the embedding's dimensions, and divide magnitudes by their sum over
all tokens, special ones included (Wallace et al. 2019, AllenNLP Interpret). docs/ancestors.md describes their faults.
Random draws are ours, since theirs are not seeded.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods.base import method
from saliency_bench.core.errors import InputError
from saliency_bench.core.random import generator_for
from saliency_bench.core.tensors import Attribution, at_least_float32
from saliency_bench.models.tasks.scores import logits_fn

#: The factor of the gradient: each token's own embedding, or that of the first token for all tokens.
MULTIPLIERS = ("own", "first")

NO_RULE = "it reproduces another system, which has no backward rules"


@method(
    "token",
    label="AllenNLP SimpleGradient",
    signed=False,
    explains_output=False,
    no_rule=NO_RULE,
)
def allennlp_simple_gradient(ctx: Context, *, multiplied_by: str) -> Attribution:
    """|Σ_d g e|, divided by its sum over tokens.

    Up to version 1.2.0 AllenNLP multiplies by each token's own embedding, as intended (`own`). Since 1.2.1 it multiplies
    by the embedding of the `first` token for all tokens, by an index into a tensor that has lost its batch dimension.
    """
    embeddings = ctx.embeddings
    gradient = _loss_gradient(ctx, embeddings, relabel=False)
    factor = embeddings if multiplied_by == "own" else embeddings[:, :1].expand_as(embeddings)
    return _normalised(ctx, gradient * factor, 1)


@method(
    "token",
    label="AllenNLP SmoothGradient",
    signed=False,
    explains_output=False,
    no_rule=NO_RULE,
)
def allennlp_smooth_gradient(
    ctx: Context, *, n_samples: int, stdev: float, relabel: bool
) -> Attribution:
    """|Σ_d mean g(e + ε)|, divided by its sum; ε ~ N(0, (stdev · (max e - min e))²), on special tokens too.

    The gradient is not multiplied by the input. With LayerNorm after the embedding Σ_d g is exactly 0, so that the scores
    are rounding noise. `relabel`: see `allennlp_integrated_gradient`.
    """
    embeddings = ctx.embeddings
    texts = [row[mask] for row, mask in zip(embeddings, ctx.batch.mask, strict=True)]
    sigma = torch.stack([stdev * (text.max() - text.min()) for text in texts])[:, None, None]
    total = torch.zeros_like(embeddings)
    for sample in range(n_samples):
        noise = torch.zeros(embeddings.shape, dtype=torch.float64)
        for row, (name, text) in enumerate(zip(ctx.hashes, texts, strict=True)):
            stream = generator_for("cpu", "allennlp", ctx.seed, name, sample)
            noise[row, : len(text)] = torch.randn(text.shape, generator=stream, dtype=torch.float64)
        total += _loss_gradient(ctx, embeddings + sigma * noise.to(embeddings), relabel)
    return _normalised(ctx, total / n_samples, n_samples)


@method(
    "token",
    label="AllenNLP IntegratedGradient",
    signed=False,
    explains_output=False,
    no_rule=NO_RULE,
)
def allennlp_integrated_gradient(ctx: Context, *, n_steps: int, relabel: bool) -> Attribution:
    """|Σ_d e ⊙ mean g(α e)|, divided by its sum; α = 0, 1/n, ..., 1 - 1/n: the left rule from zero vectors.

    With `relabel` each gradient is that of the class predicted at its own point, as in koren-v/Interpret since August
    2020, so that different losses are integrated if the class changes on the path. Without it the class is that of the
    clean text.
    """
    embeddings = ctx.embeddings
    total = torch.zeros_like(embeddings)
    for step in range(n_steps):
        total += _loss_gradient(ctx, embeddings * (step / n_steps), relabel)
    return _normalised(ctx, total / n_steps * embeddings, n_steps)


def _loss_gradient(
    ctx: Context, points: Float[Tensor, "B T D"], relabel: bool
) -> Float[Tensor, "B T D"]:
    """The gradient of the cross-entropy of the target, or of the class predicted at the points themselves."""
    if ctx.target.ndim > 1:
        raise InputError("these systems explain one class, not a contrast: target=predicted")
    points = at_least_float32(points.detach()).requires_grad_()
    rows = torch.arange(len(points), device=points.device)
    with torch.enable_grad():
        logits = logits_fn(ctx.references.model, ctx.batch)(points, rows)
        label = logits.argmax(-1) if relabel else ctx.target
        loss = functional.cross_entropy(logits, label, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, points)
    return gradient


def _normalised(ctx: Context, values: Float[Tensor, "B T D"], n_gradients: int) -> Attribution:
    """The magnitudes of the sums over dimensions, divided by their sum over all tokens but padding."""
    size = values.double().sum(-1).abs() * ctx.batch.mask
    return Attribution(scores=size / size.sum(-1, keepdim=True), n_gradients=n_gradients)
