"""Scores to rankings."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saliency_bench.core.errors import SaliencyBenchError
from saliency_bench.evaluation.ranking import rank


def ranked(scores, attributable=None, signed=True, tie_seed="text"):
    scores = np.array(scores, dtype=float)
    attributable = np.ones(len(scores), bool) if attributable is None else np.array(attributable)
    return rank(scores, attributable, signed=signed, tie_seed=tie_seed).tolist()


def test_the_largest_score_comes_first():
    assert ranked([0.1, -3.0, 2.0, 0.5]) == [2, 3, 0, 1]


def test_without_sign_the_largest_magnitude_comes_first():
    assert ranked([0.1, -3.0, 2.0, 0.5], signed=False) == [1, 2, 3, 0]


def test_special_tokens_are_never_ranked():
    attributable = [False, True, True, False]
    assert ranked([9.0, 1.0, 2.0, 9.0], attributable) == [2, 1]
    assert ranked([float("nan"), 1.0, 2.0, float("inf")], attributable) == [2, 1]
    assert ranked([1.0, 2.0], [False, False]) == []


def test_padding_changes_no_ranking():
    scores = [1.0, 1.0, 0.0, 1.0]
    padded = ranked([*scores, 0.0, 0.0], [True] * 4 + [False] * 2)
    assert padded == ranked(scores)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_score_that_is_not_finite_is_refused_by_position_and_value(value):
    with pytest.raises(SaliencyBenchError, match=rf"token 2 is {value}"):
        ranked([0.0, 1.0, float(value)])


def test_ties_are_broken_by_the_seed_alone():
    assert ranked([1.0] * 5) == ranked([-7.0] * 5)
    orders = {tuple(ranked([1.0] * 5, tie_seed=f"text {number}")) for number in range(50)}
    # 50 draws out of 120 orders: fewer than 20 different ones has a probability below 1e-9.
    assert len(orders) > 20


def test_ties_favour_no_position():
    n = 2000
    first = [ranked([1.0] * 5, tie_seed=f"text {number}")[0] for number in range(n)]
    shares = np.bincount(first, minlength=5) / n
    # Each position is first with probability 1/5: within 4 standard errors.
    assert np.abs(shares - 0.2).max() < 4 * np.sqrt(0.2 * 0.8 / n)


def test_zero_ties_with_minus_zero():
    assert ranked([0.0, -0.0, 0.0]) == ranked([0.0, 0.0, 0.0])


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=8), st.sampled_from([0.25, 2.0, 1024.0]))
def test_a_positive_factor_changes_nothing(scores, factor):
    assert ranked(scores) == ranked([factor * score for score in scores])


@given(st.lists(st.integers(-5, 5), max_size=8))
def test_every_token_is_ranked_once_and_scores_never_rise(scores):
    order = ranked(scores)
    assert sorted(order) == list(range(len(scores)))
    assert all(scores[a] >= scores[b] for a, b in pairwise(order))


@given(st.lists(st.integers(-5, 5), unique=True, max_size=8))
def test_negative_scores_reverse_a_ranking_without_ties(scores):
    assert ranked([-score for score in scores]) == ranked(scores)[::-1]
