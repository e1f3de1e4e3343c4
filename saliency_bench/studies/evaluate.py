"""Evaluation of the maps of a block: every metric of every map, and the curves that metrics read."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.rows import FAILED, NOT_APPLICABLE, OK
from saliency_bench.core.seeding import token_hash
from saliency_bench.core.text import Encoded
from saliency_bench.core.units import NONE, heads, summed, units
from saliency_bench.evaluation.curves import OUTPUTS, Curve, Explained, evaluate_curves
from saliency_bench.evaluation.grid import FULL
from saliency_bench.evaluation.metrics import INFO, METRICS, NotApplicable
from saliency_bench.evaluation.query import Query
from saliency_bench.evaluation.ranking import rank
from saliency_bench.evaluation.removal import operator_for
from saliency_bench.evaluation.truth import Truth
from saliency_bench.evaluation.view import SIGNED, View, hyperparameters, views_of
from saliency_bench.models.references import References
from saliency_bench.models.tasks.registry import refusal
from saliency_bench.studies.block import OpenBlock, opened_blocks

Entries = Mapping[str, Mapping[str, Any]]
Row = dict[str, Any]

NOTHING = ""  # the removal of metrics that remove nothing
NOT_FINITE = "a score is not finite"
NO_BASELINE = "the method compares with no vector that could replace a token"


@dataclass
class Evaluated:
    """Rows of a block, without the cell they belong to: see `rows.TABLES`."""

    rows: list[Row] = field(default_factory=list)
    curves: list[Row] = field(default_factory=list)


def evaluate_block(
    block: OpenBlock,
    maps: Sequence[AttributionMap],
    metrics: Entries,
    usual: Sequence[View],
) -> Evaluated:
    """All metrics of all maps of a block, and their curves.

    `usual` is how texts are looked at where a metric says nothing else; a metric of removals has a row for each.
    """
    entries = [_Entry.of(name, entry, usual) for name, entry in metrics.items()]
    evidence = _Evidence(block, maps, entries)
    evaluated = Evaluated()
    for place, attribution in enumerate(maps):
        for entry in entries:
            for view in entry.views or (None,):
                evaluated.rows.append(_row(evidence, place, entry, view))
        for view in usual:
            if view in evidence.curves:
                evaluated.curves += _curve_rows(
                    attribution, evidence.curves[view][place], view.removal
                )
    return evaluated


def planned(
    metrics: Entries, usual: Sequence[View]
) -> tuple[list[tuple[str, str | None]], list[tuple[str, str]]]:
    """The (metric, removal) of the rows that `evaluate_block` makes of every map, and those read from curves it returns."""
    entries = [_Entry.of(name, entry, usual) for name, entry in metrics.items()]
    rows = [(entry.name, _removal(view)) for entry in entries for view in entry.views or (None,)]
    curves = [
        (entry.name, view.removal)
        for entry in entries
        if entry.reads == "curve"
        for view in entry.views
        if view in usual
    ]
    return rows, curves


def evaluate_maps(
    refs: References,
    maps: Sequence[AttributionMap],
    metrics: Entries,
    usual: Sequence[View],
    token_budget: int,
) -> list[Row]:
    """Metric rows of maps of any inputs, in the order of the maps; the model must be frozen."""
    rows_of: dict[int, list[Row]] = {}
    places: dict[Encoded, list[int]] = {}
    for place, attribution in enumerate(maps):
        places.setdefault(attribution.encoded, []).append(place)
    encoded = list(places)
    for block, opened in opened_blocks(refs, encoded, "predicted", token_budget):
        in_block = [
            (place, maps[place]) for index in block.indices for place in places[encoded[index]]
        ]
        rows = evaluate_block(
            opened, [attribution for _, attribution in in_block], metrics, usual
        ).rows
        each = len(rows) // len(in_block)
        for number, (place, attribution) in enumerate(in_block):
            of_map = rows[number * each : (number + 1) * each]
            context = {
                "input_index": attribution.input_index,
                "method": attribution.setting["method"],
                "backend": attribution.setting["backend"],
            }
            rows_of[place] = [context | row for row in of_map]
    return [row for place in sorted(rows_of) for row in rows_of[place]]


@dataclass(frozen=True)
class _Entry:
    """A metric entry: its function's name, its hyperparameters, and its views of a text; none where it reads the map alone."""

    name: str
    metric: str
    hyper: Mapping[str, Any]
    views: tuple[View, ...]

    @classmethod
    def of(cls, name: str, entry: Mapping[str, Any], usual: Sequence[View]) -> "_Entry":
        metric = entry["metric"]
        declared = METRICS.hyperparameters(metric)
        reads = INFO[metric].reads
        views = () if reads == "attribution" else tuple(views_of(entry, declared, usual))
        if (
            reads == "truth"
        ):  # it removes nothing: one row, however texts are changed for other metrics
            views = tuple(dict.fromkeys(replace(view, removal=NOTHING) for view in views))
        return cls(name, metric, hyperparameters(entry, declared), views)

    @cached_property
    def reads(self) -> str:
        return INFO[self.metric].reads

    @cached_property
    def function(self) -> Callable[..., float]:
        return METRICS[self.metric]

    @property
    def grids(self) -> list[Any]:
        """The grids at which it reads a curve; a metric of curves that names none may read it anywhere."""
        if "grid" in self.hyper:
            return [self.hyper["grid"]]
        return [[self.hyper["fraction"]]] if "fraction" in self.hyper else [FULL]

    def __call__(self, read: Any) -> float:
        return self.function(read, **self.hyper)


