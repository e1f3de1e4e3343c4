"""Maps to metric rows: what the runner and the API share. Every distinct question is asked of the model once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Int

from saliency_bench.blocks import OpenBlock, open_block, plan_blocks
from saliency_bench.encoded import Encoded
from saliency_bench.evaluation import axioms, faithfulness  # noqa: F401 - they register the metrics
from saliency_bench.evaluation.agreement import kendall_tau
from saliency_bench.evaluation.curves import evaluate_curves
from saliency_bench.evaluation.grid import FULL
from saliency_bench.evaluation.metrics import INFO, METRICS, NotApplicable
from saliency_bench.evaluation.ranking import rank
from saliency_bench.maps import AttributionMap
from saliency_bench.models.references import References
from saliency_bench.rows import FAILED, NOT_APPLICABLE, OK
from saliency_bench.seeding import token_hash
from saliency_bench.types import Curve

Row = dict[str, Any]
Entries = Mapping[str, Mapping[str, Any]]

NOT_FINITE = "a token's score is not a finite number"


@dataclass
class Judged:
    """Rows of two tables, without their cell."""

    rows: list[Row] = field(default_factory=list)
    curves: list[Row] = field(default_factory=list)


def judge_block(
    block: OpenBlock, maps: Sequence[AttributionMap], metrics: Entries, removal: str
) -> Judged:
    """All metrics of all maps of a block, and their curves."""
    curves = _curves(block, maps, metrics, removal)
    judged = Judged()
    for one, own in zip(maps, curves, strict=True):
        judged.rows += [_row(one, own, name, entry, removal) for name, entry in metrics.items()]
        judged.curves += _curve_rows(one, own, removal)
    return judged


def judge_maps(
    refs: References,
    maps: Sequence[AttributionMap],
    metrics: Entries,
    removal: str,
    token_budget: int,
) -> list[Row]:
    """Metric rows of maps of any inputs, in the order of the maps; the model must be frozen."""
    found: dict[int, list[Row]] = {}
    places: dict[Encoded, list[int]] = {}
    for place, one in enumerate(maps):
        places.setdefault(one.encoded, []).append(place)
    encoded = list(places)
    for block in plan_blocks(encoded):
        items = [encoded[index] for index in block.indices]
        opened = open_block(refs, items, "predicted", token_budget)
        own = [(place, maps[place]) for item in items for place in places[item]]
        rows = judge_block(opened, [one for _, one in own], metrics, removal).rows
        for number, (place, one) in enumerate(own):
            mine = rows[number * len(metrics) : (number + 1) * len(metrics)]
            context = {"method": one.setting["method"], "backend": one.setting["backend"]}
            found[place] = [{"input_index": one.input_index} | context | row for row in mine]
    return [row for place in sorted(found) for row in found[place]]


def _curves(
    block: OpenBlock, maps: Sequence[AttributionMap], metrics: Entries, removal: str
) -> list[list[Curve]]:
    """The curves of each map: one, or one per draw of a random ranking; none where no metric reads them."""
    if not any(INFO[entry["metric"]].reads == "curve" for entry in metrics.values()):
        return [[] for _ in maps]
    whole = any(_reads_whole_curve(entry) for entry in metrics.values())
    grids: list[Any] = [entry["grid"] for entry in metrics.values() if "grid" in entry]
    grids += [FULL] if whole else []
    grids += [[entry["fraction"]] for entry in metrics.values() if "fraction" in entry]
    attributable = [~np.array(item.special) for item in block.batch.encoded]
    predicted = block.predicted.tolist()
    place = {item: row for row, item in enumerate(block.batch.encoded)}
    found: dict[tuple[tuple[int, int], int], Curve] = {}
    for target in {one.target for one in maps}:
        rankings = {
            ((number, draw), place[one.encoded]): ranking
            for number, one in enumerate(maps)
            if one.target == target
            for draw, ranking in enumerate(_rankings(one))
        }
        if not rankings:
            continue
        targets = [target] * len(predicted)
        probe = block.probe(removal)
        found |= evaluate_curves(probe, rankings, attributable, targets, predicted, grids)
    curves: list[list[Curve]] = [[] for _ in maps]
    for ((number, _), _), curve in sorted(found.items(), key=lambda item: item[0]):
        curves[number].append(curve)
    return curves


def _reads_whole_curve(entry: Mapping[str, Any]) -> bool:
    """A metric of curves that names no fractions of its own may look anywhere."""
    reads_curve = INFO[entry["metric"]].reads == "curve"
    return reads_curve and not {"grid", "fraction"} & entry.keys()


def _rankings(one: AttributionMap) -> list[Int[np.ndarray, " U"]]:
    """By signed score; a text's ties are broken alike in all settings. None where a score is not finite."""
    if not one.finite:
        return []
    attributable = np.array(one.attributable)
    draws = one.scores[None] if one.draws is None else one.draws
    seed = token_hash(one.token_ids)
    return [rank(scores, attributable, signed=True, tie_seed=seed) for scores in draws]


