"""Kendall's τ-b is scipy's, to the bit."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from saliency_bench.core.ranks import tau_b

FEW = st.sampled_from([-1.0, 0.0, 0.5, 2.0, math.inf])  # with many ties


@given(st.lists(st.tuples(FEW, FEW), min_size=2, max_size=30))
def test_tau_b_is_that_of_scipy_with_ties(pairs):
    a, b = np.array(pairs).T
    expected = float(kendalltau(a, b, variant="b").statistic)
    assert tau_b(a, b) == expected or (math.isnan(tau_b(a, b)) and math.isnan(expected))


@pytest.mark.parametrize("n", [2, 3, 25, 200])
def test_tau_b_is_that_of_scipy_without_ties(n):
    a, b = np.random.default_rng(n).normal(size=(2, n))
    assert tau_b(a, b) == kendalltau(a, b).statistic
    assert tau_b(a, a) == pytest.approx(1.0)
    assert tau_b(a, -a) == pytest.approx(-1.0)


def test_what_is_no_number_has_no_rank():
    assert math.isnan(tau_b(np.array([0.0, math.nan, 1.0]), np.array([0.0, 1.0, 2.0])))
