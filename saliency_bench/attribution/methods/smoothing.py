"""SmoothGrad with its noise said in another way."""

from dataclasses import fields

import torch
from jaxtyping import Float
from scipy.special import erfinv
from torch import Tensor

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods.base import Expectation, method
from saliency_bench.attribution.noise import Draws, Noise, draw
from saliency_bench.attribution.points import NoiseCloud, UnevenCloud


@method("gradient", label="AdaptGrad", family="smoothgrad")
def adaptgrad(
    ctx: Context, *, draws: Draws, confidence: float, noise_special_tokens: bool
) -> Expectation:
    """E ∇F(x + ε), ε_td ~ N(0, σ_td²): SmoothGrad whose noise stays in range with probability `confidence`.

    σ_td = min(x_td - low_d, high_d - x_td) / (√2 erf⁻¹(c)), so that |ε_td| is below the distance to the nearer bound with
    probability c (Zhou et al. 2025, section 4). The paper's range is that of the data; a dimension of an embedding
    ranges over the vocabulary, from low_d to high_d. A number on or beyond its bound gets no noise. The authors' code counts the
    gradient at x itself as one more sample; here it is none.
    """
    cloud = ctx.noise_cloud(noise_special_tokens)
    kept = {field.name: getattr(cloud, field.name) for field in fields(NoiseCloud)}
    uneven = UnevenCloud(**kept, room=_room(ctx))
    per_room = float(1 / (2**0.5 * erfinv(confidence)))
    noise = Noise(None, None, per_room, noise_special_tokens)
    return Expectation(uneven, draws, lambda i: [(draw(draws, noise, i), 1.0)])


def _room(ctx: Context) -> Float[Tensor, "B T D"]:
    """How far each number of the embeddings is from the nearer bound of its dimension."""
    bounds = ctx.references.found
    if "bounds" not in bounds:
        vocabulary = ctx.references.model.each_token()
        bounds["bounds"] = torch.stack([vocabulary.amin(0), vocabulary.amax(0)])
    low, high = bounds["bounds"]
    return torch.minimum(ctx.embeddings - low, high - ctx.embeddings).clamp_min(0)
