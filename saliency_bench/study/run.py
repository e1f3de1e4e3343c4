"""The only loop: a configured study to rows on disk, block by block; what is finished is not done again."""

import json
import math
import shlex
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from saliency_bench.attribution import baselines, captum
from saliency_bench.attribution.explain import Family
from saliency_bench.attribution.parity import relative_tolerance
from saliency_bench.core.errors import InputError, StorageError
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.rows import Setting
from saliency_bench.core.text import Encoded
from saliency_bench.models.ledger import CONVERGENCE, CURVES, MAPS, PARITY, Ledger
from saliency_bench.models.ledger import TIMING as TIMED
from saliency_bench.models.references import References
from saliency_bench.store.coverage import Plan, require_planned
from saliency_bench.store.events import EventLog
from saliency_bench.store.lock import locked
from saliency_bench.store.manifest import collect, portable
from saliency_bench.store.parts import PartStore, sealed_record
from saliency_bench.store.run import CONFIG, MANIFEST, read_json, read_run, write_json
from saliency_bench.study.block import (
    OpenBlock,
    Piece,
    open_block,
    opened_blocks,
    packing_for,
    plan_blocks,
    plan_pieces,
)
from saliency_bench.study.convergence import Dense, companions, convergence_rows
from saliency_bench.study.evaluate import agreement_rows, judge_block, planned
from saliency_bench.study.forecast import N_BLOCKS, Forecast, Share, forecast, sentence
from saliency_bench.study.prepare import (
    CHOICE,
    Study,
    claim,
    computation,
    folder_of,
    load_examples,
    prepare,
    questions_of,
    refuse_another,
    usual_readings,
)
from saliency_bench.study.timings import explainer, timing_rows

TIMING = "timing"  # the name of the part that holds the timings
#: Work that is announced.
LONG_SECONDS = 30.0

#: With fewer texts left than this, running some of them to foresee the rest would take longer than it tells.
FORESEEN_TEXTS = 40

Progress = Callable[[str, int, int], None]
#: Sees to it that blocks of a claimed folder get finished, wherever: the folder, their names, how far they are.
Execute = Callable[[Path, Sequence[str], Callable[[int], None]], None]


def run(
    config: Any,
    settings: Sequence[Setting],
    command: Sequence[str],
    progress: Progress = lambda stage, done, total: None,
    announce: Callable[[str], None] | None = None,
    execute: Execute | None = None,
) -> Path:
    """Runs a study and returns its folder, complete.

    `announce` is told what a long study will cost before it begins; where it is None, nothing is estimated. `execute`
    has blocks computed elsewhere; None: here, one after the other.

    Blocks that a run of the same identity has finished before are not computed again, and a finished run is left as it
    is. Where the study chooses settings on another split, that study runs first and stands in `choice/` of the folder.

    Raises:
        InputError: model, data or settings do not fit; nothing has been written.
        StorageError: the folder cannot be written; what is finished stays.
        KeyboardInterrupt: with the command that goes on.
    """
    started = datetime.now(UTC)

    def say(stage: str) -> None:
        progress(stage, 0, 0)

    study = prepare(config, settings, say)
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
    """All that is left to do in a folder that is free or this study's."""
    log = EventLog(folder)
    damaged: list[tuple[str, str]] = []
    store = PartStore(folder, lambda *one: damaged.append(one), study.id)
    plan = plan_of(study)
    finished = store.finished(plan.parts)
    for block, reason in damaged:
        log("set_aside", name=block, reason=reason)
        (announce or _nothing)(
            f"Block {block} is damaged ({reason}): it is computed again, and kept in {folder / 'parts' / '.set_aside'}."
        )
    if announce is not None:
        progress("estimating what it will cost", 0, 0)
    foreseen = None if announce is None else _announced(study, folder, finished, announce)
    chosen = _choose(study, folder, command, progress)
    claim(study, folder)
    try:
        _open_log(log, study, plan.parts, finished)
        done = _compute(study, store, finished, _logged(progress, log), execute, log)
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
    manifest["circumstances"] |= {"set_aside": store.n_set_aside()}
    manifest["circumstances"] |= {"spent": done.paid, "estimate": foreseen and foreseen.to_dict()}
    write_json(folder / MANIFEST, manifest | {"chosen": chosen, "parity": done.parity})
    (folder / CONFIG).unlink(missing_ok=True)
    log("done", seconds=(datetime.now(UTC) - started).total_seconds())


