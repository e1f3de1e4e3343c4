"""Broken implementations: paths that the gradients or the vocabulary choose, and integrals weighted by the slope."""

import torch

from saliency_bench.attribution import anchors
from saliency_bench.attribution.points import WordPaths


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