class _Ranked(NamedTuple):
    """A map's units under a view, or those of one draw of a random ranking.

    `names` are the positions of the units' first tokens, `scores` the sums over each unit, `sizes` what the units are
    ranked by, and `ranking` lists their places, most relevant first.
    """

    names: Int[np.ndarray, " U"]
    scores: Float[np.ndarray, " U"]
    sizes: Float[np.ndarray, " U"]
    ranking: Int[np.ndarray, " U"]

    @property
    def ordered(self) -> bool:
        """Whether any two units differ."""
        return len(self.sizes) > 1 and bool(np.ptp(self.sizes) > 0)


class _Units:
    """The units of a text: the unit of each token, whether a token is the first of its unit, and the places of these."""

    def __init__(self, encoded: Encoded, granularity: str) -> None:
        self.of = units(encoded, granularity)
        self.first = heads(self.of)
        self.names = np.flatnonzero(self.first)
        self.seed = token_hash(encoded.input_ids)


def _ranked(attribution: AttributionMap, view: View, of_text: _Units) -> list[_Ranked]:
    """The ranked units of a map, once for each draw of a random ranking. A text's ties are broken alike in all settings."""
    names, signed = of_text.names, view.ranking == SIGNED
    ranked = []
    for draw in attribution.scores[None] if attribution.draws is None else attribution.draws:
        sums = summed(draw, of_text.of)
        order = rank(sums, of_text.first, signed=signed, tie_seed=of_text.seed)
        ranking = names.searchsorted(order)
        scores = sums[names]
        ranked.append(_Ranked(names, scores, scores if signed else np.abs(scores), ranking))
    return ranked


