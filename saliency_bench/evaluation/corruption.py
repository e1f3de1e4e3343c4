"""Correct rankings of texts whose relevant units are known, and corruptions of them.

A trustworthy metric prefers the correct ranking to a corrupted one.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

#: The name of the correct ranking.
CORRECT = "known"

#: For each of n relevant units, the number of the m other units that come before it.
Demote = Callable[[int, int, np.random.Generator], Int[np.ndarray, " n"]]


def _last(n: int, m: int, stream: np.random.Generator) -> Int[np.ndarray, " n"]:
    return np.full(n, m)


def _random(n: int, m: int, stream: np.random.Generator) -> Int[np.ndarray, " n"]:
    return stream.integers(1, m + 1, n)


def _slight(n: int, m: int, stream: np.random.Generator) -> Int[np.ndarray, " n"]:
    return np.where(np.arange(n) == stream.integers(n), 1, 0)


#: The corruptions: relevant units are moved behind all others ("last"), each to a random place behind at least one other
#: ("random"), or one of them behind one other ("slight").
CORRUPTIONS: Mapping[str, Demote] = {"last": _last, "random": _random, "slight": _slight}


def correct_ranking(
    relevant: Bool[np.ndarray, " U"], stream: np.random.Generator
) -> Int[np.ndarray, " U"]:
    """The relevant units, then the others, both in random order."""
    shuffled = stream.permutation(len(relevant))
    return shuffled[np.argsort(~relevant[shuffled], kind="stable")]


def corrupted(
    ranking: Int[np.ndarray, " U"], n_relevant: int, corruption: str, stream: np.random.Generator
) -> Int[np.ndarray, " U"]:
    """A correct ranking with relevant units moved down; the order of the others is kept.

    It differs from the correct one if there are both relevant and other units.

    Args:
        ranking: units, most relevant first.
        n_relevant: the number of relevant units, which come first in it.
        corruption: a name in `CORRUPTIONS`.
        stream: the source of randomness.
    """
    n_others = len(ranking) - n_relevant
    before = CORRUPTIONS[corruption](n_relevant, n_others, stream)
    # The j-th other unit has the place j. A relevant unit with b others before it is put just before place b.
    places = np.concatenate([before - 0.5, np.arange(n_others)])
    return ranking[np.argsort(places, kind="stable")]


def as_scores(ranking: Int[np.ndarray, " U"], n_tokens: int) -> Float[np.ndarray, " T"]:
    """Scores with this ranking: U for the first token in it, 1 for the last, 0 for tokens that are not in it."""
    scores = np.zeros(n_tokens)
    scores[ranking] = np.arange(len(ranking), 0, -1)
    return scores
