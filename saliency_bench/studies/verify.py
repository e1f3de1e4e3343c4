"""Computes blocks of a submitted study again and compares the numbers.

On a machine like the one that made them the tables must be the same to the byte. Elsewhere sums are taken in another
order. What is no real number must still be the same, and real numbers that a leaderboard shows are held against what the
library promises of any two orders (`parity.REORDERING`, r; of float64 and float32 alone):

1. A score may differ by r of its text's largest score. Scores of methods that give one number per token are differences of
   outputs, each off by r of its size: where their largest score is smaller than 1 they may differ by r, but by no more than
   a hundredth of that score, since any order would be allowed otherwise.
2. Rounding moves scores past each other only where they nearly tie: of one method at most `MOST_REORDERED` of the maps,
   or one map, may be in another order.
3. A value that removes tokens is computed here from the submission's own scores, and so from their order. It combines at
   most four probabilities, none larger than 1: it may differ by 4 r.
4. The completeness gap adds the scores of T tokens, and subtracts two outputs: it may differ by r (T times the largest
   score, and twice the size of the difference of outputs, or of 1), relative to that difference as the metric is.
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch

from saliency_bench.attribution.describe import described
from saliency_bench.attribution.methods import KINDS
from saliency_bench.attribution.parity import REORDERING
from saliency_bench.core.errors import InputError
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.rows import OK, TABLES, Setting
from saliency_bench.models.loading import DTYPES
from saliency_bench.models.references import References
from saliency_bench.store.parquet import from_parquet, merge, to_parquet, to_table
from saliency_bench.store.run import IDENTITY, read_json
from saliency_bench.store.suite import Submission, identity_of_model, packages
from saliency_bench.studies.block import Piece
from saliency_bench.studies.block_tables import pieces_of
from saliency_bench.studies.folder import differences
from saliency_bench.studies.prepare import Study, prepare
from saliency_bench.studies.run import piece_tables

#: The tables that are compared; times are not.
COMPARED = ("examples", "maps", "rows")
#: The number of probabilities that a value combines at most: two where tokens are dropped, two where they are kept.
PROBABILITIES = 4
#: The types in which machines are compared.
TOLERATED = ("float64", "float32")
#: The share of a method's maps in which near ties may be ordered otherwise.
MOST_REORDERED = 0.05
#: The largest difference that scores of tokens may have, over the text's largest.
MOST_APART = 0.01


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
    threads = (held["environment"].get("computation") or {}).get("threads")
    if isinstance(threads, int) and 0 < threads <= torch.get_num_threads():
        torch.set_num_threads(threads)  # the last digits depend on them
    _refuse_other_methods(submission)
    study = prepare(config, settings, lambda stage: say(stage, 0, 0))
    machine = _machine(held, study, folder)
    _refuse_other_facts(submission, study)
    plan = pieces_of(study)
    stream = random.SystemRandom() if seed is None else random.Random(seed)
    chosen = sorted(stream.sample(range(len(plan)), min(n_blocks, len(plan))))
    pieces = [plan[place] for place in chosen]
    held_tables = _held(submission, study, pieces)
    tables = _computed(study, pieces, held_tables["maps"], say)
    dtype = study.config.runtime.dtype
    rounding = REORDERING[DTYPES[dtype]] if dtype in TOLERATED else 0.0
    kinds = {setting.id: KINDS[setting.method] for setting in study.settings}
    scores, reordered, of_scores = _score_differences(
        kinds, rounding, held_tables["maps"], tables["maps"]
    )
    values, of_values = _value_differences(held_tables, tables, rounding)
    return Verified(
        blocks=tuple(piece.name for piece in pieces),
        n_blocks=len(plan),
        n_texts=len(tables["examples"]),
        n_values=len(tables["rows"]),
        machine=machine,
        same_bytes=all(to_parquet(held_tables[name]) == to_parquet(tables[name]) for name in COMPARED),
        scores=scores,
        values=values,
        reordered=reordered,
        exact=all(_exact(name, held_tables).equals(_exact(name, tables)) for name in COMPARED),
        first=of_scores if scores >= values else of_values,
    )  # fmt: skip


def _machine(held: Mapping[str, Any], study: Study, folder: Any) -> tuple[str, ...]:
    """The facts in which this machine differs from the one of the submission.

    Raises:
        InputError: something else than the machine differs, or rounding in the study's type explains too much.
    """
    here, dtype = study.identity, study.config.runtime.dtype
    there, this = dict(held["environment"]), dict(here["environment"])
    if changed := list(differences(there.pop("code", None), this.pop("code"))):
        raise InputError(
            f"{folder} was made by other code ({', '.join(changed)}): check out or install what made it, and verify again."
        )
    models = identity_of_model(held["model"]), identity_of_model(here["model"])
    if changed := list(differences(*models)):
        raise InputError(f"{folder} explains another model than this one ({', '.join(changed)}).")
    rest = [
        key for key in here if key not in ("environment", "model") and held.get(key) != here[key]
    ]
    if rest:
        raise InputError(
            f"{folder} is of another study than its configuration gives here: it differs in {', '.join(rest)}."
        )
    machine = tuple(differences(there, this))
    if machine and dtype not in TOLERATED:
        raise InputError(
            f"{folder} was computed in {dtype}, in which rounding explains too much to compare machines; this one differs in "
            f"{', '.join(machine[:4])}. Verify on a machine like the submission's."
        )
    return machine


def _refuse_other_facts(submission: Submission, study: Study) -> None:
    """Refuses a submission whose settings have other labels and facts than their methods, since a page shows them."""
    here = [described(setting, study.parts) for setting in study.settings]
    pairs = zip(submission.run.settings, json.loads(json.dumps(here)), strict=True)
    if changed := [key for theirs, ours in pairs for key in differences(theirs, ours)]:
        raise InputError(
            f"{submission.run.folder} says other things of its methods than they do: {', '.join(changed[:4])}."
        )


def _refuse_other_methods(submission: Submission) -> None:
    """Refuses to compute with another package's method of the same name."""
    here = packages(setting["method"] for setting in submission.run.settings)
    for name, facts in submission.methods.items():
        if name not in here:
            raise InputError(
                f"method {name} is of {facts['package']}: install it, and verify again."
            )
    for name, facts in here.items():
        theirs = submission.methods.get(name)
        if theirs is None or facts["sha256"] != theirs["sha256"]:
            raise InputError(
                f"method {name} of {facts['package']} has other code than that of the submission"
                + (
                    f" ({theirs['package']}, SHA-256 {theirs['sha256'][:12]})."
                    if theirs
                    else ", which names no package."
                )
            )


