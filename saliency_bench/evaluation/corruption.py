"""Rankings that are known to be right, and the same rankings corrupted: a metric that can be trusted prefers the former."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

KNOWN = "known"

#: How many of the other units come before each of n units that matter, of which there are m.
Demote = Callable[[int, int, np.random.Generator], Int[np.ndarray, " n"]]


def _last(n: int, m: int, stream: np.random.Generator) -> Int[np.ndarray, " n"]:
    return np.full(n, m)


def _random(n: int, m: int, stream: np.random.Generator) -> Int[np.ndarray, " n"]:
    return stream.integers(1, m + 1, n)


def _slight(n: int, m: int, stream: np.random.Generator) -> Int[np.ndarray, " n"]:
    return np.where(np.arange(n) == stream.integers(n), 1, 0)


#: Units that matter go behind all others, each to a random place behind at least one, or one of them behind one other.
CORRUPTIONS: Mapping[str, Demote] = {"last": _last, "random": _random, "slight": _slight}


def known_ranking(
    relevant: Bool[np.ndarray, " U"], stream: np.random.Generator
) -> Int[np.ndarray, " U"]:
    """The units that matter, then the others, both in random order."""
    shuffled = stream.permutation(len(relevant))
    return shuffled[np.argsort(~relevant[shuffled], kind="stable")]


def corrupted(
    ranking: Int[np.ndarray, " U"], n_relevant: int, corruption: str, stream: np.random.Generator
) -> Int[np.ndarray, " U"]:
    """A known ranking with units that matter demoted; the order of the others is kept.

    It differs from the known one wherever there is a unit that matters and one that does not.
    """
    n_others = len(ranking) - n_relevant
    before = CORRUPTIONS[corruption](n_relevant, n_others, stream)
    # The j-th of the others has place j; what has b of them before it comes just before the one at place b.
    places = np.concatenate([before - 0.5, np.arange(n_others)])
    return ranking[np.argsort(places, kind="stable")]


def as_scores(ranking: Int[np.ndarray, " U"], n_tokens: int) -> Float[np.ndarray, " T"]:
    """Scores that rank tokens so: U for the first position in the ranking, 1 for the last, 0 for those not in it."""
    scores = np.zeros(n_tokens)
    scores[ranking] = np.arange(len(ranking), 0, -1)
    return scores
