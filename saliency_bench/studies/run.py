"""Runs a configured study, block by block, to rows on disk. Blocks that are finished are not computed again."""

import json
import shlex
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from saliency_bench.core.errors import InputError, StorageError
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.rows import Setting
from saliency_bench.evaluation.removal import replacing_tokens
from saliency_bench.models.ledger import PARITY
from saliency_bench.models.ledger import TIMING as TIMED
from saliency_bench.models.placement import PLACEMENT
from saliency_bench.models.references import References
from saliency_bench.store.coverage import require_planned
from saliency_bench.store.events import EventLog
from saliency_bench.store.lock import locked
from saliency_bench.store.manifest import collect, portable
from saliency_bench.store.parts import PartStore, sealed_record
from saliency_bench.store.run import CONFIG, MANIFEST, read_json, read_run, write_json
from saliency_bench.store.suite import REQUESTED_REMOVAL
from saliency_bench.studies.block import Piece
from saliency_bench.studies.block_tables import (
    TIMING,
    Row,
    block_tables,
    captum_tolerances,
    pieces_of,
    plan_of,
    timings,
)
from saliency_bench.studies.folder import CHOICE, claim, folder_of, refuse_another
from saliency_bench.studies.forecast import Forecast, foresee, sentence, shares
from saliency_bench.studies.prepare import Inputs, Study, choosing, computation, prepare
from saliency_bench.studies.time_left import TimeLeft

#: Work that is announced.
LONG_SECONDS = 30.0

#: With fewer texts left than this, running some of them to foresee the rest would take longer than it tells.
FORESEEN_TEXTS = 40


@runtime_checkable
class Progress(Protocol):
    """A function that is told what is done of a stage; a total of 0 is not counted.

    `left` are the seconds until all numbers of a study are there, where they are known.
    """

    def __call__(self, stage: str, done: int, total: int, left: float | None = None) -> None: ...  # noqa: D102


#: A function that has blocks of a claimed folder computed: of the folder, their names, and a function for the progress.
Execute = Callable[[Path, Sequence[str], Callable[[int], None]], None]


def run(
    config: Any,
    settings: Sequence[Setting],
    command: Sequence[str],
    progress: Progress = lambda stage, done, total, left=None: None,
    announce: Callable[[str], None] | None = None,
    execute: Execute | None = None,
    inputs: Inputs | None = None,
) -> Path:
    """Runs a study and returns its folder, complete.

    `announce` is called with the expected cost of a long study before it begins; where it is None, nothing is estimated. `execute`
    has blocks computed elsewhere; None: here, one after the other. `inputs` are a model and texts in memory; None: what
    the configuration names is loaded.

    Blocks that a run of the same identity has finished before are not computed again, and a finished run is left as it
    is. Where the study chooses settings on another split, that study runs first and stands in `choice/` of the folder.

    Raises:
        InputError: model, data or settings do not fit; nothing has been written.
        StorageError: the folder cannot be written; what is finished stays.
        KeyboardInterrupt: with the command that goes on.
    """
    started = datetime.now(UTC)

    study = prepare(config, settings, lambda stage: progress(stage, 0, 0), inputs)
    folder = folder_of(study)
    with locked(folder):
        refuse_another(study, folder)
        if (folder / MANIFEST).is_file() and sealed_record(folder) is not None:
            _show_anew(study, folder)
        else:
            _go_on(study, folder, command, started, progress, announce, execute)
    return folder


def _go_on(
    study: Study,
    folder: Path,
    command: Sequence[str],
    started: datetime,
    progress: Progress,
    announce: Callable[[str], None] | None,
    execute: Execute | None,
) -> None:
    """Does what is left of the study in its folder."""
    log = EventLog(folder)
    damaged: list[tuple[str, str]] = []
    store = PartStore(folder, lambda *of_part: damaged.append(of_part), study.id)
    plan = plan_of(study)
    finished = store.finished(plan.parts)
    for block, reason in damaged:
        log("set_aside", name=block, reason=reason)
        if announce is not None:
            announce(
                f"Block {block} is damaged ({reason}): it is computed again, and kept in {folder / 'parts' / '.set_aside'}."
            )
    foreseen = None
    if announce is not None:
        progress("estimating what it will cost", 0, 0)
        foreseen = _announced(study, folder, finished, announce)
    chosen = _choose(study, folder, command, progress)
    claim(study, folder, _shown(study))
    try:
        log(
            "start",
            id=study.id,
            name=study.config.name,
            blocks=len(plan.parts),
            finished=len(finished),
        )
        for warning in study.warnings:
            log("warning", **warning)
        results = _compute(study, store, finished, _logged(progress, log), execute, log)
        require_planned(folder, plan)
        store.seal(plan.parts)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        with suppress(StorageError):  # a full disk must not hide what has ended the run
            log("interrupted" if stopped else "error", message=" ".join(str(error).split()))
        if stopped:
            raise KeyboardInterrupt(f"Go on with: saliency-bench resume {folder}") from error
        raise
    manifest = _manifest(study, command, started, len(finished))
    manifest["circumstances"] |= {
        "set_aside": store.n_set_aside(),
        "spent": results["spent"],
        "estimate": foreseen and foreseen.to_dict(),
    }
    write_json(folder / MANIFEST, manifest | {"chosen": chosen, "parity": results["parity"]})
    (folder / CONFIG).unlink(missing_ok=True)
    log("done", seconds=(datetime.now(UTC) - started).total_seconds())


