"""Broken implementations: SmoothGrad with a σ of its own for each number, and with noise on the weights."""

import torch

from saliency_bench.attribution.methods import smoothing
from saliency_bench.attribution.points import NoiseCloud, UnevenCloud


def the_confidence_is_that_of_one_side(patch):
    """P(ε < room) in place of P(|ε| < room)."""
    patch.setattr(smoothing, "erfinv", lambda c: torch.special.erfinv(torch.tensor(2 * c - 1)))


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
