"""Broken implementations: paths that the gradients or the vocabulary choose, and integrals weighted by the slope."""

import torch

from saliency_bench.attribution import anchors, statistics
from saliency_bench.attribution.methods import decision, guided
from saliency_bench.attribution.points import WordPaths
from saliency_bench.attribution.statistics import Moment


def the_largest_gradients_move_first(patch):
    real = guided.Guide._next
    patch.setattr(guided.Guide, "_next", lambda self, size, target: real(self, -size, target))


def the_path_has_no_bound(patch):
    made = guided.Guide.__init__
    patch.setattr(
        guided.Guide,
        "__init__",
        lambda self, way, fraction, max_distance: made(self, way, fraction, 1.0),
    )


def numbers_share_one_pace(patch):
    """The straight line, whatever the gradients."""
    made = guided.Guide.__init__
    patch.setattr(
        guided.Guide,
        "__init__",
        lambda self, way, fraction, max_distance: made(self, way, fraction, 0.0),
    )


def the_gradient_is_that_of_the_next_point(patch):
    """Each step is weighted by the gradient of the one before it."""
    real = guided.Guide.step

    def late(self, gradient, target):
        kept = getattr(self, "kept", gradient)
        self.kept = gradient
        real(self, kept, target)

    patch.setattr(guided.Guide, "step", late)


def gradients_are_not_weighted(patch):
    patch.setattr(decision, "SLOPED", statistics.MEAN)


def gradients_are_weighted_by_the_size_of_the_slope(patch):
    def sloped(row):
        return row.gradient * statistics.product(row).sum((1, 2), keepdim=True).abs()

    patch.setattr(statistics, "DISPLACED", statistics.DISPLACED | {sloped})
    from saliency_bench.attribution import gradient

    patch.setattr(gradient, "DISPLACED", statistics.DISPLACED | {sloped})
    patch.setattr(decision, "SLOPED", Moment("sloped", (sloped,), lambda mean: mean))


def anchors_are_not_made_monotone(patch):
    patch.setattr(anchors, "monotone", lambda vectors, before, baseline, m: vectors)


def anchors_may_be_taken_twice(patch):
    real = anchors._next
    patch.setattr(
        anchors, "_next", lambda found, taken, *rest: real(found, [taken[0], taken[-1]], *rest)
    )


def the_nearest_word_is_the_next_anchor(patch):
    first = {
        name: lambda vectors, *_: torch.arange(len(vectors)).double() for name in anchors.STRATEGIES
    }
    patch.setattr(anchors, "STRATEGIES", first)


def pieces_end_where_they_start(patch):
    """The right sum's points with the left sum's pieces."""
    real = WordPaths.at
    patch.setattr(WordPaths, "at", lambda self, rows, nodes: real(self, rows, [0 for _ in nodes]))
