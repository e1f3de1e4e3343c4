"""The methods, ours: each says which gradients it adds up and how, and nothing else.

Adding one is one function here (or in an installed package, entry point group `saliency_bench.methods`) and one
yaml in conf/method/.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saliency_bench.attribution import quadrature as rules
from saliency_bench.attribution.context import Context
from saliency_bench.attribution.points import Input, Points
from saliency_bench.registry import Registry
from saliency_bench.seeding import generator_for, token_hash
from saliency_bench.tasks import sequence_classification as task
from saliency_bench.types import Attribution


@dataclass(frozen=True)
class GradientSum:
    """multiplier ⊙ Σ_s weights[s] ∇F(points at nodes[s]): what a gradient method is.

    `difference` is F(x) - F(x') where the method claims that its scores sum to it (completeness).
    """

    points: Points
    nodes: Sequence[Any]
    weights: Sequence[float]
    multiplier: Float[Tensor, "B T D"] | None = None
    difference: Float[Tensor, " B"] | None = None


Method = Callable[..., GradientSum | Attribution]
METHODS: Registry[Method] = Registry("method", "saliency_bench.methods")

#: What a method's raw values are, which decides how they may be reduced to one number per token:
#: "gradient" (nothing multiplied in), "product" (the input multiplied in), "token" (one number already).
KINDS: dict[str, str] = {}


def method(kind: str) -> Callable[[Method], Method]:
    """Registers a method under its function's name."""

    def register(function: Method) -> Method:
        KINDS[function.__name__] = kind
        return METHODS.add(function.__name__, function)

    return register


@method("gradient")
def vanilla(ctx: Context) -> GradientSum:
    """∇F(x) (Simonyan, Vedaldi & Zisserman 2014, section 3)."""
    return GradientSum(Input(ctx.embeddings), nodes=(1.0,), weights=(1.0,))


@method("product")
def input_x_gradient(ctx: Context) -> GradientSum:
    """X ⊙ ∇F(x) (Shrikumar et al. 2016, section 2)."""
    return GradientSum(
        Input(ctx.embeddings), nodes=(1.0,), weights=(1.0,), multiplier=ctx.embeddings
    )


@method("gradient")
def smoothgrad(
    ctx: Context, *, n_samples: int, noise_std: float, noise_special_tokens: bool
) -> GradientSum:
    """(1/n) Σ ∇F(x + ε), ε ~ N(0, σ² I) (Smilkov et al. 2017, section 3).

    The gradient, not its magnitude, is averaged. `noise_std` is σ in standard deviations of the model's
    embedding matrix (the paper's unit is the range of the input, which outlier dimensions set in transformers).
    """
    std = noise_std * ctx.embedding_std
    nodes = [(std, sample) for sample in range(n_samples)]
    return GradientSum(
        ctx.noise_cloud(noise_special_tokens), nodes, weights=[1 / n_samples] * n_samples
    )


@method("product")
def integrated_gradients(
    ctx: Context, *, baseline: str, baseline_special_tokens: str, n_steps: int, quadrature: str
) -> GradientSum:
    """(x - x') ⊙ ∫ ∇F(x' + α (x - x')) dα (Sundararajan, Taly & Yan 2017, eq. 1)."""
    path = ctx.path(baseline, baseline_special_tokens)
    nodes, weights = rules.quadrature(quadrature, n_steps)
    moved = path.embeddings - path.reference
    return GradientSum(path, nodes, weights, moved, ctx.path_difference(path))


@method("token")
def random(ctx: Context, *, n_rankings: int) -> Attribution:
    """Uniform scores, as many draws as asked for: what any ranking must beat.

    Draws belong to the text and the seed, so all settings of a study meet the same random rankings.
    """
    draws = torch.zeros(n_rankings, *ctx.batch.mask.shape, dtype=torch.float64)
    for row, item in enumerate(ctx.batch.encoded):
        for draw in range(n_rankings):
            stream = generator_for("cpu", "random", ctx.seed, token_hash(item.input_ids), draw)
            draws[draw, row, : len(item)] = torch.rand(
                len(item), generator=stream, dtype=torch.float64
            )
    draws *= ctx.batch.attributable.cpu()
    return Attribution(scores=draws[0], n_gradients=0, draws=draws)


@method("token")
def leave_one_out(ctx: Context, *, removal: str) -> Attribution:
    """F(x) - F(x without the token), for every token that is not special (Li, Monroe & Jurafsky 2016, eq. 4)."""
    attributable = ctx.batch.attributable.cpu().numpy()
    scores = torch.zeros(attributable.shape, dtype=torch.float64)
    if not attributable.any():
        return Attribution(scores=scores, n_gradients=0)
    asked = [(row, token) for row, token in np.argwhere(attributable)]
    examples = np.array([row for row, _ in asked], dtype=int)
    keep = [
        np.arange(length) != token
        for (_, token), length in zip(asked, np.array(ctx.batch.lengths)[examples], strict=True)
    ]
    logits = torch.as_tensor(ctx.probe(removal)(examples, keep))
    read = task.output_of(ctx.references.model, ctx.output)
    without = read(logits, ctx.target.cpu()[examples])
    for (row, token), score in zip(asked, without.tolist(), strict=True):
        scores[row, token] = float(ctx.clean_score[row]) - score
    return Attribution(scores=scores, n_gradients=0)
