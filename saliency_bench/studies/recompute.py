"""Computes blocks of a finished study again and compares the numbers.

On a machine like the one that made them the tables must be the same to the byte. Elsewhere sums are taken in another
order. What is no real number must still be the same, and real numbers that a leaderboard shows are held against what the
library promises of any two orders (`parity.REORDERING`, r; of float64 and float32 alone):

1. A score may differ by r of its text's largest score. Scores of methods that give one number per token are differences of
   outputs, each off by r of its size: where their largest score is smaller than 1 they may differ by r, but by no more than
   a hundredth of that score, since any order would be allowed otherwise.
2. Rounding moves scores past each other only where they nearly tie: of one method at most `MOST_REORDERED` of the maps,
   or one map, may be in another order.
3. A value that removes tokens is computed here from the submission's own scores, and so from their order. It combines at
   most four probabilities, none larger than 1: it may differ by 4 r. A normalised value is divided by what it is
   relative to, as small as the metric's floor f: it may differ by 4 r (1 + its size) / f. Log-odds and log-probabilities
   are differences of logits: where p is the probability of the whole text, they may differ by 4 r (1 + their size + |log p| +
   |log(1 - p)|). A run that was thinned may hold no maps. Then values are computed from today's scores, and only those of
   texts whose order rounding cannot change are compared: no two scores are closer than twice what 1 allows.
4. The completeness gap adds the scores of T tokens, and subtracts two outputs: it may differ by r (T times the largest
   score, and twice the size of the difference of outputs, or of 1), relative to that difference if the metric is.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from saliency_bench.attribution.methods import KINDS
from saliency_bench.attribution.parity import REORDERING
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.rows import OK, TABLES
from saliency_bench.models.loading import DTYPES
from saliency_bench.models.references import References
from saliency_bench.store.parquet import from_parquet, merge, to_parquet, to_table
from saliency_bench.studies.block import Piece
from saliency_bench.studies.block_tables import pieces_of
from saliency_bench.studies.prepare import Study
from saliency_bench.studies.run import piece_tables

#: The tables that are compared; times are not.
COMPARED = ("examples", "maps", "rows")
#: The number of probabilities that a value combines at most: two where tokens are dropped, two where they are kept.
PROBABILITIES = 4
#: The completeness gap, and the same over the difference of outputs.
GAPS = ("completeness_gap", "completeness_gap_relative")
#: The unit of logarithms of probabilities.
NATS = "nats"
#: The least distance from 0 and 1 of a probability whose logarithm is taken.
EPSILON = 2.0**-52
#: The types in which machines are compared.
TOLERATED = ("float64", "float32")
#: The share of a method's maps in which near ties may be ordered otherwise.
MOST_REORDERED = 0.05
#: The largest difference that scores of tokens may have, over the text's largest.
MOST_APART = 0.01


@dataclass(frozen=True)
class Recomputed:
    """Tables of pieces of a finished run: those of its folder, and those computed here."""

    pieces: tuple[Piece, ...]
    held: Mapping[str, pa.Table]
    here: Mapping[str, pa.Table]


@dataclass(frozen=True)
class Verified:
    """The comparison of the blocks that were computed again.

    `machine` says in what this machine differs from the submission's; empty where it is alike. `scores` and `values` are
    the largest differences relative to what is allowed: numbers up to 1 are within. `reordered` counts the maps in
    another order, of the setting that has most of them. `exact` says whether all is the same that is no real number.
    """

    blocks: tuple[str, ...]
    n_blocks: int
    n_texts: int
    n_values: int
    machine: tuple[str, ...]
    same_bytes: bool
    scores: float
    values: float
    reordered: int
    exact: bool
    first: str  # the score or value that differs most, in words

    @property
    def holds(self) -> bool:
        """Whether the numbers are those of the submission, by the standard that applies."""
        within = max(self.scores, self.values) <= 1
        return within and self.exact and self.ordered if self.machine else self.same_bytes

    @property
    def ordered(self) -> bool:
        """Whether so few maps are in another order that near ties explain it."""
        return self.reordered <= max(1, MOST_REORDERED * self.n_texts)

    @property
    def why(self) -> str:
        """Why it does not hold."""
        if max(self.scores, self.values) > 1 or (self.first and self.exact and self.ordered):
            return f"what differs most is {self.first}"
        if not self.ordered:
            return "more maps are in another order than rounding explains"
        return "the tables differ outside scores and values"


def recompute(
    study: Study,
    folder: Path,
    pieces: Sequence[Piece],
    say: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Recomputed:
    """Computes pieces of the plan of a finished run again; values are those of the scores that the run holds.

    Args:
        study: the run's, prepared here.
        folder: that of the run.
        pieces: of `pieces_of(study)`.
        say: called with the stage, the number of steps done and their total.

    Raises:
        StorageError: a table of the folder is damaged.
    """
    held = _held(study, folder, pieces)
    return Recomputed(tuple(pieces), held, _computed(study, pieces, held.get("maps"), say))


def compare(
    study: Study,
    recomputed: Recomputed,
    machine: tuple[str, ...],
    settings: Collection[str] | None = None,
    more: float = 0.0,
) -> Verified:
    """Compares what a run holds with what comes out here.

    Args:
        study: the run's, prepared here.
        recomputed: see `recompute`.
        machine: in what this machine differs from the run's; where it is empty, bytes must be equal.
        settings: the ids of the settings that are compared; None: all.
        more: what is added to r: how far off the run's code is known to have been.
    """
    held, here = (
        {name: _of_settings(table, settings) for name, table in tables.items()}
        for tables in (recomputed.held, recomputed.here)
    )
    dtype = study.config.runtime.dtype
    rounding = REORDERING[DTYPES[dtype]] + more if dtype in TOLERATED else 0.0
    scores, reordered, of_scores = 0.0, 0, ""
    if "maps" in held:
        scores, reordered, of_scores = _score_differences(
            _kinds(study), rounding, held["maps"], here["maps"]
        )
    values, of_values = _value_differences(study, held, here, rounding)
    return Verified(
        blocks=tuple(piece.name for piece in recomputed.pieces),
        n_blocks=len(pieces_of(study)),
        n_texts=len(here["examples"]),
        n_values=len(here["rows"]),
        machine=machine,
        same_bytes=all(to_parquet(held[name]) == to_parquet(here[name]) for name in held),
        scores=scores,
        values=values,
        reordered=reordered,
        exact=all(_exact(name, held).equals(_exact(name, here)) for name in held),
        first=of_scores if scores >= values else of_values,
    )


def _kinds(study: Study) -> dict[str, str]:
    """The kind of each setting's method (`methods.KINDS`), by setting id."""
    return {setting.id: KINDS[setting.method] for setting in study.settings}


