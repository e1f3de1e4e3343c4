"""Maps judged: every metric of every map of a block, with the curves they were read from."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.rows import FAILED, NOT_APPLICABLE, OK
from saliency_bench.core.seeding import token_hash
from saliency_bench.core.text import Encoded
from saliency_bench.evaluation.agreement import (
    RBO,
    TOP_K_JACCARD,
    kendall_tau,
    rank_biased_overlap,
    top_k_jaccard,
)
from saliency_bench.evaluation.curves import OUTPUTS, Curve, Explained, evaluate_curves
from saliency_bench.evaluation.grid import FULL, count
from saliency_bench.evaluation.metrics import INFO, METRICS, NotApplicable
from saliency_bench.evaluation.query import Inquiry
from saliency_bench.evaluation.ranking import rank
from saliency_bench.evaluation.removal import own_operator
from saliency_bench.evaluation.truth import Truth
from saliency_bench.evaluation.units import NONE, heads, summed, units
from saliency_bench.evaluation.view import SIGNED, Reading, hyperparameters, readings
from saliency_bench.models.model import Model
from saliency_bench.models.references import References
from saliency_bench.models.tasks.registry import refusal
from saliency_bench.study.block import OpenBlock, opened_blocks

Entries = Mapping[str, Mapping[str, Any]]
Row = dict[str, Any]

NOTHING = ""  # the removal of metrics that remove nothing
NOT_FINITE = "a score is not finite"
NO_BASELINE = "the method compares with no vector that could replace a token"


@dataclass
class Judged:
    """Rows of a block, without the cell they belong to: see `rows.TABLES`."""

    rows: list[Row] = field(default_factory=list)
    curves: list[Row] = field(default_factory=list)


def judge_block(
    block: OpenBlock,
    maps: Sequence[AttributionMap],
    metrics: Entries,
    usual: Sequence[Reading],
) -> Judged:
    """All metrics of all maps of a block, and their curves.

    `usual` is how texts are looked at where a metric says nothing else; a metric of removals has a row for each.
    """
    asked = [_Asked.of(name, entry, usual) for name, entry in metrics.items()]
    views = list(dict.fromkeys(view for one in asked if one.reads == "curve" for view in one.views))
    curves = {view: _curves(block, maps, asked, view) for view in views}
    bench = _Inquiries(block)
    judged = Judged()
    for number, one in enumerate(maps):
        for metric in asked:
            for view in metric.views or (None,):
                read = _read(metric, view, one, number, curves, bench, block.model)
                judged.rows.append(_row(one, metric, view, read, block.model))
        for view in usual:
            if view in curves:
                judged.curves += _curve_rows(one, curves[view][number], view.removal)
    return judged


def planned(
    metrics: Entries, usual: Sequence[Reading]
) -> tuple[list[tuple[str, str | None]], list[tuple[str, str]]]:
    """The (metric, removal) of the rows that `judge_block` makes of every map, and those read from curves it returns."""
    asked = [_Asked.of(name, entry, usual) for name, entry in metrics.items()]
    rows = [(one.name, _removal(view)) for one in asked for view in one.views or (None,)]
    curves = [
        (one.name, view.removal)
        for one in asked
        if one.reads == "curve"
        for view in one.views
        if view in usual
    ]
    return rows, curves


def judge_maps(
    refs: References,
    maps: Sequence[AttributionMap],
    metrics: Entries,
    usual: Sequence[Reading],
    token_budget: int,
) -> list[Row]:
    """Metric rows of maps of any inputs, in the order of the maps; the model must be frozen."""
    found: dict[int, list[Row]] = {}
    places: dict[Encoded, list[int]] = {}
    for place, one in enumerate(maps):
        places.setdefault(one.encoded, []).append(place)
    encoded = list(places)
    for block, opened in opened_blocks(refs, encoded, "predicted", token_budget):
        own = [(place, maps[place]) for index in block.indices for place in places[encoded[index]]]
        rows = judge_block(opened, [one for _, one in own], metrics, usual).rows
        each = len(rows) // len(own)
        for number, (place, one) in enumerate(own):
            mine = rows[number * each : (number + 1) * each]
            context = {"method": one.setting["method"], "backend": one.setting["backend"]}
            found[place] = [{"input_index": one.input_index} | context | row for row in mine]
    return [row for place in sorted(found) for row in found[place]]


@dataclass(frozen=True)
class _Asked:
    """A metric entry: its function's name and hyperparameters, and the ways it looks at a text; none for a map's own."""

    name: str
    metric: str
    hyper: Mapping[str, Any]
    views: tuple[Reading, ...]

    @classmethod
    def of(cls, name: str, entry: Mapping[str, Any], usual: Sequence[Reading]) -> "_Asked":
        metric = entry["metric"]
        declared = METRICS.hyperparameters(metric)
        reads = INFO[metric].reads
        views = () if reads == "attribution" else tuple(readings(entry, declared, usual))
        if (
            reads == "truth"
        ):  # it removes nothing: one row, however texts are changed for other metrics
            views = tuple(dict.fromkeys(replace(view, removal=NOTHING) for view in views))
        return cls(name, metric, hyperparameters(entry, declared), views)

    @property
    def reads(self) -> str:
        return INFO[self.metric].reads

    @property
    def grids(self) -> list[Any]:
        """The grids that it reads a curve at; a metric of curves that names none may look anywhere."""
        if "grid" in self.hyper:
            return [self.hyper["grid"]]
        return [[self.hyper["fraction"]]] if "fraction" in self.hyper else [FULL]

    def __call__(self, read: Any) -> float:
        return METRICS[self.metric](read, **self.hyper)


def _read(
    metric: _Asked,
    view: Reading | None,
    one: AttributionMap,
    number: int,
    curves: Mapping[Reading, Sequence[Sequence[Curve]]],
    bench: "_Inquiries",
    model: Model,
) -> Sequence[Any]:
    """What the metric reads of a map: one thing, or one per draw of a random ranking."""
    if not one.finite:
        return []
    if view is None:
        return [one]
    if metric.reads == "truth":
        return _truths(one, view)
    if _unaskable(model, view, one) is not None:
        return []
    return curves[view][number] if metric.reads == "curve" else bench.of(one, view)


def _curves(
    block: OpenBlock, maps: Sequence[AttributionMap], asked: Sequence[_Asked], view: Reading
) -> list[list[Curve]]:
    """The curves of each map: one, or one per draw of a random ranking."""
    grids = [
        grid for one in asked if one.reads == "curve" and view in one.views for grid in one.grids
    ]
    unit_of = [units(item, view.granularity) for item in block.batch.encoded]
    place = {item: row for row, item in enumerate(block.batch.encoded)}
    found: dict[tuple[tuple[int, int], int], Curve] = {}
    asks = [(_explained(block.model, one), own_operator(view.removal, one.setting)) for one in maps]
    logits = block.logits.double().cpu().numpy()
    for explained, operator in dict.fromkeys(asks):
        rankings = {
            ((number, draw), place[one.encoded]): ranking
            for number, one in enumerate(maps)
            if asks[number] == (explained, operator)
            for draw, ranking in enumerate(_rankings(one, view))
        }
        if not rankings or operator is None or refusal(block.model, operator):
            continue
        found |= evaluate_curves(
            block.probe(operator),
            rankings,
            unit_of,
            [explained] * len(unit_of),
            explained.decided(logits).tolist(),
            grids,
            view.output,
        )
    curves: list[list[Curve]] = [[] for _ in maps]
    for ((number, draw), _), curve in sorted(found.items(), key=lambda item: item[0]):
        ordered = len(np.unique(_ranked(maps[number], view)[draw])) > 1
        curves[number].append(replace(curve, ordered=ordered))
    return curves


def _explained(model: Model, one: AttributionMap) -> Explained:
    """What a map explains, as metrics read it."""
    return Explained(one.target, one.against, model.multi_label)


def _rankings(one: AttributionMap, view: Reading) -> list[Int[np.ndarray, " U"]]:
    """The names of units, most relevant first; a text's ties are broken alike in all settings.

    None where a score is not finite.
    """
    if not one.finite:
        return []
    unit_of = units(one.encoded, view.granularity)
    seed = token_hash(one.token_ids)
    signed = view.ranking == SIGNED
    return [
        rank(summed(scores, unit_of), heads(unit_of), signed=signed, tie_seed=seed)
        for scores in _draws(one)
    ]


def _ranked(one: AttributionMap, view: Reading) -> list[Float[np.ndarray, " U"]]:
    """What the units of each draw are ranked by: their scores, or the magnitudes of these."""
    unit_of = units(one.encoded, view.granularity)
    own = [summed(scores, unit_of)[heads(unit_of)] for scores in _draws(one)]
    return own if view.ranking == SIGNED else [np.abs(one) for one in own]


def _truths(one: AttributionMap, view: Reading) -> list[Truth]:
    """What is known of the text beside its scores; one for each draw of a random ranking."""
    unit_of = units(one.encoded, view.granularity)
    names = np.flatnonzero(heads(unit_of))
    relevant = one.encoded.relevant
    # A word matters if any of its pieces does.
    known = None if relevant is None else np.isin(names, unit_of[np.array(relevant, dtype=bool)])
    found = []
    for scores, ranking in zip(_draws(one), _rankings(one, view), strict=True):
        own = summed(scores, unit_of)[names]
        found.append(
            Truth(
                own if view.ranking == SIGNED else np.abs(own),
                np.searchsorted(names, ranking),
                known,
            )
        )
    return found


def _draws(one: AttributionMap) -> Float[np.ndarray, "N T"]:
    return one.scores[None] if one.draws is None else one.draws


class _Inquiries:
    """What metrics ask about the maps of a block: the same probes and draws for all maps of a text."""

    def __init__(self, block: OpenBlock) -> None:
        self.block = block
        self.place = {item: row for row, item in enumerate(block.batch.encoded)}
        self.shared: dict[Hashable, dict[Hashable, Any]] = {}

    def of(self, one: AttributionMap, view: Reading) -> list[Inquiry]:
        """One inquiry, or one per draw of a random ranking."""
        row, unit_of = self.place[one.encoded], units(one.encoded, view.granularity)
        names = np.flatnonzero(heads(unit_of))
        # The unit of each token by its place among the units; special tokens have the place after the last.
        index = np.where(unit_of == NONE, len(names), np.searchsorted(names, unit_of))
        name = token_hash(one.token_ids)
        operator = own_operator(view.removal, one.setting)
        explained = _explained(self.block.model, one)
        if operator is None:
            raise ValueError(
                f"{one.setting['method']} has no {view.removal} that could replace a token"
            )

        def ask(kept: Bool[np.ndarray, "N U"]) -> Float[np.ndarray, " N"]:
            stays = np.column_stack([kept, np.ones(len(kept), dtype=bool)])[:, index]
            rows = np.full(len(kept), row)
            return explained.read(self.block.probe(operator)(rows, list(stays)), view.output)

        def blur(stays: Float[np.ndarray, " U"], n_draws: int) -> Float[np.ndarray, " n"]:
            logits = self.block.blurring(row, np.append(stays, 1.0)[index], n_draws, name)
            return explained.read(logits, view.output)

        shared = self.shared.setdefault((row, explained, operator, view), {})
        rankings = _rankings(one, view)
        return [
            Inquiry(
                summed(scores, unit_of)[names],
                np.searchsorted(names, ranking),
                ask,
                blur,
                name,
                shared,
            )
            for scores, ranking in zip(_draws(one), rankings, strict=True)
        ]


def _unaskable(model: Model, view: Reading, one: AttributionMap) -> str | None:
    """Why nothing can be removed from this map's text in this way; None where it can."""
    if view.removal == NOTHING:
        return None
    operator = own_operator(view.removal, one.setting)
    return NO_BASELINE if operator is None else refusal(model, operator)


