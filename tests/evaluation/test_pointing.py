"""How high the first unit that matters stands: both metrics against every order of a few units, and against chance."""

from itertools import permutations
from math import comb

import numpy as np
import pytest

from saliency_bench.evaluation.metrics import NotApplicable
from saliency_bench.evaluation.pointing import mean_reciprocal_rank, pointing_game
from saliency_bench.evaluation.truth import Truth

N = 5
ORDERS = [*permutations(range(N))]
#: How many of the five units matter.
RELEVANT = pytest.mark.parametrize("n_relevant", range(1, N))


def truth(order, n_relevant):
    """Units 0, 1, ... matter, and are ranked in this order."""
    scores = np.zeros(N)
    scores[list(order)] = np.arange(N, 0, -1)
    return Truth(scores, np.array(order), np.arange(N) < n_relevant)


def first_rank(order, n_relevant):
    """Counts down the ranking until a unit matters."""
    rank = 1
    for unit in order:
        if unit < n_relevant:
            return rank
        rank += 1
    raise AssertionError


@RELEVANT
def test_both_are_told_by_the_first_rank_that_matters(n_relevant):
    for order in ORDERS:
        rank, what = first_rank(order, n_relevant), truth(order, n_relevant)
        assert mean_reciprocal_rank(what) == 1 / rank
        for k in range(1, N + 3):
            assert pointing_game(what, k=k) == (1.0 if rank <= k else 0.0)


@RELEVANT
def test_chance_is_what_the_docstrings_say(n_relevant):
    r, texts = n_relevant, [truth(order, n_relevant) for order in ORDERS]
    reciprocal = sum(comb(N - j, r - 1) / (j * comb(N, r)) for j in range(1, N + 1))
    # Means of 120 numbers of at most 1: each sum is right within 120 rounding errors.
    near = {"abs": 120 * np.finfo(float).eps}
    assert np.mean([*map(mean_reciprocal_rank, texts)]) == pytest.approx(reciprocal, **near)
    for k in range(1, N + 1):
        chance = 1 - comb(N - r, k) / comb(N, k)
        assert np.mean([pointing_game(one, k=k) for one in texts]) == pytest.approx(chance, **near)


@pytest.mark.parametrize("known", [None, [False] * N, [True] * N])
def test_a_text_in_which_no_ranking_is_better_says_nothing(known):
    nothing = Truth(
        np.arange(float(N)), np.arange(N)[::-1], None if known is None else np.array(known)
    )
    for metric, hyper in ((mean_reciprocal_rank, {}), (pointing_game, {"k": 1})):
        with pytest.raises(NotApplicable):
            metric(nothing, **hyper)