def _of_settings(table: pa.Table, settings: Collection[str] | None) -> pa.Table:
    """The rows of these settings; all of a table that has no settings."""
    if settings is None or "setting_id" not in table.column_names:
        return table
    return table.filter(pc.is_in(table["setting_id"], pa.array([*settings], pa.string())))


def _held(study: Study, folder: Path, pieces: Sequence[Piece]) -> dict[str, pa.Table]:
    """The run's rows of these pieces, by table; a run that was thinned lacks some tables."""
    texts = pa.array(study.encoded[index].example_id for piece in pieces for index in piece.indices)
    tables = {}
    for path in (folder / f"{name}.parquet" for name in COMPARED):
        if not path.is_file():
            continue
        name = path.stem
        table = from_parquet(name, path.read_bytes(), path)
        table = table.filter(pc.is_in(table["example_id"], texts))
        # The id of a cell depends on the name of the model's folder too.
        cells = pa.array([study.cell_id] * len(table), pa.string())
        tables[name] = merge(name, [table.set_column(0, "cell_id", cells)])
    return tables


def _computed(
    study: Study,
    pieces: Sequence[Piece],
    held: pa.Table | None,
    say: Callable[[str, int, int], None],
) -> dict[str, pa.Table]:
    """The tables of these pieces, as a run stores them; values are those of the maps that are held, if any are."""
    maps = {} if held is None else _by_map(held)
    scores = {key: np.array(row["scores"], float) for key, row in maps.items()}

    def with_held(computed: AttributionMap) -> AttributionMap:
        theirs = scores.get((computed.setting["setting_id"], computed.encoded.example_id))
        if theirs is None or theirs.shape != computed.scores.shape:
            return computed  # which the comparison of scores says
        return replace(computed, scores=theirs)

    references, parts = References(study.model), []
    with study.model.frozen():
        for done, piece in enumerate(pieces):
            say("blocks", done, len(pieces))
            parts.append(piece_tables(study, references, piece, with_held))
    say("blocks", len(pieces), len(pieces))
    return {name: merge(name, [to_table(name, part[name]) for part in parts]) for name in COMPARED}


def _exact(name: str, tables: Mapping[str, pa.Table]) -> pa.Table:
    """The columns that are no real numbers."""
    kinds = TABLES[name]
    return tables[name].select([column for column in kinds if "float64" not in kinds[column]])