def _nothing(text: str) -> None:
    """Says nothing."""


@dataclass(frozen=True)
class _Done:
    """What stands in no table: the tolerances of a comparison with Captum, and what this process has paid."""

    parity: dict[str, Any] | None
    paid: dict[str, Any]


def _compute(
    study: Study,
    store: PartStore,
    finished: Collection[str],
    progress: Progress,
    execute: Execute | None,
    log: EventLog,
) -> _Done:
    refs = References(study.model)
    before = study.model.ledger.copy()
    plan = pieces_of(study)
    left = [piece.name for piece in plan if piece.name not in finished]
    tell_of_blocks = _blocks_told(study, store, left, log)

    def tell(done: int) -> None:
        tell_of_blocks()
        progress("blocks", len(plan) - len(left) + done, len(plan))

    with study.model.frozen():
        tell(0)
        if execute is None:
            for done, name in enumerate(left, 1):
                compute_piece(study, refs, store, name, plan)
                tell(done)
        elif left:
            execute(folder_of(study), left, tell)
            tell_of_blocks()
        if study.config.timing.enabled and TIMING not in finished:
            progress("timing", 0, 1)
            with study.model.ledger.under(TIMED):
                store.write(TIMING, {"timings": timings(study, refs)})
            progress("timing", 1, 1)
        progress("finding what rounding may differ by", 0, 0)
        with study.model.ledger.under(PARITY):
            parity = captum_tolerances(study, refs)
        return _Done(parity, _spent(study, refs, before))


def compute_piece(
    study: Study, refs: References, store: PartStore, name: str, plan: Sequence[Piece]
) -> None:
    """One piece of the plan (`pieces_of`, made once), computed and committed unless somebody has; the model must be frozen.

    Raises:
        InputError: the plan has no such piece.
    """
    piece = _named(plan, name)
    if store.has(name):
        return
    probe = {item.example_id for item in study.encoded[: study.config.convergence.n_examples]}
    tables: dict[str, list[dict[str, Any]]] = {}
    for block in piece.blocks:
        items = [study.encoded[index] for index in block.indices]
        for table, rows in block_tables(study, refs, items, probe).items():
            tables.setdefault(table, []).extend(rows)
    if piece == plan[0]:  # what concerns no text stands with the first
        tables["warnings"] += study.warnings_of("")
    store.write(piece.name, tables)


def pieces_of(study: Study) -> list[Piece]:
    """The plan: a pure function of the texts."""
    packing = packing_for(study.model, study.config.runtime.token_budget)
    return plan_pieces(plan_blocks(study.encoded, packing))


def _named(plan: Sequence[Piece], name: str) -> Piece:
    for piece in plan:
        if piece.name == name:
            return piece
    raise InputError(f"the study has no block {name!r}")


def plan_of(study: Study) -> Plan:
    """The rows that the study's tables must have."""
    config, settings = study.config, [setting.id for setting in study.settings]
    metrics, curves = planned(config.metric, usual_readings(config))
    dense = Dense(config.convergence.reference_steps, config.convergence.reference_samples)
    return Plan(
        cell_id=study.cell_id,
        texts={
            piece.name: [study.encoded[index].example_id for index in piece.indices]
            for piece in pieces_of(study)
        },
        settings=settings,
        judged=settings if metrics else (),
        metrics=metrics,
        curves=curves,
        agreement=config.agreement.metrics,
        convergence=[(one.id, against) for one, against, _ in companions(study.settings, dense)],
        probed=frozenset(
            item.example_id for item in study.encoded[: config.convergence.n_examples]
        ),
        timings=TIMING if config.timing.enabled else None,
        repeats=config.timing.n_repeats,
    )


def _show_anew(study: Study, folder: Path) -> None:
    """A finished run is left as it is, but for what changes no number: how it is shown."""
    manifest = read_json(folder / MANIFEST, dict)
    shown = _shown(study)
    if any(manifest.get(key) != value for key, value in shown.items()):
        write_json(folder / MANIFEST, manifest | shown)


def _open_log(log: EventLog, study: Study, names: Sequence[str], finished: Collection[str]) -> None:
    log("start", id=study.id, name=study.config.name, blocks=len(names), finished=len(finished))
    for one in study.warnings:
        log("warning", **one)


