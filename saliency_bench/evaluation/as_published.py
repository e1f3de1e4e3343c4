"""Metrics with the conventions of other programs, for comparison with published numbers.

The docstrings state in which way they differ from the metrics of this package. The files in conf/preset/ list the
conventions that are not reproduced: here special tokens are never ranked, and no text is decoded and tokenized again.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import Bool

from saliency_bench.evaluation.metrics import NotApplicable, metric
from saliency_bench.evaluation.query import Query

FERRET = "Attanasio et al. 2023 (ferret), its released code"
DIG = "Sanyal & Ren 2021 (DIG), section 4.2, and its released code, which Enguehard 2023 (SIG) uses too"

#: Metrics that are differences of probabilities.
_difference = partial(metric, unit="probability", bounds=(-1.0, 1.0), reads="query")


@_difference("ferret_comprehensiveness", higher_is_better=True, source=FERRET)
def ferret_comprehensiveness(query: Query, *, shares: list[float]) -> float:
    """The mean of F(x) - F(x without S) over the distinct sets S; 0 if there is none.

    S has those of the first ⌊share · U⌋ units whose score is positive. Empty sets are left out.
    """
    sets = _positive_sets(query, shares)
    return float(np.mean(query.drops(sets))) if len(sets) else 0.0


@_difference("ferret_sufficiency", higher_is_better=False, source=FERRET)
def ferret_sufficiency(query: Query, *, shares: list[float]) -> float:
    """The mean of F(x) - F(S alone) over the sets of `ferret_comprehensiveness`; 1 if there is none."""
    sets = _positive_sets(query, shares)
    return float(np.mean(query.drops(~sets))) if len(sets) else 1.0


@_difference("dig_comprehensiveness", higher_is_better=True, source=DIG)
def dig_comprehensiveness(query: Query, *, share: float) -> float:
    """F(x) - F(x without the first ⌊share · U⌋ units), for one share; 0 if this is no unit."""
    return float(query.drops(_first(query, share))[0])


@_difference("dig_sufficiency", higher_is_better=False, source=DIG)
def dig_sufficiency(query: Query, *, share: float) -> float:
    """F(x) - F(the first ⌊share · U⌋ units alone); 0, the best value, if this is no unit."""
    first = _first(query, share)
    return float(query.drops(~first)[0]) if first.any() else 0.0


@metric(
    "dig_log_odds",
    unit="nats",
    higher_is_better=False,
    bounds=(-np.inf, np.inf),
    source=f"{DIG}; no odds are taken: it is a difference of log-probabilities",
    reads="query",
)
def dig_log_odds(query: Query, *, share: float) -> float:
    """F(x without the first ⌊share · U⌋ units) - F(x), where F is the log-probability."""
    return -float(query.drops(_first(query, share))[0])


def _positive_sets(query: Query, shares: Sequence[float]) -> Bool[np.ndarray, "N U"]:
    """The distinct non-empty sets of units with a positive score among the first ⌊share · U⌋."""
    sets: dict[tuple[int, ...], None] = {}
    for share in shares:
        first = query.ranking[: _floor(share, query.n_units)]
        if positive := tuple(first[query.scores[first] > 0].tolist()):
            sets.setdefault(positive)
    selected = np.zeros((len(sets), query.n_units), dtype=bool)
    for row, units in enumerate(sets):
        selected[row, list(units)] = True
    return selected


def _first(query: Query, share: float) -> Bool[np.ndarray, "1 U"]:
    """The set of the first ⌊share · U⌋ units."""
    if query.n_units == 0:
        raise NotApplicable("the text has no unit that could be ranked")
    first = np.zeros((1, query.n_units), dtype=bool)
    first[0, query.ranking[: _floor(share, query.n_units)]] = True
    return first


def _floor(share: float, n_units: int) -> int:
    """⌊share · U⌋ in floating point, as in these programs: 0.7 · 10 gives 7, but 0.29 · 100 gives 28."""
    return int(share * n_units)