class _Evidence:
    """All that metrics read about the maps of a block; each distinct question is put to the model once for all maps."""

    def __init__(
        self, block: OpenBlock, maps: Sequence[AttributionMap], entries: Sequence[_Entry]
    ) -> None:
        self.block, self.maps = block, maps
        self.place = {item: row for row, item in enumerate(block.batch.encoded)}
        self.rows = [self.place[attribution.encoded] for attribution in maps]
        self.units: dict[tuple[int, str], _Units] = {}
        self.refusals: dict[str, str | None] = {}
        self.shared: dict[Hashable, dict[Hashable, Any]] = {}
        grids: dict[View, list[Any]] = {}
        for entry in entries:
            if entry.reads == "curve":
                for view in entry.views:
                    grids.setdefault(view, []).extend(entry.grids)
        self.curves = {view: self._curves(view, of_view) for view, of_view in grids.items()}

    def refusal(self, place: int, view: View | None) -> str | None:
        """Why nothing can be removed from a map's text in this way; None where it can."""
        if view is None or view.removal == NOTHING:
            return None
        operator = operator_for(view.removal, self.maps[place].setting)
        if operator is None:
            return NO_BASELINE
        if operator not in self.refusals:
            self.refusals[operator] = refusal(self.block.model, operator) or self.block.unfit(
                operator
            )
        return self.refusals[operator]

    def units_of(self, row: int, granularity: str) -> _Units:
        """The units of the text in a row of the block, found once for all of its maps."""
        if (row, granularity) not in self.units:
            self.units[row, granularity] = _Units(self.block.batch.encoded[row], granularity)
        return self.units[row, granularity]

    def ranked(self, place: int, view: View) -> list[_Ranked]:
        """The units of a map under a view: once, or once per draw of a random ranking."""
        of_text = self.units_of(self.rows[place], view.granularity)
        return _ranked(self.maps[place], view, of_text)

    def of(self, place: int, entry: _Entry, view: View | None) -> Sequence[Any]:
        """The arguments that a metric reads of a map: one, or one for each draw of a random ranking."""
        attribution = self.maps[place]
        if view is None:
            return [attribution]
        if entry.reads == "curve":
            return self.curves[view][place]
        return (
            _truths(
                attribution,
                self.ranked(place, view),
                self.units_of(self.rows[place], view.granularity),
            )
            if entry.reads == "truth"
            else self._queries(place, view)
        )

    def _explained(self, attribution: AttributionMap) -> Explained:
        return Explained(attribution.target, attribution.against, self.block.model.multi_label)

    def _curves(self, view: View, grids: Sequence[Any]) -> list[list[Curve]]:
        """The curves of each map: one, or one per draw of a random ranking; none where there is no answer."""
        texts = range(len(self.block.batch))
        unit_of = [self.units_of(row, view.granularity).of for row in texts]
        logits = self.block.logits.double().cpu().numpy()
        curves: list[list[Curve]] = [[] for _ in self.maps]
        together: dict[tuple[Explained, str | None], list[int]] = {}
        for place, attribution in enumerate(self.maps):
            if attribution.finite and self.refusal(place, view) is None:
                operator = operator_for(view.removal, attribution.setting)
                together.setdefault((self._explained(attribution), operator), []).append(place)
        for (explained, operator), places in together.items():
            ranked = {
                ((place, draw), self.rows[place]): units_of_draw
                for place in places
                for draw, units_of_draw in enumerate(self.ranked(place, view))
            }
            of_draws = evaluate_curves(
                self.block.probe(str(operator)),
                {key: draw.names[draw.ranking] for key, draw in ranked.items()},
                unit_of,
                [explained] * len(unit_of),
                explained.decided(logits).tolist(),
                grids,
                view.output,
                {key: draw.ordered for key, draw in ranked.items()},
            )
            for ((place, _), _), curve in of_draws.items():
                curves[place].append(curve)
        return curves

    def _queries(self, place: int, view: View) -> list[Query]:
        """One query, or one per draw of a random ranking: the same probes and draws for all maps of a text."""
        attribution, row = self.maps[place], self.rows[place]
        of_text = self.units_of(row, view.granularity)
        names, name = of_text.names, of_text.seed
        # The unit of each token by its place among the units; special tokens have the place after the last.
        index = np.where(of_text.of == NONE, len(names), names.searchsorted(of_text.of))
        explained = self._explained(attribution)
        operator = operator_for(view.removal, attribution.setting)
        assert operator is not None  # `refusal` says so of others

        def ask(kept: Bool[np.ndarray, "N U"]) -> Float[np.ndarray, " N"]:
            stays = np.column_stack([kept, np.ones(len(kept), dtype=bool)])[:, index]
            rows = np.full(len(kept), row)
            return explained.read(self.block.probe(operator)(rows, list(stays)), view.output)

        def blur(stays: Float[np.ndarray, " U"], n_draws: int) -> Float[np.ndarray, " n"]:
            logits = self.block.blurring(row, np.append(stays, 1.0)[index], n_draws, name)
            return explained.read(logits, view.output)

        shared = self.shared.setdefault((row, explained, operator, view), {})
        return [
            Query(draw.scores, draw.ranking, ask, blur, name, shared)
            for draw in self.ranked(place, view)
        ]


