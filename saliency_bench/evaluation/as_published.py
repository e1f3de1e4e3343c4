"""Metrics as others' programs compute them, on purpose: their conventions where ours are different.

Numbers by these are for comparison with numbers printed elsewhere. What each does otherwise than the metric of ours is
in its docstring; what cannot be had here is in conf/preset/: special tokens are never ranked, and no text is decoded and
tokenized again.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import Bool

from saliency_bench.evaluation.metrics import NotApplicable, metric
from saliency_bench.evaluation.query import Inquiry

FERRET = "Attanasio et al. 2023 (ferret), its released code"
DIG = "Sanyal & Ren 2021 (DIG), section 4.2, and its released code, which Enguehard 2023 (SIG) uses too"

#: What metrics with one unit and one range have in common.
_difference = partial(metric, unit="probability", bounds=(-1.0, 1.0), reads="inquiry")


@_difference("ferret_comprehensiveness", higher_is_better=True, source=FERRET)
def ferret_comprehensiveness(one: Inquiry, *, shares: list[float]) -> float:
    """The mean of F(x) - F(x without S) over the sets S.

    S has the first ⌊share · U⌋ units, but only those with a positive score; a set that was there already is left out.
    0 where no unit can be selected.
    """
    sets = _positive_sets(one, shares)
    return float(np.mean(one.drops(sets))) if len(sets) else 0.0


@_difference("ferret_sufficiency", higher_is_better=False, source=FERRET)
def ferret_sufficiency(one: Inquiry, *, shares: list[float]) -> float:
    """The mean of F(x) - F(S alone) over the same sets; 1 where no unit can be selected."""
    sets = _positive_sets(one, shares)
    return float(np.mean(one.drops(~sets))) if len(sets) else 1.0


@_difference("dig_comprehensiveness", higher_is_better=True, source=DIG)
def dig_comprehensiveness(one: Inquiry, *, share: float) -> float:
    """F(x) - F(x without the first ⌊share · U⌋ units), at one share alone; 0 where these are none."""
    return float(one.drops(_first(one, share))[0])


@_difference("dig_sufficiency", higher_is_better=False, source=DIG)
def dig_sufficiency(one: Inquiry, *, share: float) -> float:
    """F(x) - F(the first ⌊share · U⌋ units alone); 0, the best there is, where these are none."""
    first = _first(one, share)
    return float(one.drops(~first)[0]) if first.any() else 0.0


@metric(
    "dig_log_odds",
    unit="nats",
    higher_is_better=False,
    bounds=(-np.inf, np.inf),
    source=f"{DIG}; no odds are taken: it is a difference of log-probabilities",
    reads="inquiry",
)
def dig_log_odds(one: Inquiry, *, share: float) -> float:
    """F(x without the first ⌊share · U⌋ units) - F(x), where F is the log-probability."""
    return -float(one.drops(_first(one, share))[0])


def _positive_sets(one: Inquiry, shares: Sequence[float]) -> Bool[np.ndarray, "N U"]:
    """The distinct sets of first units with a positive score."""
    found: dict[tuple[int, ...], None] = {}
    for share in shares:
        chosen = one.ranking[: _floor(share, one.n_units)]
        if own := tuple(chosen[one.scores[chosen] > 0].tolist()):
            found.setdefault(own)
    sets = np.zeros((len(found), one.n_units), dtype=bool)
    for row, own in enumerate(found):
        sets[row, list(own)] = True
    return sets


def _first(one: Inquiry, share: float) -> Bool[np.ndarray, "1 U"]:
    if one.n_units == 0:
        raise NotApplicable("the text has no unit that could be ranked")
    first = np.zeros((1, one.n_units), dtype=bool)
    first[0, one.ranking[: _floor(share, one.n_units)]] = True
    return first


def _floor(share: float, n_units: int) -> int:
    """⌊share · U⌋ in floats, as the programs have it: 0.7 · 10 is 7, but 0.29 · 100 is 28."""
    return int(share * n_units)