def _compute(
    study: Study,
    store: PartStore,
    finished: Collection[str],
    progress: Progress,
    execute: Execute | None,
    log: EventLog,
) -> dict[str, Any]:
    """Computes the blocks that are left; returns `parity`, and the work of this process as `spent`.

    Parts that an earlier process had finished are not among what was spent.
    """
    references, ledger = References(study.model), study.model.ledger
    before = ledger.copy()
    plan = pieces_of(study)
    left = taking_turns([piece.name for piece in plan if piece.name not in finished])
    log_blocks = _block_logger(study, store, left, log)
    sizes = {piece.name: len(piece.indices) for piece in plan}
    time_left = TimeLeft(study, [sizes[name] for name in left])

    def tell(done: int) -> None:
        log_blocks()
        progress("blocks", len(plan) - len(left) + done, len(plan), time_left.after(done))

    with study.model.frozen():
        tell(0)
        if execute is None:
            for done, name in enumerate(left, 1):
                compute_piece(study, references, store, name, plan)
                tell(done)
        elif left:
            execute(folder_of(study), left, tell)
            log_blocks()
        if study.config.timing.enabled and TIMING not in finished:
            progress("timing", 0, 1, time_left.after(len(left)))
            with ledger.under(TIMED):
                store.write(TIMING, {"timings": timings(study, references)})
            progress("timing", 1, 1)
        progress("finding what rounding may differ by", 0, 0)
        with ledger.under(PARITY):
            parity = captum_tolerances(study, references)
    paid = ledger.since(before)
    spent = {"calls": paid.calls, "budget_halvings": references.halvings}
    return {"parity": parity, "spent": paid.total._asdict() | spent}


def taking_turns(names: Sequence[str]) -> list[str]:
    """Mixes pieces that are sorted by length, so that the time so far tells the time left.

    By the multiples of the golden ratio modulo 1, the beginnings of which are spread evenly.
    """
    order = sorted(range(len(names)), key=lambda place: place * (5**0.5 - 1) / 2 % 1)
    return [names[place] for place in order]


def compute_piece(
    study: Study, refs: References, store: PartStore, name: str, plan: Sequence[Piece]
) -> None:
    """Computes and commits a piece of the plan (`pieces_of`) unless another worker has; the model must be frozen.

    Raises:
        InputError: the plan has no such piece.
    """
    piece = next((piece for piece in plan if piece.name == name), None)
    if piece is None:
        raise InputError(f"the study has no block {name!r}")
    if store.has(name):
        return
    tables = piece_tables(study, refs, piece)
    if piece == plan[0]:  # warnings of no text stand with the first piece
        tables["warnings"] += study.warnings_of("")
    store.write(piece.name, tables)


def piece_tables(
    study: Study,
    refs: References,
    piece: Piece,
    evaluated_as: Callable[[AttributionMap], AttributionMap] = lambda computed: computed,
) -> dict[str, list[Row]]:
    """The rows of one piece of the plan, by table; the model must be frozen. `evaluated_as`: see `block_tables`."""
    probe = {item.example_id for item in study.encoded[: study.config.convergence.n_examples]}
    tables: dict[str, list[Row]] = {}
    for block in piece.blocks:
        items = [study.encoded[index] for index in block.indices]
        for table, rows in block_tables(study, refs, items, probe, evaluated_as).items():
            tables.setdefault(table, []).extend(rows)
    return tables


