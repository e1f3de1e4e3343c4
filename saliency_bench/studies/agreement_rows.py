"""Agreement of settings on the maps of a block."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.rows import FAILED, NOT_APPLICABLE, OK
from saliency_bench.core.seeding import token_hash
from saliency_bench.core.units import heads, summed, units
from saliency_bench.evaluation.agreement import (
    RBO,
    TOP_K_JACCARD,
    kendall_tau,
    rank_biased_overlap,
    top_k_jaccard,
)
from saliency_bench.evaluation.grid import count
from saliency_bench.evaluation.metrics import NotApplicable
from saliency_bench.evaluation.ranking import rank
from saliency_bench.studies.evaluate import NOT_FINITE, Row


def agreement_rows(
    maps: Sequence[AttributionMap], metrics: Sequence[str], granularity: str, k: float, p: float
) -> list[Row]:
    """The agreement of every two settings on every example, by each of the metrics (`agreement.NAMES`).

    Units are ranked by their scores; `k` is the share of them at the top, `p` the persistence of RBO. `chance` is what
    two random rankings have on average.
    """
    by_example: dict[str, list[_Ranked]] = {}
    for attribution in maps:
        by_example.setdefault(attribution.example_id, []).append(_Ranked(attribution, granularity))
    return [
        row
        for of_text in by_example.values()
        for a, b in combinations(of_text, 2)
        for row in _pair(a, b, metrics, k, p)
    ]


class _Ranked:
    """A map's units, their scores and their order.

    Equal scores are ordered by text and setting: broken alike in two maps, ties would agree of themselves.
    """

    def __init__(self, attribution: AttributionMap, granularity: str) -> None:
        self.map = attribution
        unit_of = units(attribution.encoded, granularity)
        self.heads = heads(unit_of)
        self.scores = summed(attribution.scores, unit_of)
        self.order = np.arange(0)
        self.finite = attribution.finite
        if self.finite:
            seed = f"{token_hash(attribution.token_ids)} {attribution.setting['setting_id']}"
            ranking = rank(self.scores, self.heads, signed=True, tie_seed=seed)
            self.order = np.searchsorted(np.flatnonzero(self.heads), ranking)


def _pair(a: _Ranked, b: _Ranked, metrics: Sequence[str], k: float, p: float) -> list[Row]:
    """The rows of two maps, one for each metric."""
    pair = {
        "setting_a": a.map.setting["setting_id"],
        "setting_b": b.map.setting["setting_id"],
        "example_id": a.map.example_id,
    }
    nothing = {"value": None, "chance": None}
    if not (a.finite and b.finite):
        none = nothing | {"status": FAILED, "reason": NOT_FINITE}
        return [pair | {"metric": metric} | none for metric in metrics]
    try:  # a map without an order has none in any metric
        tau = kendall_tau(a.scores, b.scores, a.heads)
    except NotApplicable as reason:
        none = nothing | {"status": NOT_APPLICABLE, "reason": str(reason)}
        return [pair | {"metric": metric} | none for metric in metrics]
    rows = []
    for metric in metrics:
        value, chance = _agreement(a, b, metric, k, p, tau)
        fine = {"value": value, "chance": chance, "status": OK, "reason": None}
        rows.append(pair | {"metric": metric} | fine)
    return rows


def _agreement(
    a: _Ranked, b: _Ranked, metric: str, k: float, p: float, tau: float
) -> tuple[float, float]:
    """The agreement of two maps by a metric, and the mean agreement of two random rankings."""
    if metric == TOP_K_JACCARD:
        return top_k_jaccard(a.order, b.order, count(k, len(a.order)))
    if metric == RBO:
        return rank_biased_overlap(a.order, b.order, p)
    return tau, 0.0