def _held(submission: Submission, study: Study, pieces: Sequence[Piece]) -> dict[str, pa.Table]:
    """The submission's rows of these pieces."""
    texts = pa.array(study.encoded[index].example_id for piece in pieces for index in piece.indices)
    tables = {}
    for name in COMPARED:
        path = submission.run.folder / f"{name}.parquet"
        table = from_parquet(name, path.read_bytes(), path)
        table = table.filter(pc.is_in(table["example_id"], texts))
        # The id of a cell depends on the name of the model's folder too.
        cells = pa.array([study.cell_id] * len(table), pa.string())
        tables[name] = merge(name, [table.set_column(0, "cell_id", cells)])
    return tables


def _computed(
    study: Study, pieces: Sequence[Piece], held: pa.Table, say: Callable[[str, int, int], None]
) -> dict[str, pa.Table]:
    """The tables of these pieces, as a run stores them; values are those of the scores that the submission holds."""
    scores = {key: np.array(row["scores"], float) for key, row in _by_map(held).items()}

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
    """The largest difference over the allowed one, the most maps of a setting in another order, and the worst score in words."""
    theirs, ours = _by_map(held), _by_map(here)
    if theirs.keys() != ours.keys():
        return np.inf, 0, "the maps are of other texts or settings"
    largest, first, reordered = 0.0, "", Counter[str]()
    for key, row in ours.items():
        a, b = np.array(theirs[key]["scores"], float), np.array(row["scores"], float)
        if a.shape != b.shape:
            return np.inf, 0, f"the number of scores of setting {key[0]}, text {key[1]}"
        size = float(np.abs(b).max())
        tolerated = rounding * max(size, 1.0 if kinds[key[0]] == "token" else 0.0)
        apart = _over(float(np.abs(a - b).max()), min(tolerated, MOST_APART * size))
        if apart > largest:
            largest, first = apart, f"a score of setting {key[0]}, text {key[1]}"
        ranked = np.array(row["attributable"])
        before, after = (np.argsort(-scores[ranked], kind="stable") for scores in (a, b))
        reordered[key[0]] += not np.array_equal(before, after)
    return largest, max(reordered.values(), default=0), first


def _over(difference: float, allowed: float) -> float:
    """The difference relative to the allowed one; 0 where there is none."""
    if difference == 0:
        return 0.0
    return float(difference / allowed) if allowed else np.inf


def _value_differences(
    held: Mapping[str, pa.Table], here: Mapping[str, pa.Table], rounding: float
) -> tuple[float, str]:
    """The largest difference of values over the allowed one, and the worst value in words."""
    keys = ["setting_id", "example_id", "metric", "removal"]
    both = held["rows"].to_pandas().merge(here["rows"].to_pandas(), on=keys, suffixes=("_a", "_b"))
    if len(both) != len(here["rows"]) or len(both) != len(held["rows"]):
        return np.inf, "the rows are of other texts, settings or metrics"
    if len(other := both[both["status_a"] != both["status_b"]]):
        metric, text = other.iloc[0][["metric", "example_id"]]
        return np.inf, f"{metric} of text {text} has another status"
    maps = _by_map(here["maps"])
    largest, first = 0.0, ""
    for row in both[both["status_b"] == OK].itertuples(index=False):
        gap = pd.isna(row.removal)
        allowed = (
            _gap_allowed(maps[row.setting_id, row.example_id], row.value_b)
            if gap
            else PROBABILITIES
        )
        apart = _over(abs(row.value_a - row.value_b), rounding * allowed)
        if apart > largest:
            largest, first = (
                apart,
                f"{row.metric} of setting {row.setting_id}, text {row.example_id}",
            )
    return largest, first


def _gap_allowed(map_row: Mapping[str, Any], value: float) -> float:
    """The difference that a relative completeness gap may have, over r: point 4 of the module's text."""
    scores, difference = np.abs(map_row["scores"]), abs(map_row["output_difference"] or 0.0)
    summed = len(scores) * scores.max() + 2 * max(difference, 1.0)
    return float(summed * (1 + value) / difference)
