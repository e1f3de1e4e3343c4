"""Broken implementations: SmoothGrad with a σ of its own for each number, and with noise on the weights."""

import torch
from scipy import special

from saliency_bench.attribution.methods import smoothing
from saliency_bench.attribution.points import NoiseCloud, OfOtherModel, UnevenCloud


def the_confidence_is_that_of_one_side(patch):
    """P(ε < room) in place of P(|ε| < room)."""
    real = special.erfinv
    patch.setattr(special, "erfinv", lambda confidence: real(2 * confidence - 1))


def all_numbers_have_the_same_room(patch):
    patch.setattr(UnevenCloud, "shift", NoiseCloud.shift)


def the_bounds_are_those_of_the_text(patch):
    def room(ctx):
        low, high = ctx.embeddings.amin(1, keepdim=True), ctx.embeddings.amax(1, keepdim=True)
        return torch.minimum(ctx.embeddings - low, high - ctx.embeddings)

    patch.setattr(smoothing, "_room", room)


def the_farther_bound_counts(patch):
    def room(ctx):
        vocabulary = ctx.references.model.each_token()
        low, high = vocabulary.amin(0), vocabulary.amax(0)
        return torch.maximum(ctx.embeddings - low, high - ctx.embeddings)

    patch.setattr(smoothing, "_room", room)


def noise_is_added_to_the_weights(patch):
    """In place of multiplied: σ in the weights' own unit."""
    multiplied = smoothing.multiplied_weights
    patch.setattr(
        smoothing,
        "multiplied_weights",
        lambda model, factor: multiplied(
            model, lambda name, w: 1 + (factor(name, w) - 1) / w.where(w != 0, torch.ones_like(w))
        ),
    )


def all_draws_have_the_first_model(patch):
    real = smoothing._weight_noise
    patch.setattr(
        smoothing,
        "_weight_noise",
        lambda seed, name, weight, node: real(seed, name, weight, node._replace(number=0)),
    )


def weights_share_their_noise(patch):
    """Of one shape."""
    real = smoothing._weight_noise
    patch.setattr(
        smoothing,
        "_weight_noise",
        lambda seed, name, weight, node: real(seed, "all", weight, node),
    )


def partners_have_the_same_model(patch):
    real = smoothing.draw
    patch.setattr(smoothing, "draw", lambda *given: real(*given)._replace(sign=1))


def the_clean_gradient_stands_for_every_model(patch):
    patch.setattr(OfOtherModel, "is_input", lambda self, node: self.points.is_input(node))


def models_share_their_noisy_inputs(patch):
    """Two of them."""
    real = NoiseCloud.noise
    patch.setattr(
        NoiseCloud, "noise", lambda self, of, numbers: real(self, of, [n % 2 for n in numbers])
    )


def weights_always_have_a_little_noise(patch):
    models = smoothing._noisy_models
    patch.setattr(
        smoothing, "_noisy_models", lambda ctx, draws, sigma: models(ctx, draws, max(sigma, 1e-3))
    )
