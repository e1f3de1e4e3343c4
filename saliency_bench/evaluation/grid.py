"""Grids: the numbers of removed or kept units at which curves are evaluated."""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from math import ceil

import numpy as np
from jaxtyping import Int

from saliency_bench.core.errors import InputError, unknown

#: The name of a grid, or its fractions.
Grid = str | Sequence[float | int]

#: The thresholds of the ERASER scorer (DeYoung et al. 2020, section 4), and tenths.
FRACTIONS = {
    "eraser": (0.01, 0.05, 0.1, 0.2, 0.5),
    "deciles": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
}
FULL = "full"

#: A fraction is replaced by the nearest ratio with a denominator of at most this: 0.30000000000000004 is 3/10.
LARGEST_DENOMINATOR = 10**6


def counts(grid: Grid, n_units: int) -> Int[np.ndarray, " K"]:
    """The number of units at each fraction of the grid; 1 ... n_units for "full".

    A number that several fractions share is repeated, so that a mean over the numbers is a mean over the fractions. Zero
    is not included, and without units the array is empty. The array is cached and read-only.

    Raises:
        InputError: no such grid, no fraction in it, or one outside (0, 1].
    """
    return _counts(grid if isinstance(grid, str) else tuple(grid), n_units)


@lru_cache(maxsize=4096)
def _counts(grid: Grid, n_units: int) -> Int[np.ndarray, " K"]:
    if grid == FULL:
        numbers = np.arange(1, n_units + 1)
    else:
        each = [count(fraction, n_units) for fraction in fractions(grid)]
        numbers = np.array(each if n_units else [], dtype=int)
    numbers.flags.writeable = False
    return numbers


def points(grids: Sequence[Grid], n_units: int) -> Int[np.ndarray, " K"]:
    """The distinct numbers of units that any of the grids needs, in increasing order, with 0 and `n_units`."""
    return _points(tuple(grid if isinstance(grid, str) else tuple(grid) for grid in grids), n_units)


@lru_cache(maxsize=4096)
def _points(grids: tuple[Grid, ...], n_units: int) -> Int[np.ndarray, " K"]:
    each = [counts(grid, n_units) for grid in grids]
    numbers = np.unique(np.concatenate([[0, n_units], *each])).astype(int)
    numbers.flags.writeable = False
    return numbers


def fractions(grid: Grid) -> Sequence[float | int]:
    """The fractions of a grid that is not "full"."""
    if isinstance(grid, str):
        if grid not in FRACTIONS:
            raise unknown("grid", grid, [*FRACTIONS, FULL])
        return FRACTIONS[grid]
    if len(grid) == 0:
        raise InputError("grid: expected at least one fraction, got none")
    return grid


@lru_cache(maxsize=4096)
def count(fraction: float | int, n_units: int) -> int:
    """max(1, ⌈fraction · n_units⌉), in exact arithmetic: 0.07 · 100 is 7, while floats give 7.000000000000001 and thus 8."""
    if not 0 < fraction <= 1:
        raise InputError(f"grid: expected fractions above 0 and up to 1, got {fraction}")
    exact = Fraction(float(fraction)).limit_denominator(LARGEST_DENOMINATOR)
    return max(1, ceil(exact * n_units))
