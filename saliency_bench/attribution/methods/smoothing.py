"""SmoothGrad with noise of another size for each number, or with noise on the weights."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import fields

import torch
from jaxtyping import Float
from torch import Tensor

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods.base import Expectation, method
from saliency_bench.attribution.noise import Draws, Noise, draw
from saliency_bench.attribution.points import Draw, Input, NoiseCloud, OfOtherModel, UnevenCloud
from saliency_bench.core.random import generator_for
from saliency_bench.models.references import finite_rows
from saliency_bench.models.weights import multiplied_weights


@method("gradient", label="AdaptGrad", family="smoothgrad")
def adaptgrad(
    ctx: Context, *, draws: Draws, confidence: float, noise_special_tokens: bool
) -> Expectation:
    """E ∇F(x + ε), ε_td ~ N(0, σ_td²): SmoothGrad whose noise stays in range with probability `confidence`.

    σ_td = min(x_td - low_d, high_d - x_td) / (√2 erf⁻¹(c)), so that |ε_td| is below the distance to the nearer bound with
    probability c (Zhou et al. 2025, section 4). The paper takes the range of the data; here low_d and high_d are the
    smallest and the largest value of a dimension in the vocabulary. A number on or beyond its bound gets no noise. The
    authors' code counts the gradient at x as one more sample; it is not counted here.
    """
    from scipy.special import erfinv

    cloud = ctx.noise_cloud(noise_special_tokens)
    attributes = {field.name: getattr(cloud, field.name) for field in fields(NoiseCloud)}
    uneven = UnevenCloud(**attributes, room=_room(ctx))
    per_room = float(1 / (2**0.5 * erfinv(confidence)))
    noise = Noise(None, None, per_room, noise_special_tokens)
    return Expectation(uneven, draws, lambda i: [(draw(draws, noise, i), 1.0)])


def _room(ctx: Context) -> Float[Tensor, "B T D"]:
    """The distance of each number of the embeddings from the nearer bound of its dimension, at least 0."""

    def bounds() -> Float[Tensor, "2 D"]:
        vocabulary = finite_rows(ctx.references.model.each_token())
        return torch.stack([vocabulary.amin(0), vocabulary.amax(0)])

    low, high = ctx.references.once("bounds", bounds)
    return torch.minimum(ctx.embeddings - low, high - ctx.embeddings).clamp_min(0)


@method("gradient", label="NoiseGrad", family="smoothgrad")
def noisegrad(ctx: Context, *, draws: Draws, weight_noise: float) -> Expectation:
    """E ∇F_{W ⊙ η}(x), η ~ N(1, σ² I) on every weight: the gradient of noisy models (Bykov et al. 2022, section 3).

    Noise depends on the seed, the weight's name and the draw, so that all texts have the same noisy models. The word
    embeddings are the input and get no noise. A draw takes one gradient for each text and, once for each block of texts,
    as many normal numbers as the model has weights.
    """
    points = OfOtherModel(Input(ctx.embeddings))
    return Expectation(
        points, draws, lambda i: [(1.0, 1.0)], model=_noisy_models(ctx, draws, weight_noise)
    )


@method("gradient", label="FusionGrad", family="smoothgrad")
def fusiongrad(
    ctx: Context, *, draws: Draws, weight_noise: float, n_inputs: int, noise: Noise
) -> Expectation:
    """E ∇F_{W ⊙ η}(x + ε): NoiseGrad of `n_inputs` noisy inputs for each noisy model (Bykov et al. 2022, section 3).

    It takes n_samples · n_inputs gradients. `n_samples` and the sampler are those of the weights, and the standard error
    is taken over these draws. The noises on the inputs are independent, whatever the sampler.
    """
    points = OfOtherModel(ctx.noise_cloud(noise.noise_special_tokens))

    def sample(i: int) -> list[tuple[Draw, float]]:
        numbers = range(i * n_inputs, (i + 1) * n_inputs)
        return [(Draw(number, 1, noise.unit, noise.level), 1 / n_inputs) for number in numbers]

    return Expectation(points, draws, sample, model=_noisy_models(ctx, draws, weight_noise))


def _noisy_models(
    ctx: Context, draws: Draws, sigma: float
) -> Callable[[int], AbstractContextManager[None]]:
    """A context manager for each draw: while it is open, the model's weights have the noise of the draw."""

    def model(sample: int) -> AbstractContextManager[None]:
        node = draw(draws, None, sample)

        def factor(name: str, weight: torch.nn.Parameter) -> Tensor:
            return 1 + node.sign * sigma * _weight_noise(ctx.seed, name, weight, node)

        return multiplied_weights(ctx.references.model, factor)

    return model


def _weight_noise(seed: int, name: str, weight: torch.nn.Parameter, node: Draw) -> Tensor:
    """ε of one weight tensor in one draw, N(0, I); those of a centred block sum to 0."""
    first = node.number - node.number % node.block
    noises = []
    for number in range(first, first + node.block):
        stream = generator_for(weight.device, "weights", seed, name, number)
        drawn = torch.randn(
            weight.shape, generator=stream, dtype=torch.float32, device=weight.device
        )
        noises.append(drawn.to(torch.promote_types(weight.dtype, torch.float32)))
    noise = noises[node.number - first]
    if node.block == 1:
        return noise
    spread = math.sqrt(node.block / (node.block - 1))
    return (noise - torch.stack(noises).mean(0)) * spread
