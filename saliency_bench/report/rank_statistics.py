"""Tests of several methods: all pairs in one cell, and ranks over cells. Reads values, never runs a model.

A cell is one model on one dataset under one seed. Examples of several cells are never pooled: a difference on many examples
of one cell need not exist in the next cell.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from string import ascii_lowercase

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats as distributions

from saliency_bench.report.stats import TESTS, Resampling, holm

#: With fewer cells, no test over them can reach 5 % (two-sided Wilcoxon on 5 cells: 0.0625 at best).
N_CELLS_FOR_CLAIMS = 6


def pairwise_p(
    values: Float[np.ndarray, "N K"], resampling: Resampling, test: str
) -> Float[np.ndarray, "K K"]:
    """Returns the p-value of every two columns' paired differences, Holm-corrected over all pairs; NaN if there is none.

    Args:
        values: a line per example, a column per method, NaN if a method has no value.
        resampling: the options of tests that resample.
        test: a name in `stats.TESTS`.
    """
    k = values.shape[1]
    pairs = list(combinations(range(k), 2))
    raw = np.array([_p(values[:, a] - values[:, b], resampling, test) for a, b in pairs])
    p_values = np.full((k, k), np.nan)
    for (a, b), p in zip(pairs, holm(raw), strict=True):
        p_values[a, b] = p_values[b, a] = p
    return p_values


def _p(differences: Float[np.ndarray, " N"], resampling: Resampling, test: str) -> float:
    return TESTS[test](differences[~np.isnan(differences)], resampling)


def letters(different: Bool[np.ndarray, "K K"]) -> list[str]:
    """Returns a compact letter display: two methods share a letter if and only if they do not differ (Piepho 2004).

    Letters are given in the order of the methods; best methods first gives "a" to the best.
    """
    k = len(different)
    groups: list[frozenset[int]] = [frozenset(range(k))]
    for a, b in combinations(range(k), 2):
        if different[a, b]:
            split = [
                part
                for group in groups
                for part in ([group - {a}, group - {b}] if {a, b} <= group else [group])
            ]
            # A group within another is redundant.
            unique = list(dict.fromkeys(split))
            groups = [method for method in unique if not any(method < other for other in unique)]
    groups.sort(key=sorted)
    return [
        "".join(_letter(n) for n, group in enumerate(groups) if method in group)
        for method in range(k)
    ]


def _letter(number: int) -> str:
    """Returns a, ..., z, a1, ..., z1, and so on."""
    turn, place = divmod(number, len(ascii_lowercase))
    return ascii_lowercase[place] + (str(turn) if turn else "")


def mean_ranks(values: Float[np.ndarray, "N K"], higher_is_better: bool) -> Float[np.ndarray, " K"]:
    """Returns the mean rank of each column, 1 the best, with average ranks for ties; lines with a NaN are left out."""
    whole = values[~np.isnan(values).any(1)]
    if not len(whole):
        return np.full(values.shape[1], np.nan)
    signed = -whole if higher_is_better else whole
    return np.asarray(distributions.rankdata(signed, axis=1).mean(0))


@dataclass(frozen=True)
class Friedman:
    """The result of the test that k methods do not differ over N cells.

    `p` is that of Iman & Davenport (1980). Mean ranks differ if they are more than `critical_difference` apart (Nemenyi;
    Demšar 2006, section 3.2.2).
    """

    n_cells: int
    mean_ranks: tuple[float, ...]
    statistic: float
    p: float
    critical_difference: float


def friedman(
    values: Float[np.ndarray, "N K"], higher_is_better: bool, alpha: float
) -> Friedman | None:
    """Tests over cells, a line of values each; None with fewer than `N_CELLS_FOR_CLAIMS` cells or three methods.

    Cells without a value of some method are left out.
    """
    whole = values[~np.isnan(values).any(1)]
    n, k = whole.shape
    if n < N_CELLS_FOR_CLAIMS or k < 3:
        return None
    chi_square = float(distributions.friedmanchisquare(*whole.T).statistic)
    remainder = n * (k - 1) - chi_square
    f = np.inf if remainder <= 0 else (n - 1) * chi_square / remainder
    quantile = float(distributions.studentized_range.ppf(1 - alpha, k, np.inf)) / np.sqrt(2)
    return Friedman(
        n_cells=n,
        mean_ranks=tuple(mean_ranks(whole, higher_is_better).tolist()),
        statistic=float(f),
        p=float(distributions.f.sf(f, k - 1, (k - 1) * (n - 1))),
        critical_difference=float(quantile * np.sqrt(k * (k + 1) / (6 * n))),
    )


def cliques(ranks: Sequence[float], critical_difference: float) -> list[tuple[int, ...]]:
    """Returns the largest sets of two or more methods whose mean ranks differ by less than the critical difference."""
    order = sorted(range(len(ranks)), key=lambda method: ranks[method])
    groups: list[tuple[int, ...]] = []
    for start in range(len(order)):
        near = [
            method
            for method in order[start:]
            if ranks[method] - ranks[order[start]] < critical_difference
        ]
        if len(near) > 1 and not any(set(near) <= set(other) for other in groups):
            groups.append(tuple(near))
    return groups
