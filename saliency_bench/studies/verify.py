"""Computes blocks of somebody's study again, and says whether the same numbers come out.

On a machine like the one that made them the tables must be the same to the byte. Elsewhere sums are taken in another
order, so that numbers are held against what the library promises of any two orders (`parity.REORDERING`, r):

1. A score may differ by r of its text's largest score. Scores of methods that give one number per token are differences of
   outputs, each off by r of its size: they may differ by r if their largest score is smaller than 1.
2. A value that removes tokens depends on a map by its order alone. Where both maps have the same order without ties it
   combines at most four probabilities, none larger than 1: it may differ by 4 r. Where a difference within 1 has changed
   the order nothing can be said of the value; such values are counted.
3. The completeness gap adds the scores of T tokens, and subtracts two outputs: it may differ by r (T times the largest
   score, and twice the size of the difference of outputs, or of 1), relative to that difference as the metric is.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch

from saliency_bench.attribution.methods import KINDS
from saliency_bench.attribution.parity import REORDERING
from saliency_bench.core.errors import InputError
from saliency_bench.core.rows import OK, Setting
from saliency_bench.models.loading import DTYPES
from saliency_bench.models.references import References
from saliency_bench.store.parquet import from_parquet, merge, to_parquet, to_table
from saliency_bench.store.run import IDENTITY, read_json
from saliency_bench.store.suite import Submission, identity_of_model, packages
from saliency_bench.studies.block import Piece
from saliency_bench.studies.folder import differences
from saliency_bench.studies.prepare import Study, prepare
from saliency_bench.studies.run import piece_tables
from saliency_bench.studies.tables import pieces_of

#: What is compared; times are not.
COMPARED = ("examples", "maps", "rows")
#: How many probabilities a value combines at most: two of a curve that tokens are dropped from, two where they are kept.
PROBABILITIES = 4


@dataclass(frozen=True)
class Verified:
    """What came out for the blocks that were computed again.

    `machine` says in what this machine differs from the submission's; empty where it is alike. `scores` and `values` are
    the largest differences relative to what is allowed: numbers up to 1 are within. `unsure` counts values
    that rest on the order of scores nearer to each other than rounding.
    """

    blocks: tuple[str, ...]
    n_blocks: int
    n_texts: int
    n_values: int
    machine: tuple[str, ...]
    same_bytes: bool
    scores: float
    values: float
    unsure: int
    first: str  # what differs most, in words

    @property
    def holds(self) -> bool:
        """Whether the numbers are those of the submission, by the standard that applies."""
        within = max(self.scores, self.values) <= 1
        return self.same_bytes if not self.machine else within


def verify(
    submission: Submission,
    config: Any,
    settings: Sequence[Setting],
    n_blocks: int,
    seed: int | None,
    say: Callable[[str, int, int], None],
) -> Verified:
    """Computes random blocks of a submission again.

    Args:
        submission: checked, see `store.suite.read`.
        config: its configuration, checked; with the model where it stands on this machine.
        settings: those of the configuration.
        n_blocks: how many blocks; all where there are fewer.
        seed: of the choice; None: the operating system's randomness, which no submitter can foresee.
        say: is told what is being done, and how far it is.

    Raises:
        InputError: code, model, method, data or settings are not those of the submission.
    """
    folder = submission.run.folder
    held = read_json(folder / IDENTITY, dict)
    threads = _part(_part(held, "environment"), "computation").get("threads")
    if isinstance(threads, int) and 0 < threads <= torch.get_num_threads():
        torch.set_num_threads(threads)  # the last digits depend on them
    _refuse_other_methods(submission)
    study = prepare(config, settings, lambda stage: say(stage, 0, 0))
    machine = _machine(held, study.identity, folder)
    plan = pieces_of(study)
    stream = random.SystemRandom() if seed is None else random.Random(seed)
    chosen = sorted(stream.sample(range(len(plan)), min(n_blocks, len(plan))))
    pieces = [plan[place] for place in chosen]
    tables = _computed(study, pieces, say)
    return _compared(submission, study, pieces, len(plan), machine, tables)


def _machine(held: Mapping[str, Any], here: Mapping[str, Any], folder: Any) -> tuple[str, ...]:
    """In what this machine differs from the one of the submission.

    Raises:
        InputError: something else than the machine differs.
    """
    there, this = dict(_part(held, "environment")), dict(here["environment"])
    if changed := list(differences(there.pop("code", None), this.pop("code"))):
        raise InputError(
            f"{folder} was made by other code ({', '.join(changed)}): check out or install what made it, and verify again."
        )
    models = identity_of_model(_part(held, "model")), identity_of_model(here["model"])
    if changed := list(differences(*models)):
        raise InputError(f"{folder} explains another model than this one ({', '.join(changed)}).")
    rest = [
        key for key in here if key not in ("environment", "model") and held.get(key) != here[key]
    ]
    if rest:
        raise InputError(
            f"{folder} is of another study than its configuration gives here: it differs in {', '.join(rest)}."
        )
    return tuple(differences(there, this))


def _part(held: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A part of what somebody's file holds; empty where that is no mapping."""
    part = held.get(key)
    return part if isinstance(part, dict) else {}


def _refuse_other_methods(submission: Submission) -> None:
    """Refuses to compute with another package's method of the same name."""
    for name, facts in submission.methods.items():
        here = packages([name]).get(name)
        if here is None:
            raise InputError(
                f"method {name} is of {facts['package']}: install it, and verify again."
            )
        if here["sha256"] != facts["sha256"]:
            raise InputError(
                f"method {name} of {here['package']} has other code than that of the submission "
                f"({facts['package']}, SHA-256 {facts['sha256'][:12]})."
            )


