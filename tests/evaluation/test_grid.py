"""Fractions to numbers of tokens, exactly."""

from decimal import ROUND_CEILING, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saliency_bench.core.errors import InputError
from saliency_bench.evaluation.grid import FULL, count, counts


@pytest.mark.parametrize(
    ("grid", "n_units", "expected"),
    [
        ("eraser", 20, [1, 1, 2, 4, 10]),
        ("eraser", 1, [1, 1, 1, 1, 1]),
        ("eraser", 200, [2, 10, 20, 40, 100]),
        ("deciles", 10, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ("deciles", 3, [1, 1, 1, 2, 2, 2, 3, 3, 3, 3]),
        (FULL, 4, [1, 2, 3, 4]),
        (FULL, 1, [1]),
        ([1 / 3, 2 / 3, 1], 3, [1, 2, 3]),
        ((0.5,), 5, [3]),
    ],
)
def test_counts_by_hand(grid, n_units, expected):
    assert counts(grid, n_units).tolist() == expected


@pytest.mark.parametrize("grid", ["eraser", "deciles", FULL, [0.5]])
def test_without_units_there_is_nothing_to_count(grid):
    found = counts(grid, 0)
    assert found.tolist() == []
    assert found.dtype.kind == "i"


@given(st.integers(1, 100), st.integers(1, 600))
def test_a_percentage_is_rounded_up_as_a_decimal_number_is(percent, n_units):
    expected = (Decimal(percent) * n_units / 100).to_integral_value(ROUND_CEILING)
    assert count(percent / 100, n_units) == max(1, expected)


def test_a_float_that_missed_its_decimal_still_means_it():
    assert 0.07 * 100 > 7 and count(0.07, 100) == 7
    assert 0.1 + 0.2 > 0.3 and count(0.1 + 0.2, 10) == 3
    assert counts(np.linspace(0.1, 1, 10).tolist(), 10).tolist() == counts("deciles", 10).tolist()
    assert count(float(np.float32(0.1)), 10) == 1


@given(st.floats(1e-9, 1), st.integers(1, 600))
def test_at_least_one_and_at_most_all_are_counted(fraction, n_units):
    assert 1 <= count(fraction, n_units) <= n_units


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan"), float("inf")])
def test_what_is_no_fraction_is_refused(fraction):
    with pytest.raises(InputError, match="above 0 and up to 1"):
        counts([fraction], 10)


def test_an_empty_grid_is_refused():
    with pytest.raises(InputError, match="at least one fraction"):
        counts([], 10)


def test_an_unknown_grid_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="'eraser'"):
        counts("erasor", 10)


def test_counts_that_are_kept_for_the_next_text_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        counts("eraser", 20)[0] = 7
    assert counts("eraser", 20) is counts("eraser", 20)