def _row(
    one: AttributionMap, curves: Sequence[Curve], name: str, entry: Mapping[str, Any], removal: str
) -> Row:
    hyper = {key: value for key, value in entry.items() if key != "metric"}
    info, function = INFO[entry["metric"]], METRICS[entry["metric"]]
    reads_curve = info.reads == "curve"
    row = {
        "setting_id": one.setting["setting_id"],
        "example_id": one.example_id,
        "metric": name,
        "removal": removal if reads_curve else None,
        "unit": info.unit,
        "higher_is_better": info.higher_is_better,
    }
    if not one.finite:
        return row | {"value": None, "status": FAILED, "reason": NOT_FINITE}
    read = curves if reads_curve else [one]
    try:
        values = [function(item, **hyper) for item in read]
    except NotApplicable as reason:
        return row | {"value": None, "status": NOT_APPLICABLE, "reason": str(reason)}
    value = float(np.mean(values))
    if not np.isfinite(value):
        return row | {"value": None, "status": FAILED, "reason": f"the value is {value}"}
    return row | {"value": value, "status": OK, "reason": None}


def _curve_rows(one: AttributionMap, curves: Sequence[Curve], removal: str) -> list[Row]:
    """The curve by k; of a random ranking its mean over the draws, which has no class that could flip."""
    if not curves:
        return []
    deletion = np.mean([curve.deletion for curve in curves], 0)
    insertion = np.mean([curve.insertion for curve in curves], 0)
    return [
        {
            "setting_id": one.setting["setting_id"],
            "example_id": one.example_id,
            "removal": removal,
            "k": int(k),
            "n_units": curves[0].n_units,
            "deletion": float(deletion[index]),
            "insertion": float(insertion[index]),
            "flipped": bool(curves[0].flipped[index]) if len(curves) == 1 else None,
        }
        for index, k in enumerate(curves[0].k)
    ]


def agreement_rows(maps: Sequence[AttributionMap]) -> list[Row]:
    """Kendall's τ-b of every two settings on every example."""
    by_example: dict[str, list[AttributionMap]] = {}
    for one in maps:
        by_example.setdefault(one.example_id, []).append(one)
    return [_pair(a, b) for own in by_example.values() for a, b in combinations(own, 2)]


def _pair(a: AttributionMap, b: AttributionMap) -> Row:
    row = {
        "setting_a": a.setting["setting_id"],
        "setting_b": b.setting["setting_id"],
        "example_id": a.example_id,
        "metric": "kendall_tau",
    }
    if not (a.finite and b.finite):
        return row | {"value": None, "status": FAILED, "reason": NOT_FINITE}
    try:
        tau = kendall_tau(a.scores, b.scores, np.array(a.attributable))
        return row | {"value": tau, "status": OK, "reason": None}
    except NotApplicable as reason:
        return row | {"value": None, "status": NOT_APPLICABLE, "reason": str(reason)}