def _by_map(maps: pa.Table) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["setting_id"], row["example_id"]): row for row in maps.to_pylist()}


def _score_differences(
    kinds: Mapping[str, str], rounding: float, held: pa.Table, here: pa.Table
) -> tuple[float, int, str]:
    """The largest difference over what is allowed, how many maps a setting has in another order, and what differs most."""
    theirs, ours = _by_map(held), _by_map(here)
    if theirs.keys() != ours.keys():
        return np.inf, 0, "the maps are of other texts or settings"
    largest, first, reordered = 0.0, "", Counter[str]()
    for key, row in ours.items():
        a, b = np.array(theirs[key]["scores"], float), np.array(row["scores"], float)
        if a.shape != b.shape:
            return np.inf, 0, f"the number of scores of setting {key[0]}, text {key[1]}"
        tolerated = _tolerated(kinds[key[0]], rounding, float(np.abs(b).max()))
        apart = _over(float(np.abs(a - b).max()), tolerated)
        if apart > largest:
            largest, first = apart, f"a score of setting {key[0]}, text {key[1]}"
        ranked = np.array(row["attributable"])
        before, after = (np.argsort(-scores[ranked], kind="stable") for scores in (a, b))
        reordered[key[0]] += not np.array_equal(before, after)
    return largest, max(reordered.values(), default=0), first


def _tolerated(kind: str, rounding: float, size: float) -> float:
    """The difference that scores may have whose largest is `size`: point 1 of the module's text."""
    return min(rounding * max(size, 1.0 if kind == "token" else 0.0), MOST_APART * size)


def _over(difference: float, allowed: float) -> float:
    """The difference relative to the allowed one; 0 where there is none."""
    if difference == 0:
        return 0.0
    return float(difference / allowed) if allowed else np.inf


def _value_differences(
    study: Study, held: Mapping[str, pa.Table], here: Mapping[str, pa.Table], rounding: float
) -> tuple[float, str]:
    """The largest difference of values over the allowed one, and the worst value in words."""
    keys = ["setting_id", "example_id", "metric", "removal"]
    both = held["rows"].to_pandas().merge(here["rows"].to_pandas(), on=keys, suffixes=("_a", "_b"))
    if len(both) != len(here["rows"]) or len(both) != len(held["rows"]):
        return np.inf, "the rows are of other texts, settings or metrics"
    if len(other := both[both["status_a"] != both["status_b"]]):
        metric, text = other.iloc[0][["metric", "example_id"]]
        return np.inf, f"{metric} of text {text} has another status"
    kinds = _kinds(study)
    maps = {
        key: row
        for key, row in _by_map(here["maps"]).items()
        if "maps" in held or _order_is_sure(row, kinds[key[0]], rounding)
    }
    largest, first = 0.0, ""
    for row in both[both["status_b"] == OK].itertuples(index=False):
        of_map = maps.get((row.setting_id, row.example_id))
        if of_map is None:
            continue
        allowed = _allowed(study.config.metric[row.metric], row.unit_b, row.value_b, of_map)
        apart = _over(abs(row.value_a - row.value_b), rounding * allowed)
        if apart > largest:
            largest, first = (
                apart,
                f"{row.metric} of setting {row.setting_id}, text {row.example_id}",
            )
    return largest, first


def _order_is_sure(map_row: Mapping[str, Any], kind: str, rounding: float) -> bool:
    """Whether no two scores are so close that rounding may change their order; random scores are drawn, not computed."""
    scores = np.array(map_row["scores"], float)
    tolerated = _tolerated(kind, rounding, float(np.abs(scores).max()))
    ranked = scores[np.array(map_row["attributable"], bool)]
    return all(
        bool((np.diff(np.sort(values)) > 2 * tolerated).all())
        for values in (ranked, np.abs(ranked))
    )


def _allowed(
    entry: Mapping[str, Any], unit: str, value: float, map_row: Mapping[str, Any]
) -> float:
    """The difference that a value may have, over r: points 3 and 4 of the module's text."""
    if entry["metric"] in GAPS:
        scores, difference = np.abs(map_row["scores"]), abs(map_row["output_difference"])
        summed = float(len(scores) * scores.max() + 2 * max(difference, 1.0))
        return summed * (1 + value) / difference if entry["metric"] == GAPS[1] else summed
    size = 0.0
    if unit == NATS:
        p = np.clip(map_row["probability"], EPSILON, 1 - EPSILON)
        size = abs(value) - float(np.log(p) + np.log1p(-p))
    elif "floor" in entry:
        size = abs(value)
    return PROBABILITIES * (1 + size) / float(entry.get("floor", 1.0))
