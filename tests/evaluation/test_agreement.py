"""Agreement of two attributions."""

from itertools import combinations, permutations
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from saliency_bench.core.rank_correlation import tau_b
from saliency_bench.evaluation.agreement import kendall_tau, rank_biased_overlap, top_k_jaccard
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


TIES_OR_NOT = st.one_of(st.integers(-3, 3), st.floats(allow_nan=False))


@given(st.lists(st.tuples(TIES_OR_NOT, TIES_OR_NOT), min_size=2, max_size=40), st.integers(1, 9))
def test_tau_is_scipys_to_the_last_bit_however_many_pairs_are_compared_at_a_time(pairs, at_once):
    """Both count pairs in whole numbers, divide by the same roots in the same order, and cut at 1."""
    a, b = np.array(pairs, dtype=float).T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saliency_bench.core.rank_correlation.PAIRS_AT_ONCE", at_once * len(a))
        assert tau_b(a, b) == pytest.approx(
            kendalltau(a, b, variant="b").statistic, 0, 0, nan_ok=True
        )


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


SIZES = pytest.mark.parametrize("n_units", [1, 2, 4, 5])


def orders(n_units):
    return [np.array(order) for order in permutations(range(n_units))]


@SIZES
def test_the_chance_of_jaccard_and_of_rbo_is_the_mean_over_all_rankings(n_units):
    first, *_ = every = orders(n_units)
    for k in range(1, n_units + 1):
        found = [top_k_jaccard(first, other, k) for other in every]
        assert np.mean([value for value, _ in found]) == pytest.approx(found[0][1])
    found = [rank_biased_overlap(first, other, 0.8) for other in every]
    assert np.mean([value for value, _ in found]) == pytest.approx(found[0][1])


@pytest.mark.parametrize("seed", range(6))
def test_jaccard_and_rbo_count_sets(seed):
    generator = np.random.default_rng(seed)
    a, b = generator.permutation(9), generator.permutation(9)
    tops = [(set(a[:d].tolist()), set(b[:d].tolist())) for d in range(1, 10)]
    for k, (x, y) in enumerate(tops, start=1):
        assert top_k_jaccard(a, b, k)[0] == len(x & y) / len(x | y)
    shares = [len(x & y) / len(x) for x, y in tops]
    # The infinite sum, with agreement beyond the end as at the end: (1 - p) Σ p^(d-1) A_d.
    series = shares + [shares[-1]] * 400  # what is left out is 0.8^409
    rbo = 0.2 * sum(0.8**d * share for d, share in enumerate(series))
    assert rank_biased_overlap(a, b, 0.8)[0] == pytest.approx(rbo, abs=1e-13)


@SIZES
def test_a_ranking_agrees_with_itself(n_units):
    for order in orders(n_units):
        assert rank_biased_overlap(order, order, 0.8)[0] == pytest.approx(1)
        assert top_k_jaccard(order, order, 1)[0] == 1
