"""The numbers of AllenNLP Interpret and of koren-v/Interpret, from their formulas, faults included.

Both explain the cross-entropy of a class, sum over the embedding's dimensions, and divide magnitudes by their sum over
all tokens, special ones included (Wallace et al. 2019, AllenNLP Interpret). They are here to be compared with, not to be
used: docs/ancestors.md says what is wrong with them. Random draws are ours, since theirs are not seeded.
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

#: What the gradient is multiplied with: each token's own embedding, or that of the first token for all.
MULTIPLIERS = ("own", "first")

OWN = "it is another system's method, which knows no backward rules"


@method(
    "token",
    label="AllenNLP SimpleGradient",
    signed=False,
    explains_output=False,
    own_gradient=OWN,
)
def allennlp_simple_gradient(ctx: Context, *, multiplied_by: str) -> Attribution:
    """|Σ_d g e|, divided by its sum over tokens.

    AllenNLP multiplies with each token's embedding as intended (`own`), and up to version 1.2.0; since 1.2.1 an index into a
    tensor that has lost its batch dimension takes the `first` token's for all.
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
    own_gradient=OWN,
)
def allennlp_smooth_gradient(
    ctx: Context, *, n_samples: int, stdev: float, relabel: bool
) -> Attribution:
    """|Σ_d mean g(e + ε)|, divided by its sum; ε ~ N(0, (stdev · (max e - min e))²), on special tokens too.

    The gradient is not multiplied with the input. With LayerNorm after the embedding Σ_d g is 0 exactly, so that the
    scores are rounding noise. `relabel`: see `allennlp_integrated_gradient`.
    """
    embeddings, mask = ctx.embeddings, ctx.batch.mask
    real = [row[own] for row, own in zip(embeddings, mask, strict=True)]
    sigma = torch.stack([stdev * (own.max() - own.min()) for own in real])[:, None, None]
    total = torch.zeros_like(embeddings)
    for sample in range(n_samples):
        noise = torch.zeros(embeddings.shape, dtype=torch.float64)
        for row, (name, own) in enumerate(zip(ctx.hashes, real, strict=True)):
            stream = generator_for("cpu", "allennlp", ctx.seed, name, sample)
            noise[row, : len(own)] = torch.randn(own.shape, generator=stream, dtype=torch.float64)
        total += _loss_gradient(ctx, embeddings + sigma * noise.to(embeddings), relabel)
    return _normalised(ctx, total / n_samples, n_samples)


@method(
    "token",
    label="AllenNLP IntegratedGradient",
    signed=False,
    explains_output=False,
    own_gradient=OWN,
)
def allennlp_integrated_gradient(ctx: Context, *, n_steps: int, relabel: bool) -> Attribution:
    """|Σ_d e ⊙ mean g(α e)|, divided by its sum; α = 0, 1/n, ..., 1 - 1/n: the left rule from zero vectors.

    `relabel`: each gradient is that of the class predicted at its own point, as in koren-v/Interpret since August 2020, so
    that several losses are integrated where the class changes on the way. Otherwise the class of the clean text is fixed.
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
    """Magnitudes of the sums over dimensions that add up to 1 over the tokens that are real."""
    size = values.double().sum(-1).abs() * ctx.batch.mask
    return Attribution(scores=size / size.sum(-1, keepdim=True), n_gradients=n_gradients)
