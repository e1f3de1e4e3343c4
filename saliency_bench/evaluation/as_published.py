"""Metrics as other programs compute them, with their conventions where ours are different.

Numbers by these are for comparison with numbers printed elsewhere. What each does otherwise than the metric of ours is
in its docstring; what cannot be had here is in conf/preset/: special tokens are never ranked, and no text is decoded and
tokenized again.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import Bool

from saliency_bench.evaluation.metrics import NotApplicable, metric
from saliency_bench.evaluation.query import Query

FERRET = "Attanasio et al. 2023 (ferret), its released code"
DIG = "Sanyal & Ren 2021 (DIG), section 4.2, and its released code, which Enguehard 2023 (SIG) uses too"

#: What metrics with one unit and one range have in common.
_difference = partial(metric, unit="probability", bounds=(-1.0, 1.0), reads="query")


@_difference("ferret_comprehensiveness", higher_is_better=True, source=FERRET)
def ferret_comprehensiveness(query: Query, *, shares: list[float]) -> float:
    """The mean of F(x) - F(x without S) over the sets S.

    S has the first ⌊share · U⌋ units, but only those with a positive score; a set that was there already is left out.
    0 where no unit can be selected.
    """
    sets = _positive_sets(query, shares)
    return float(np.mean(query.drops(sets))) if len(sets) else 0.0


@_difference("ferret_sufficiency", higher_is_better=False, source=FERRET)
def ferret_sufficiency(query: Query, *, shares: list[float]) -> float:
    """The mean of F(x) - F(S alone) over the same sets; 1 where no unit can be selected."""
    sets = _positive_sets(query, shares)
    return float(np.mean(query.drops(~sets))) if len(sets) else 1.0


@_difference("dig_comprehensiveness", higher_is_better=True, source=DIG)
def dig_comprehensiveness(query: Query, *, share: float) -> float:
    """F(x) - F(x without the first ⌊share · U⌋ units), at one share alone; 0 where these are none."""
    return float(query.drops(_first(query, share))[0])


@_difference("dig_sufficiency", higher_is_better=False, source=DIG)
def dig_sufficiency(query: Query, *, share: float) -> float:
    """F(x) - F(the first ⌊share · U⌋ units alone); 0, the best there is, where these are none."""
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
    """The distinct sets of first units with a positive score."""
    found: dict[tuple[int, ...], None] = {}
    for share in shares:
        chosen = query.ranking[: _floor(share, query.n_units)]
        if own := tuple(chosen[query.scores[chosen] > 0].tolist()):
            found.setdefault(own)
    sets = np.zeros((len(found), query.n_units), dtype=bool)
    for row, own in enumerate(found):
        sets[row, list(own)] = True
    return sets


def _first(query: Query, share: float) -> Bool[np.ndarray, "1 U"]:
    if query.n_units == 0:
        raise NotApplicable("the text has no unit that could be ranked")
    first = np.zeros((1, query.n_units), dtype=bool)
    first[0, query.ranking[: _floor(share, query.n_units)]] = True
    return first


def _floor(share: float, n_units: int) -> int:
    """⌊share · U⌋ in floats, as the programs have it: 0.7 · 10 is 7, but 0.29 · 100 is 28."""
    return int(share * n_units)