def _logged(progress: Progress, log: EventLog) -> Progress:
    """The same, told to the log too, at most once in a second but for the end of a stage."""
    spoken = 0.0

    def both(stage: str, done: int, total: int) -> None:
        nonlocal spoken
        progress(stage, done, total)
        if total and (done == total or time.monotonic() - spoken >= 1.0):
            spoken = time.monotonic()
            log("progress", stage=stage, done=done, total=total)

    return both


def _blocks_told(
    study: Study, store: PartStore, names: Sequence[str], log: EventLog
) -> Callable[[], None]:
    """Tells the log of blocks that were finished since it was last called, by whoever, and what they warn of."""
    waiting = list(names)
    known = {tuple(one.values()) for one in study.warnings}  # which stand at the beginning

    def tell() -> None:
        for name in [name for name in waiting if store.has(name)]:
            waiting.remove(name)
            rows, warnings = store.summary(name)
            log("block", name=name, rows=rows)
            for one in warnings:
                if tuple(one.values()) not in known:
                    log("warning", **one)

    return tell


def block_tables(
    study: Study, refs: References, items: Sequence[Encoded], probe: Collection[str]
) -> dict[str, list[dict[str, Any]]]:
    """All rows of one block; the examples whose ids are in `probe` are explained again with more points."""
    under = study.model.ledger.under
    with under(MAPS):
        block = open_block(refs, items, study.config.target, study.config.runtime.token_budget)
        maps = block.explain(study.settings)
        uncertain = list(_uncertain_baselines(study, block))
    flat = [one for of_setting in maps.values() for one in of_setting]
    with under(CURVES):
        judged = judge_block(block, flat, study.config.metric, usual_readings(study.config))
        asked = study.config.agreement
        agreement = agreement_rows(flat, asked.metrics, asked.granularity, asked.k, asked.p)
    with under(CONVERGENCE):
        converged = _convergence(study, refs, items, maps, probe)
    tables = {
        "examples": example_rows(block),
        "maps": [map_row(one) for one in flat if one.finite],
        "rows": judged.rows,
        "curves": judged.curves,
        "agreement": agreement,
        "convergence": converged,
    }
    cell = {"cell_id": study.cell_id}
    found = {name: [cell | row for row in rows] for name, rows in tables.items()}
    warned = [warning for item in items for warning in study.warnings_of(item.example_id)]
    return found | {"warnings": warned + [cell | one for one in uncertain]}


def _uncertain_baselines(study: Study, block: OpenBlock) -> Iterable[dict[str, Any]]:
    """A warning for each text whose maximum-entropy baseline leaves the model sure of something."""
    asked = {
        (setting.output, setting.hyper.get("baseline_special_tokens", "keep")): setting
        for setting in study.settings
        if setting.hyper.get("baseline") == "max_entropy"
    }
    for (output, special_tokens), setting in asked.items():
        context = block.context(output, setting.seed)
        shares = baselines.diagnostics(context, "max_entropy", special_tokens)
        for example_id, share in zip(block.batch.example_ids, shares, strict=True):
            if share < baselines.LITTLE:
                message = (
                    f"max_entropy reaches less than {baselines.LITTLE:g} of the largest entropy"
                )
                source = f"method.{setting.name}.baseline"
                yield {"example_id": example_id, "source": source, "message": message}


def _convergence(
    study: Study,
    refs: References,
    items: Sequence[Encoded],
    maps: Mapping[str, Sequence[AttributionMap]],
    probe: Collection[str],
) -> list[dict[str, Any]]:
    checked = [item for item in items if item.example_id in probe]
    if not checked:
        return []
    config = study.config
    block = open_block(refs, checked, config.target, config.runtime.token_budget)
    dense = Dense(config.convergence.reference_steps, config.convergence.reference_samples)
    return convergence_rows(block, maps, study.settings, dense)


def timings(study: Study, refs: References) -> list[dict[str, Any]]:
    """The time that each setting takes on the first examples of the study."""
    timing = study.config.timing
    rows = timing_rows(
        refs,
        study.encoded[: timing.n_examples],
        study.settings,
        n_repeats=timing.n_repeats,
        n_warmup=timing.n_warmup,
        token_budget=study.config.runtime.token_budget,
    )
    return [{"cell_id": study.cell_id} | row for row in rows]