def _row(
    one: AttributionMap,
    metric: _Asked,
    view: Reading | None,
    read: Sequence[Any],
    model: Model,
) -> Row:
    info = INFO[metric.metric]
    row = {
        "setting_id": one.setting["setting_id"],
        "example_id": one.example_id,
        "metric": metric.name,
        "removal": _removal(view),
        "unit": info.unit if view is None else _unit(info.unit, view),
        "higher_is_better": info.higher_is_better,
    }
    if not one.finite:
        return row | {"value": None, "status": FAILED, "reason": NOT_FINITE}
    if view is not None and (reason := _unaskable(model, view, one)):
        return row | {"value": None, "status": NOT_APPLICABLE, "reason": reason}
    try:
        values = [metric(item) for item in read]
    except NotApplicable as reason:
        return row | {"value": None, "status": NOT_APPLICABLE, "reason": str(reason)}
    value = float(np.mean(values))
    if not np.isfinite(value):
        return row | {"value": None, "status": FAILED, "reason": f"the value is {value}"}
    return row | {"value": value, "status": OK, "reason": None}


def _removal(view: Reading | None) -> str | None:
    """What a row says of it; None where nothing is removed."""
    return view.removal or None if view else None


def _unit(declared: str, view: Reading) -> str:
    """A metric's unit where the curves show another output or have other units."""
    if declared == "probability":
        return OUTPUTS[view.output][1]
    return declared.replace("units", f"{view.granularity}s")