def _computed(
    study: Study, pieces: Sequence[Piece], say: Callable[[str, int, int], None]
) -> dict[str, pa.Table]:
    """The tables of these pieces, as a run stores them."""
    references, parts = References(study.model), []
    with study.model.frozen():
        for done, piece in enumerate(pieces):
            say("blocks", done, len(pieces))
            parts.append(piece_tables(study, references, piece))
    say("blocks", len(pieces), len(pieces))
    return {name: merge(name, [to_table(name, part[name]) for part in parts]) for name in COMPARED}


def _compared(
    submission: Submission,
    study: Study,
    pieces: Sequence[Piece],
    n_blocks: int,
    machine: tuple[str, ...],
    here: Mapping[str, pa.Table],
) -> Verified:
    texts = [study.encoded[index].example_id for piece in pieces for index in piece.indices]
    held = {}
    for name in COMPARED:
        path = submission.run.folder / f"{name}.parquet"
        table = from_parquet(name, path.read_bytes(), path)
        table = table.filter(pc.is_in(table["example_id"], pa.array(texts)))
        # The id of a cell depends on the name of the model's folder too.
        cells = pa.array([study.cell_id] * len(table), pa.string())
        held[name] = merge(name, [table.set_column(0, "cell_id", cells)])
    same = all(to_parquet(held[name]) == to_parquet(here[name]) for name in COMPARED)
    dtype = DTYPES[study.config.runtime.dtype]
    rounding = REORDERING.get(dtype, 100 * torch.finfo(dtype).eps)
    scores, sure, of_scores = _score_differences(study, held["maps"], here["maps"], rounding)
    values, unsure, of_values = _value_differences(held, here, sure, rounding)
    return Verified(
        blocks=tuple(piece.name for piece in pieces),
        n_blocks=n_blocks,
        n_texts=len(texts),
        n_values=len(here["rows"]),
        machine=machine,
        same_bytes=same,
        scores=scores,
        values=values,
        unsure=unsure,
        first=of_scores if scores >= values else of_values,
    )


_Map = tuple[str, str]


def _score_differences(
    study: Study, held: pa.Table, here: pa.Table, rounding: float
) -> tuple[float, set[_Map], str]:
    """The largest difference over what is allowed, the maps whose order is the same for sure, and what differs most."""
    kinds = {setting.id: KINDS[setting.method] for setting in study.settings}
    before = {(row["setting_id"], row["example_id"]): row for row in held.to_pylist()}
    largest, first, sure = 0.0, "", set[_Map]()
    if before.keys() != {
        *zip(*(here[key].to_pylist() for key in ("setting_id", "example_id")), strict=True)
    }:
        return np.inf, sure, "the maps are of other texts or settings"
    for row in here.to_pylist():
        key = row["setting_id"], row["example_id"]
        a, b = np.array(before[key]["scores"]), np.array(row["scores"])
        size = max(float(np.abs(b).max()), 1.0 if kinds[key[0]] == "token" else 0.0)
        apart = _over(float(np.abs(a - b).max()), rounding * size) if a.shape == b.shape else np.inf
        if apart > largest:
            largest, first = apart, f"a score of setting {key[0]}, text {key[1]}"
        ranked = np.array(row["attributable"])
        if a.shape == b.shape and _one_order(a[ranked], b[ranked]):
            sure.add(key)
    return largest, sure, first


def _over(difference: float, allowed: float) -> float:
    """The difference relative to what is allowed; 0 where there is none."""
    return 0.0 if difference == 0 else float(np.divide(difference, allowed))


def _one_order(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether both have the same order, by their sizes too; ties only where nothing differs."""
    if np.array_equal(a, b):
        return True
    untied = all(len(np.unique(np.abs(scores))) == len(scores) for scores in (a, b))
    return untied and all(
        np.array_equal(np.argsort(f(a)), np.argsort(f(b))) for f in (np.asarray, np.abs)
    )


def _value_differences(
    held: Mapping[str, pa.Table], here: Mapping[str, pa.Table], sure: set[_Map], rounding: float
) -> tuple[float, int, str]:
    """The largest difference of values over what is allowed, how many are unsure, and which differs most."""
    keys = ["setting_id", "example_id", "metric", "removal"]
    both = held["rows"].to_pandas().merge(here["rows"].to_pandas(), on=keys, suffixes=("_a", "_b"))
    if len(both) != len(here["rows"]) or len(both) != len(held["rows"]):
        return np.inf, 0, "the rows are of other texts, settings or metrics"
    if len(other := both[both["status_a"] != both["status_b"]]):
        metric, text = other.iloc[0][["metric", "example_id"]]
        return np.inf, 0, f"{metric} of text {text} has another status"
    both = both[both["status_b"] == OK]
    maps = {(row["setting_id"], row["example_id"]): row for row in here["maps"].to_pylist()}
    largest, unsure, first = 0.0, 0, ""
    for row in both.itertuples(index=False):
        key = row.setting_id, row.example_id
        difference = abs(row.value_a - row.value_b)
        if pd.isna(row.removal):
            allowed = rounding * _gap_allowed(maps[key], row.value_b)
        elif key in sure:
            allowed = PROBABILITIES * rounding
        else:
            unsure += difference > PROBABILITIES * rounding
            continue
        if (apart := _over(difference, allowed)) > largest:
            largest = apart
            first = f"{row.metric} of setting {row.setting_id}, text {row.example_id}"
    return largest, unsure, first


def _gap_allowed(map_row: Mapping[str, Any], value: float) -> float:
    """What a relative completeness gap may differ by, over r: 3 of the module's text."""
    scores, difference = np.abs(map_row["scores"]), abs(map_row["output_difference"] or 0.0)
    summed = len(scores) * scores.max() + 2 * max(difference, 1.0)
    return float(summed * (1 + value) / difference)