def captum_tolerances(study: Study, refs: References) -> dict[str, Any] | None:
    """For each native setting with a Captum twin, the largest difference that rounding explains on any example."""
    twins = {
        setting.twin("native").id
        for setting in study.settings
        if setting.backend in captum.BACKENDS
    }
    paired = [setting for setting in study.settings if setting.id in twins]
    if not paired:
        return None
    found: dict[str, float] = {}
    budget = study.config.runtime.token_budget
    for _, opened in opened_blocks(refs, study.encoded, study.config.target, budget):
        for setting in paired:
            context = opened.context(setting.output, setting.seed)
            largest = float(relative_tolerance(context, setting).max())
            found[setting.id] = max(largest, found.get(setting.id, 0.0))
    return {"relative_tolerance": found, "derived_in": "saliency_bench.attribution.parity"}


def example_rows(block: OpenBlock) -> list[dict[str, Any]]:
    """What the model makes of each text."""
    probability = map(_number, block.probability(block.predicted).tolist())
    rows = []
    for row, (item, sure, largest) in enumerate(
        zip(block.batch.encoded, probability, block.predicted.tolist(), strict=True)
    ):
        predicted = (
            None if sure is None else largest
        )  # of outputs that are not finite no class is the largest
        unknown = item.gold is None or predicted is None
        rows.append(
            {
                "example_id": item.example_id,
                "text": item.text,
                "text_pair": item.text_pair,
                "gold": item.gold,
                "gold_label": None if item.gold is None else block.label(row, item.gold),
                "predicted": predicted,
                "predicted_label": None if predicted is None else block.label(row, predicted),
                "probability": sure,
                "correct": None if unknown else item.gold == predicted,
                "n_tokens": len(item),
                "truncated": item.truncated,
            }
        )
    return rows


def _number(value: float) -> float | None:
    """The value; null where it is none, which the rows of the text's metrics say as failed ones."""
    return value if math.isfinite(value) else None


def map_row(one: AttributionMap) -> dict[str, Any]:
    """A map as a row of the table."""
    encoded = one.encoded
    return {
        "setting_id": one.setting["setting_id"],
        "example_id": one.example_id,
        "target": one.target,
        "against": one.against,
        "label": one.label,
        "probability": _number(one.probability),
        "tokens": list(encoded.tokens),
        "token_ids": list(encoded.input_ids),
        "attributable": list(one.attributable),
        "starts": [start for start, _ in encoded.offsets],
        "ends": [end for _, end in encoded.offsets],
        "segments": list(encoded.segments),
        "words": list(encoded.words),
        "scores": one.scores.tolist(),
        "completeness_gap": one.completeness_gap,
        "output_difference": one.output_difference,
        "n_gradients": one.n_gradients,
        "standard_errors": None if one.standard_errors is None else one.standard_errors.tolist(),
        "split_half_tau": one.split_half_tau,
        "error": one.error,
        "converged": one.converged,
    }


def _choose(
    study: Study, folder: Path, command: Sequence[str], progress: Progress
) -> dict[str, Any] | None:
    """The setting of each method entry that is best on the split where the study chooses, if it does."""
    choose = study.config.choose
    if choose is None:
        return None
    from saliency_bench.study.choose import best_settings

    config = replace(_choosing(study), out=str(folder / CHOICE))
    chosen_in = run(config, study.settings, command, progress)
    best = best_settings(read_run(chosen_in), choose.metric)
    return {
        "split": choose.split,
        "n_examples": choose.n_examples,
        "metric": choose.metric,
        "best": best,
    }


def _choosing(study: Study) -> Any:
    """The configuration of the study that chooses on another split."""
    config = study.config
    return replace(
        config,
        data=config.data | {"split": config.choose.split},
        n_examples=config.choose.n_examples,
        timing=replace(config.timing, enabled=False),
        convergence=replace(config.convergence, n_examples=0),
        choose=None,
    )