def _show_anew(study: Study, folder: Path) -> None:
    """Updates the entries of a finished run's manifest that say how it is shown; nothing else changes."""
    manifest = read_json(folder / MANIFEST, dict)
    shown = _shown(study)
    if any(manifest.get(key) != value for key, value in shown.items()):
        write_json(folder / MANIFEST, manifest | shown)


def _logged(progress: Progress, log: EventLog) -> Progress:
    """A progress function that also writes to the log: at most once in a second, and at the end of a stage."""
    spoken = 0.0

    def both(stage: str, done: int, total: int, left: float | None = None) -> None:
        nonlocal spoken
        progress(stage, done, total, left)
        if total and (done == total or time.monotonic() - spoken >= 1.0):
            spoken = time.monotonic()
            log("progress", stage=stage, done=done, total=total)

    return both


def _block_logger(
    study: Study, store: PartStore, names: Sequence[str], log: EventLog
) -> Callable[[], None]:
    """A function that logs the blocks that any worker has finished since its last call, with their warnings."""
    waiting = list(names)
    logged = {tuple(warning.values()) for warning in study.warnings}  # at the start of the run

    def tell() -> None:
        for name in [name for name in waiting if store.has(name)]:
            waiting.remove(name)
            rows, warnings = store.summary(name)
            log("block", name=name, rows=rows)
            for warning in warnings:
                if tuple(warning.values()) not in logged:
                    log("warning", **warning)

    return tell


def _choose(
    study: Study, folder: Path, command: Sequence[str], progress: Progress
) -> dict[str, Any] | None:
    """The best setting of each method entry on the split where the study chooses; None where it chooses nowhere."""
    choose = study.config.choose
    if choose is None:
        return None
    from saliency_bench.studies.choose import best_settings

    config = replace(choosing(study.config), out=str(folder / CHOICE))

    def choosing_first(stage: str, done: int, total: int, left: float | None = None) -> None:
        progress(f"choosing: {stage}", done, total)  # the study itself comes after it

    chosen_in = run(config, study.settings, command, choosing_first)
    best = best_settings(read_run(chosen_in), choose.metric)
    return {
        "split": choose.split,
        "n_examples": choose.n_examples,
        "metric": choose.metric,
        "best": best,
    }


def _announced(
    study: Study, folder: Path, finished: Collection[str], announce: Callable[[str], None]
) -> Forecast | None:
    """The forecast from one block, where enough texts are left to be worth it; a long study is announced."""
    choose = not (folder / CHOICE / MANIFEST).is_file()
    needed = shares(study, finished, choose)
    if not needed or len(needed[0].texts) < FORESEEN_TEXTS:
        return None
    foreseen = foresee(study, finished, choose=choose, n_blocks=1)
    if foreseen.total.seconds >= LONG_SECONDS:
        announce(sentence(foreseen))
    return foreseen


def _manifest(
    study: Study,
    command: Sequence[str],
    started: datetime,
    n_resumed: int,
) -> dict[str, Any]:
    provenance = collect(
        computation(study.config, study.model),
        command=command,
        started=started,
        ended=datetime.now(UTC),
    )
    requested = study.requested.evaluation.removal
    lacking = {} if requested == study.config.evaluation.removal else {REQUESTED_REMOVAL: requested}
    return lacking | {
        "id": study.id,
        "cell_id": study.cell_id,
        "command": shlex.join(command),
        "split": study.config.data.get("split"),
        "n_examples": len(study.encoded),
        "model": study.identity["model"],
        "data": study.identity["data"],
        "preflight": study.preflight.to_dict(),
        "parts_resumed": n_resumed,
        **_of_model(study),
        **_shown(study),
        **provenance,
    }


def _of_model(study: Study) -> dict[str, Any]:
    """The devices of a model that is spread over several, and the tokens that may replace removed ones."""
    model = study.model
    facts: dict[str, Any] = {}
    if placed := model.facts.get(PLACEMENT):
        facts[PLACEMENT] = placed
    if tokens := replacing_tokens(model):
        facts["replaced_by"] = tokens
    return facts


def _shown(study: Study) -> dict[str, Any]:
    """The entries of the manifest that follow from the configuration and may change after the run."""
    config = study.config
    reference = config.statistics.reference
    settings = study.settings
    # The first setting where none has the name: equal settings have the name of the first entry.
    named = [setting for setting in settings if reference in (None, setting.name)] or settings
    return {
        "name": config.name,
        "config": json.loads(portable(json.dumps(asdict(config) | {"out": None}))),
        "reference_setting": named[0].id,
    }