def _truths(attribution: AttributionMap, ranked: Sequence[_Ranked], of_text: _Units) -> list[Truth]:
    """The units of a text that are known to matter, beside its scores; one for each draw of a random ranking."""
    relevant = attribution.encoded.relevant
    # A word matters if any of its pieces does.
    matters = (
        None
        if relevant is None
        else np.isin(of_text.names, of_text.of[np.array(relevant, dtype=bool)])
    )
    return [Truth(draw.sizes, draw.ranking, matters) for draw in ranked]


def _row(evidence: _Evidence, place: int, entry: _Entry, view: View | None) -> Row:
    attribution, info = evidence.maps[place], INFO[entry.metric]
    row = {
        "setting_id": attribution.setting["setting_id"],
        "example_id": attribution.example_id,
        "metric": entry.name,
        "removal": _removal(view),
        "unit": info.unit if view is None else _unit(info.unit, view),
        "higher_is_better": info.higher_is_better,
    }
    if not attribution.finite:
        return row | {"value": None, "status": FAILED, "reason": NOT_FINITE}
    if reason := evidence.refusal(place, view):
        return row | {"value": None, "status": NOT_APPLICABLE, "reason": reason}
    try:
        items = evidence.of(place, entry, view)
        values = [entry(item) for item in items]
    except NotApplicable as error:
        return row | {"value": None, "status": NOT_APPLICABLE, "reason": str(error)}
    value = float(values[0] if len(values) == 1 else np.mean(values))
    if not np.isfinite(value):
        return row | {"value": None, "status": FAILED, "reason": _why_not_finite(value, items)}
    return row | {"value": value, "status": OK, "reason": None}


def _why_not_finite(value: float, items: Sequence[Any]) -> str:
    """Says whether the model's outputs are NaN, or a metric makes a value of them that is not finite."""
    curves = [item for item in items if isinstance(item, Curve)]
    if any(np.isnan([curve.deletion, curve.insertion]).any() for curve in curves):
        return "the model's output is NaN for some text that the removal leaves: use another removal, or float32"
    return f"the value is {value}"


def _removal(view: View | None) -> str | None:
    """The removal of a row; None where nothing is removed."""
    return view.removal or None if view else None


def _unit(declared: str, view: View) -> str:
    """A metric's unit where the curves show another output or have other units."""
    if declared == "probability":
        return OUTPUTS[view.output][1]
    return declared.replace("units", f"{view.granularity}s")


def _curve_rows(attribution: AttributionMap, curves: Sequence[Curve], removal: str) -> list[Row]:
    """The curve by k; of a random ranking its mean over the draws, which has no class that could flip."""
    if not curves:
        return []
    deletion = np.mean([curve.deletion for curve in curves], 0)
    insertion = np.mean([curve.insertion for curve in curves], 0)
    if not (np.isfinite(deletion).all() and np.isfinite(insertion).all()):
        return []  # the rows of its metrics say that they failed
    return [
        {
            "setting_id": attribution.setting["setting_id"],
            "example_id": attribution.example_id,
            "removal": removal,
            "k": int(k),
            "n_units": curves[0].n_units,
            "deletion": float(deletion[index]),
            "insertion": float(insertion[index]),
            "flipped": bool(curves[0].flipped[index]) if len(curves) == 1 else None,
        }
        for index, k in enumerate(curves[0].k)
    ]