def foresee(
    study: Study,
    finished: Collection[str] = (),
    *,
    choose: bool = True,
    n_blocks: int = N_BLOCKS,
) -> Forecast:
    """What the study will cost, of which these parts are finished; `choose`: with the study that chooses before it.

    `n_blocks`: see `forecast`.
    """
    refs = References(study.model)
    shares = _shares(study, finished, choose)
    with study.model.frozen():
        return forecast(
            refs,
            shares,
            partial(_all_of, study, refs, {share.stage for share in shares}),
            _families(study, refs),
            study.config.runtime.token_budget,
            n_blocks=n_blocks,
        )


def _announced(
    study: Study, folder: Path, finished: Collection[str], announce: Callable[[str], None]
) -> Forecast | None:
    """What is foreseen from one block, if there is so much left that this is little; and it is said if it is long."""
    choose = not (folder / CHOICE / MANIFEST).is_file()
    shares = _shares(study, finished, choose)
    if not shares or len(shares[0].texts) < FORESEEN_TEXTS:
        return None
    foreseen = foresee(study, finished, choose=choose, n_blocks=1)
    if foreseen.total.seconds >= LONG_SECONDS:
        announce(sentence(foreseen))
    return foreseen


def _shares(study: Study, finished: Collection[str], choose: bool) -> list[Share]:
    """How many texts each stage is for."""
    config, encoded = study.config, study.encoded
    pieces = [piece for piece in pieces_of(study) if piece.name not in finished]
    left = [encoded[index] for piece in pieces for index in piece.indices]
    checked = {item.example_id for item in encoded[: config.convergence.n_examples]}
    timed = config.timing.enabled and TIMING not in finished
    compared = any(setting.backend in captum.BACKENDS for setting in study.settings)
    passes = config.timing.n_warmup + config.timing.n_repeats + 1  # one for the memory
    shares = [
        Share(MAPS, left),
        Share(CURVES, left),
        Share(CONVERGENCE, [item for item in left if item.example_id in checked]),
        Share(TIMED, encoded[: config.timing.n_examples] if timed else [], passes),
        Share(PARITY, encoded if compared and (pieces or timed) else []),
    ]
    if config.choose is not None and choose:
        examples = load_examples(_choosing(study))
        other = [one for _, one in questions_of(study.model, examples, config.too_long)]
        name = f"choosing on {config.choose.split}"
        shares += [Share(stage, other, name=name) for stage in (MAPS, CURVES, PARITY)]
    return [share for share in shares if share.texts]


def _all_of(
    study: Study, refs: References, stages: Collection[str], items: Sequence[Encoded]
) -> None:
    """All that the study does with some texts; each setting is timed once."""
    config = study.config
    probe = {item.example_id for item in items} if CONVERGENCE in stages else ()
    block_tables(study, refs, items, probe)
    with study.model.ledger.under(PARITY):
        captum_tolerances(replace(study, encoded=tuple(items)), refs)
    if TIMED in stages:
        with study.model.ledger.under(TIMED):
            for setting in study.settings:
                explainer(refs, items, setting, config.runtime.token_budget)()


def _families(study: Study, refs: References) -> list[Family]:
    """Of the longest text: its settings that share points."""
    item = max(study.encoded, key=len)
    block = open_block(refs, [item], study.config.target, study.config.runtime.token_budget)
    return block.families(study.settings)


def _spent(study: Study, refs: References, before: Ledger) -> dict[str, Any]:
    """What this process has paid since; parts that an earlier one had finished are not among it."""
    ledger = study.model.ledger.since(before)
    return ledger.total._asdict() | {"calls": ledger.calls, "budget_halvings": refs.halvings}


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
    return {
        "id": study.id,
        "cell_id": study.cell_id,
        "command": shlex.join(command),
        "split": study.config.data.get("split"),
        "n_examples": len(study.encoded),
        "model": study.identity["model"],
        "data": study.identity["data"],
        "preflight": study.findings.to_dict(),
        "parts_resumed": n_resumed,
        **_shown(study),
        **provenance,
    }


def _shown(study: Study) -> dict[str, Any]:
    """What of the manifest follows from the configuration, and may change after the run."""
    config = study.config
    reference = config.statistics.reference
    ids = [setting.id for setting in study.settings if reference in (None, setting.name)]
    ids += [
        setting.id for setting in study.settings
    ]  # the named entry may have become another's twin
    return {
        "name": config.name,
        "config": json.loads(portable(json.dumps(asdict(config) | {"out": None}))),
        "reference_setting": ids[0],
    }