def _curve_rows(one: AttributionMap, curves: Sequence[Curve], removal: str) -> list[Row]:
    """The curve by k; of a random ranking its mean over the draws, which has no class that could flip."""
    if not curves:
        return []
    deletion = np.mean([curve.deletion for curve in curves], 0)
    insertion = np.mean([curve.insertion for curve in curves], 0)
    if not (np.isfinite(deletion).all() and np.isfinite(insertion).all()):
        return []  # the rows of its metrics say that they failed
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


def agreement_rows(
    maps: Sequence[AttributionMap], metrics: Sequence[str], granularity: str, k: float, p: float
) -> list[Row]:
    """How far every two settings agree on every example, by each of the metrics (`agreement.NAMES`).

    Units are ranked by their scores; `k` is the share of them at the top, `p` the persistence of RBO. `chance` is what
    two random rankings have on average.
    """
    by_example: dict[str, list[_Ranked]] = {}
    for one in maps:
        by_example.setdefault(one.example_id, []).append(_Ranked(one, granularity))
    return [
        _pair(a, b, metric, k, p)
        for own in by_example.values()
        for a, b in combinations(own, 2)
        for metric in metrics
    ]


class _Ranked:
    """A map's units, their scores and their order.

    Equal scores are ordered by text and setting: broken alike in two maps, ties would agree of themselves.
    """

    def __init__(self, one: AttributionMap, granularity: str) -> None:
        self.map = one
        unit_of = units(one.encoded, granularity)
        self.heads = heads(unit_of)
        self.scores = summed(one.scores, unit_of)
        self.order = np.arange(0)
        if one.finite:
            seed = f"{token_hash(one.token_ids)} {one.setting['setting_id']}"
            ranking = rank(self.scores, self.heads, signed=True, tie_seed=seed)
            self.order = np.searchsorted(np.flatnonzero(self.heads), ranking)


def _pair(a: _Ranked, b: _Ranked, metric: str, k: float, p: float) -> Row:
    row = {
        "setting_a": a.map.setting["setting_id"],
        "setting_b": b.map.setting["setting_id"],
        "example_id": a.map.example_id,
        "metric": metric,
    }
    nothing = {"value": None, "chance": None}
    if not (a.map.finite and b.map.finite):
        return row | nothing | {"status": FAILED, "reason": NOT_FINITE}
    try:
        value, chance = _agreement(a, b, metric, k, p)
    except NotApplicable as reason:
        return row | nothing | {"status": NOT_APPLICABLE, "reason": str(reason)}
    return row | {"value": value, "chance": chance, "status": OK, "reason": None}


def _agreement(a: _Ranked, b: _Ranked, metric: str, k: float, p: float) -> tuple[float, float]:
    """The value, and that by chance; where there is no order to compare, there is none in any metric."""
    tau = kendall_tau(a.scores, b.scores, a.heads)
    if metric == TOP_K_JACCARD:
        return top_k_jaccard(a.order, b.order, count(k, len(a.order)))
    if metric == RBO:
        return rank_biased_overlap(a.order, b.order, p)
    return tau, 0.0
