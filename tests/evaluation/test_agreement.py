"""Agreement of two attributions."""

from itertools import combinations
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saliency_bench.evaluation.agreement import kendall_tau
from saliency_bench.evaluation.metrics import NotApplicable


def tau(a, b, attributable=None):
    attributable = np.ones(len(a), bool) if attributable is None else np.array(attributable)
    return kendall_tau(np.array(a, dtype=float), np.array(b, dtype=float), attributable)


def counted(a, b):
    """τ-b from its definition: (concordant - discordant) / sqrt(pairs untied in a · pairs untied in b)."""
    signs = [
        (np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in combinations(range(len(a)), 2)
    ]
    untied_a, untied_b = sum(abs(x) for x, _ in signs), sum(abs(y) for _, y in signs)
    return sum(x * y for x, y in signs) / sqrt(untied_a * untied_b)


def test_agreement_by_hand():
    # Pairs: 5 concordant, 1 discordant.
    assert tau([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)
    # One pair is tied on the left: (5 - 0) / sqrt(5 · 6).
    assert tau([1, 1, 3, 4], [1, 2, 3, 4]) == pytest.approx(5 / sqrt(30))


SCORES = st.lists(st.integers(-3, 3), min_size=2, max_size=8)


@given(SCORES, st.randoms(use_true_random=False))
def test_agreement_counts_pairs(a, random):
    b = random.choices(range(-3, 4), k=len(a))
    if len(set(a)) > 1 and len(set(b)) > 1:
        # One division and one root apart.
        assert tau(a, b) == pytest.approx(counted(a, b), abs=1e-14)


@given(SCORES)
def test_equal_orders_agree_and_opposite_ones_disagree(a):
    if len(set(a)) > 1:
        assert tau(a, [2 * x + 1 for x in a]) == pytest.approx(1)
        assert tau(a, [-x for x in a]) == pytest.approx(-1)


def test_special_tokens_take_no_part():
    attributable = [False, True, True, True, False]
    assert tau([9, 1, 2, 3, -9], [-9, 1, 2, 3, 9], attributable) == pytest.approx(1)
    assert tau([np.nan, 1, 2, 3, 0], [0, 1, 2, 3, np.nan], attributable) == pytest.approx(1)


@pytest.mark.parametrize(("a", "b"), [([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [0, 0, 0])])
def test_equal_scores_have_no_order(a, b):
    with pytest.raises(NotApplicable, match="all scores are equal"):
        tau(a, b)


@pytest.mark.parametrize("n_tokens", [0, 1])
def test_one_token_has_no_order(n_tokens):
    with pytest.raises(NotApplicable, match="fewer than two"):
        tau([1.0] * n_tokens, [1.0] * n_tokens)


def test_nan_shows():
    assert np.isnan(tau([1, np.nan, 3], [1, 2, 3]))
