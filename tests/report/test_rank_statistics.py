"""Letters, ranks and the tests over cells, against their definitions and published numbers."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from saliency_bench.report.rank_statistics import cliques, friedman, letters, mean_ranks, pairwise_p
from saliency_bench.report.stats import Resampling, sign_flip_p

RESAMPLING = Resampling(0.95, 999, 0)


@given(st.integers(1, 7), st.integers(0, 2**21 - 1))
def test_two_methods_share_a_letter_if_and_only_if_they_do_not_differ(k, bits):
    different = np.zeros((k, k), dtype=bool)
    for place, (a, b) in enumerate(combinations(range(k), 2)):
        different[a, b] = different[b, a] = bool(bits >> place & 1)
    found = letters(different)
    for a, b in combinations(range(k), 2):
        assert bool(set(found[a]) & set(found[b])) == (not different[a, b])
    assert all(found)


def test_letters_by_hand():
    different = np.zeros((3, 3), dtype=bool)
    different[0, 2] = different[2, 0] = True
    assert letters(different) == ["a", "ab", "b"]
    assert letters(np.zeros((3, 3), dtype=bool)) == ["a", "a", "a"]
    assert letters(~np.eye(3, dtype=bool)) == ["a", "b", "c"]


def test_pairs_are_tested_on_the_examples_that_both_have_and_corrected_over_all():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 3)) + np.array([0, 0.1, 2])
    values[:5, 1] = np.nan
    found = pairwise_p(values, RESAMPLING, "wilcoxon")
    raw = {}
    for a, b in combinations(range(3), 2):
        d = values[:, a] - values[:, b]
        raw[a, b] = wilcoxon(d[~np.isnan(d)], zero_method="pratt").pvalue
    order = sorted(raw, key=raw.get)
    corrected, before = {}, 0.0
    for place, pair in enumerate(order):
        before = corrected[pair] = max(before, min(1, raw[pair] * (3 - place)))
    for (a, b), p in corrected.items():
        assert found[a, b] == found[b, a] == pytest.approx(p)
    assert np.isnan(np.diag(found)).all()


def test_mean_ranks_by_hand():
    values = np.array([[3.0, 2.0, 1.0], [1.0, 1.0, 5.0], [np.nan, 0.0, 0.0]])
    assert mean_ranks(values, True) == pytest.approx([(1 + 2.5) / 2, (2 + 2.5) / 2, (3 + 1) / 2])
    assert mean_ranks(values, False) == pytest.approx([(3 + 1.5) / 2, (2 + 1.5) / 2, (1 + 3) / 2])


def test_fewer_than_six_cells_make_no_claim():
    values = np.arange(5 * 4.0).reshape(5, 4)
    assert friedman(values, True, 0.05) is None
    assert friedman(np.vstack([values, values[:1]]), True, 0.05) is not None
    gap = np.vstack([values, np.full((1, 4), np.nan)])
    assert friedman(gap, True, 0.05) is None  # a cell without values is none


#: Demšar (2006, JMLR 7), table 6: AUC of four methods on 14 datasets.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975],  # printed as 0.975 both, but ranked 2 and 3
        [0.957, 0.978, 0.946, 0.970],
    ]
)


def test_friedman_is_that_of_the_published_example():
    found = friedman(DEMSAR, True, 0.05)
    # Printed there: ranks 3.143, 2.000, 2.893, 1.964; chi² = 9.28; F_F = 3.69; CD = 1.25 (rounded).
    assert found.mean_ranks == pytest.approx((3.143, 2.000, 2.893, 1.964), abs=5e-4)
    # The book's chi² has no correction for ties, which divides it by 1 - Σ(t³ - t) / (n (k³ - k)); ours has.
    tied = sum(count**3 - count for row in DEMSAR for count in Counter(row).values())
    chi_square = 9.28 / (1 - tied / (14 * (4**3 - 4)))
    assert found.statistic == pytest.approx(13 * chi_square / (14 * 3 - chi_square), abs=0.01)
    assert found.critical_difference == pytest.approx(1.25, abs=0.005)
    assert 0.01 < found.p < 0.05


def test_cliques_are_the_largest_groups_within_the_critical_difference():
    assert cliques([1.0, 2.0, 2.5, 4.0], 1.2) == [(0, 1), (1, 2)]
    assert cliques([1.0, 1.1, 1.2], 1.0) == [(0, 1, 2)]
    assert cliques([3.0, 1.0], 1.0) == []


def test_sign_flips_are_all_of_them_where_there_are_few():
    d = np.array([1.0, 2.0, -0.5, 3.0])
    means = [
        abs(np.mean(d * signs)) for signs in np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1).T
    ]
    assert sign_flip_p(d, RESAMPLING) == pytest.approx(
        np.mean(np.array(means) >= abs(d.mean()) - 1e-12)
    )
    assert sign_flip_p(np.zeros(3), RESAMPLING) == 1
    assert np.isnan(sign_flip_p(np.array([]), RESAMPLING))
