"""The only loop: a configured study to rows on disk, block by block; what is finished is not done again."""

import hashlib
import json
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from saliency_bench.attribution import baselines
from saliency_bench.attribution.explain import Family
from saliency_bench.attribution.parity import relative_tolerance
from saliency_bench.attribution.settings import refuse_vanishing_sum
from saliency_bench.bench.attribution import explainer, timing_rows
from saliency_bench.bench.budget import resolve as resolve_budget
from saliency_bench.bench.cost import costs
from saliency_bench.bench.estimate import Estimate, Share, Subject, estimate, spent
from saliency_bench.blocks import OpenBlock, open_block, plan_blocks
from saliency_bench.convergence import Dense, convergence_rows
from saliency_bench.data import DATASETS
from saliency_bench.data.example import Example
from saliency_bench.encoded import Encoded
from saliency_bench.errors import InputError
from saliency_bench.evaluation.reading import Reading, usual
from saliency_bench.evaluation.removal import fit_operator
from saliency_bench.judge import agreement_rows, judge_block
from saliency_bench.maps import AttributionMap
from saliency_bench.models import loading, references
from saliency_bench.models.ledger import CONVERGENCE, CURVES, MAPS, PARITY, Ledger
from saliency_bench.models.ledger import TIMING as TIMED
from saliency_bench.models.model import Model
from saliency_bench.models.preflight import Findings, inspect_model
from saliency_bench.models.references import References
from saliency_bench.report.estimate import sentence
from saliency_bench.rows import REFERENCE_BACKENDS, Setting, digest
from saliency_bench.store.manifest import collect, portable
from saliency_bench.store.parts import PartStore
from saliency_bench.store.run import MANIFEST, SETTINGS, write_json
from saliency_bench.tasks import sequence_classification as task

RUNS = Path("results") / "runs"
IDENTITY = "identity.json"
TIMING = "timing"  # the name of the part that holds the timings
CHOICE = "choice"  # the folder of the study that chooses
#: Work that is announced.
LONG_SECONDS = 30.0
#: Keys of the configuration that change no number: where results go and how they are shown.
SHOWN = ("out", "name", "report", "statistics")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Study:
    """Everything that a run needs, checked before anything is written."""

    config: Any
    settings: tuple[Setting, ...]
    model: Model
    findings: Findings
    encoded: tuple[Encoded, ...]
    warnings: tuple[dict[str, str], ...]
    identity: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Hashed from everything that can change a number."""
        return digest(self.identity)

    def warnings_of(self, example_id: str) -> list[dict[str, str]]:
        """The warning rows of one text; of the study as a whole for ""."""
        cell = {"cell_id": self.cell_id}
        return [cell | one for one in self.warnings if one["example_id"] == example_id]

    @property
    def cell_id(self) -> str:
        """The (model, data, seed) of the study."""
        return digest({key: self.identity[key] for key in ("model", "data", "seed")})


def run(
    config: Any,
    settings: Sequence[Setting],
    command: Sequence[str],
    progress: Progress = lambda stage, done, total: None,
    announce: Callable[[str], None] | None = None,
) -> Path:
    """Runs a study and returns its folder, complete.

    `announce` is told what a long study will cost before it begins; where it is None, nothing is estimated.

    Blocks that a run of the same identity has finished before are not computed again. Where the study chooses
    settings on another split, that study runs first and stands in `choice/` of the folder.

    Raises:
        InputError: model, data or settings do not fit; nothing has been written.
        StorageError: the folder cannot be written; what is finished stays.
    """
    started = datetime.now(UTC)
    study = prepare(config, settings)
    folder = _folder(study)
    _refuse_another(study, folder)
    store = PartStore(folder)
    finished = store.finished()
    foreseen = None if announce is None else _announced(study, folder, finished, announce)
    chosen = _choose(study, folder, command, progress)
    plan = plan_blocks(study.encoded)
    names = [block.name for block in plan] + ([TIMING] if config.timing.enabled else [])
    _write_settings(study, folder)
    refs = References(study.model)
    probe = {item.example_id for item in study.encoded[: config.convergence.n_examples]}
    before = study.model.ledger.copy()
    with study.model.frozen():
        for done, block in enumerate(plan):
            progress("blocks", done, len(plan))
            if block.name not in finished:
                items = [study.encoded[index] for index in block.indices]
                tables = block_tables(study, refs, items, probe)
                if done == 0:  # what concerns no text stands with the first
                    tables["warnings"] += study.warnings_of("")
                store.write(block.name, tables)
        progress("blocks", len(plan), len(plan))
        if TIMING in names and TIMING not in finished:
            progress("timing", 0, 1)
            with study.model.ledger.under(TIMED):
                store.write(TIMING, {"timings": timings(study, refs)})
        with study.model.ledger.under(PARITY):
            parity = captum_tolerances(study, refs)
        paid = _spent(study, refs, before)
    store.seal(names)
    manifest = _manifest(study, command, started, len(finished))
    manifest["circumstances"] |= {"spent": paid, "estimate": foreseen and foreseen.to_dict()}
    write_json(folder / MANIFEST, manifest | {"chosen": chosen, "parity": parity})
    return folder


def prepare(config: Any, settings: Sequence[Setting]) -> Study:
    """Loads model and data and checks that they fit; writes nothing."""
    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    examples = load_examples(config)
    model = load_configured_model(config)
    encoded = task.encode(model, examples, too_long=config.too_long)
    if config.target == "gold":
        task.require_gold(encoded)
    findings = inspect_model(model, encoded[0].input_ids, encoded[0].token_type_ids)
    fitted, warnings = fit_settings(model, settings, max(map(len, encoded)))
    for setting in fitted:
        refuse_vanishing_sum(setting, findings.sum_vanishes)
    config, lacking = fit_removals(model, config)
    warnings += lacking + ungated(model)
    budget = resolve_budget(config.runtime.token_budget, model, [*map(len, encoded)])
    config = replace(config, runtime=replace(config.runtime, token_budget=budget))
    sources = {example.id: example.source for example in examples}
    warnings += [
        {
            "example_id": item.example_id,
            "source": sources[item.example_id],
            "message": "the text is longer than the model allows and was cut",
        }
        for item in encoded
        if item.truncated
    ]
    identity = _identity(config, fitted, model, encoded)
    return Study(config, tuple(fitted), model, findings, tuple(encoded), tuple(warnings), identity)


def load_examples(config: Any) -> list[Example]:
    """The first `n_examples` of the configured data; all of a file that has fewer."""
    values = dict(config.data)
    name = values.pop("dataset")
    examples: list[Example] = DATASETS[name](**values)
    if not examples:
        raise InputError(f"data={name} has no example")
    if len(examples) <= config.n_examples:
        return examples
    return by_text_hash(examples)[: config.n_examples]


def by_text_hash(examples: Sequence[Example]) -> list[Example]:
    """Ordered by the hash of their texts, so that a file sorted by label is not cut to one class."""
    return sorted(examples, key=lambda one: hashlib.sha256(one.text.encode()).hexdigest())


def load_configured_model(config: Any) -> Model:
    """The model that `model` and `runtime` name."""
    runtime = {
        "dtype": config.runtime.dtype,
        "device": config.runtime.device,
        "attention": config.runtime.attention,
    }
    one = config.model
    if one.name == "default":
        return loading.load_default(training_seed=one.training_seed, **runtime)
    if one.name == "masked":
        return loading.load_masked(training_seed=one.training_seed, **runtime)
    if one.name == "random_labels":
        return loading.load_random_labels(training_seed=one.training_seed, **runtime)
    if one.name == "shortcuts":
        return loading.load_shortcuts(kind=one.kind, training_seed=one.training_seed, **runtime)
    return loading.load_model(one.path, revision=one.revision, adapter=one.adapter, **runtime)


def fit_settings(
    model: Model, settings: Sequence[Setting], longest: int = 1
) -> tuple[list[Setting], list[dict[str, str]]]:
    """The settings with the user's own files named by their content, and what the model lacks replaced, with a warning.

    `longest` is the number of tokens of the longest text, which references must have too.
    """
    fitted: dict[str, Setting] = {}
    warnings = []
    longer = partial(references.resolve_references, longest=longest)
    for setting in settings:
        hyper = dict(setting.hyper)
        for key, resolve in (references.RESOLVE | {"references": longer}).items():
            if key in hyper:
                where, asked = f"method.{setting.name}.{key}", hyper[key]
                hyper[key] = resolve(model, asked, where)
                if not hyper[key].startswith(asked):  # a digest at its end is no other choice
                    warnings.append(_lacks(model, where, asked, hyper[key]))
        one = replace(setting, hyper=hyper)
        fitted.setdefault(one.id, one)
    return list(fitted.values()), warnings


def fit_removals(model: Model, config: Any) -> tuple[Any, list[dict[str, str]]]:
    """The configuration with every removal one that the model has, and a warning for each that was replaced."""
    warnings: list[dict[str, str]] = []

    def fitted(asked: str, where: str) -> str:
        found = fit_operator(model, asked, where)
        if found != asked:
            warnings.append(_lacks(model, where, asked, found))
        return found

    removals = [fitted(one, "evaluation.removal") for one in config.evaluation.removal]
    metrics = {
        name: entry | {"removal": fitted(entry["removal"], f"metric.{name}.removal")}
        if "removal" in entry
        else entry
        for name, entry in config.metric.items()
    }
    evaluation = replace(config.evaluation, removal=list(dict.fromkeys(removals)))
    return replace(config, evaluation=evaluation, metric=metrics), warnings


def ungated(model: Model) -> list[dict[str, str]]:
    """A warning where a shortcut model was found not to follow its shortcut alone: then nothing is known to matter."""
    gate = model.facts.get("gate")
    if gate is None or gate["passed"]:
        return []
    message = f"{model.name} did not pass its gate, so that the shortcut is no ground truth: {gate['reason']}"
    return [{"example_id": "", "source": "model", "message": message}]


def usual_readings(config: Any) -> list[Reading]:
    """How the study looks at texts where a metric says nothing else."""
    one = config.evaluation
    return usual(one.removal, one.granularity, one.output, one.ranking)


def _lacks(model: Model, key: str, asked: str, used: str) -> dict[str, str]:
    needed = "tokenizer" if asked == "movie_reviews" else f"{asked} token"
    message = f"{model.name} has no {needed}: {used} is used instead"
    return {"example_id": "", "source": key, "message": message}


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
    captum = {
        setting.twin("native").id
        for setting in study.settings
        if setting.backend in REFERENCE_BACKENDS
    }
    paired = [setting for setting in study.settings if setting.id in captum]
    if not paired:
        return None
    found: dict[str, float] = {}
    for block in plan_blocks(study.encoded):
        items = [study.encoded[index] for index in block.indices]
        opened = open_block(refs, items, study.config.target, study.config.runtime.token_budget)
        for setting in paired:
            context = opened.context(setting.output, setting.seed)
            largest = float(relative_tolerance(context, setting).max())
            found[setting.id] = max(largest, found.get(setting.id, 0.0))
    return {"relative_tolerance": found, "derived_in": "saliency_bench.attribution.parity"}


def example_rows(block: OpenBlock) -> list[dict[str, Any]]:
    """What the model makes of each text."""
    probability = block.probability(block.predicted).tolist()
    rows = []
    for row, (item, predicted) in enumerate(
        zip(block.batch.encoded, block.predicted.tolist(), strict=True)
    ):
        rows.append(
            {
                "example_id": item.example_id,
                "text": item.text,
                "text_pair": item.text_pair,
                "gold": item.gold,
                "gold_label": None if item.gold is None else block.labels[item.gold],
                "predicted": predicted,
                "predicted_label": block.labels[predicted],
                "probability": probability[row],
                "correct": None if item.gold is None else item.gold == predicted,
                "n_tokens": len(item),
                "truncated": item.truncated,
            }
        )
    return rows


def map_row(one: AttributionMap) -> dict[str, Any]:
    """A map as a row of the table."""
    encoded = one.encoded
    return {
        "setting_id": one.setting["setting_id"],
        "example_id": one.example_id,
        "target": one.target,
        "label": one.label,
        "probability": one.probability,
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
    from saliency_bench.stats import best_settings
    from saliency_bench.store.run import read_run

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
    long_seconds: float | None = None,
) -> Estimate:
    """What the study will cost, of which these parts are finished; `choose`: with the study that chooses before it.

    `long_seconds`: see `estimate`.
    """
    subject = Subject(
        model=study.model,
        shares=_shares(study, finished, choose),
        token_budget=study.config.runtime.token_budget,
        rehearse=partial(_rehearse, study),
        taste=partial(_taste, study),
        families=partial(_families, study),
    )
    with study.model.frozen():
        return estimate(subject, long_seconds=long_seconds)


def _announced(
    study: Study, folder: Path, finished: Collection[str], announce: Callable[[str], None]
) -> Estimate | None:
    """The estimate, if there is work left, and it can be had: a study does not fail for want of one."""
    choose = not (folder / CHOICE / MANIFEST).is_file()
    if not _shares(study, finished, choose):
        return None
    try:
        foreseen = foresee(study, finished, choose=choose, long_seconds=LONG_SECONDS)
    except Exception as error:
        announce(f"No estimate of what this will cost: {' '.join(str(error).split())}")
        return None
    if foreseen.total.seconds >= LONG_SECONDS:
        announce(sentence(foreseen))
    return foreseen


def _shares(study: Study, finished: Collection[str], choose: bool) -> list[Share]:
    """How many texts each stage is for."""
    config, encoded = study.config, study.encoded
    blocks = [block for block in plan_blocks(encoded) if block.name not in finished]
    left = [encoded[index] for block in blocks for index in block.indices]
    checked = {item.example_id for item in encoded[: config.convergence.n_examples]}
    timed = config.timing.enabled and TIMING not in finished
    passes = config.timing.n_warmup + config.timing.n_repeats + 1  # one for the memory
    shares = [
        Share(MAPS, left),
        Share(CURVES, left),
        Share(CONVERGENCE, [item for item in left if item.example_id in checked]),
        Share(TIMED, encoded[: config.timing.n_examples] if timed else [], passes),
        Share(PARITY, encoded if blocks or timed else []),
    ]
    if config.choose is not None and choose:
        examples = load_examples(_choosing(study))
        other = task.encode(study.model, examples, too_long=config.too_long)
        name = f"choosing on {config.choose.split}"
        shares += [Share(stage, other, name=name) for stage in (MAPS, CURVES, PARITY)]
    return [share for share in shares if share.texts]


def _rehearse(study: Study, refs: References, item: Encoded) -> None:
    """All that the study does with one text, each setting timed once, on a model that stands in for its own."""
    model, config = refs.model, study.config
    one = replace(study, model=model, encoded=(item,))
    with model.frozen():
        block_tables(one, refs, [item], {item.example_id} if config.convergence.n_examples else ())
        with model.ledger.under(PARITY):
            captum_tolerances(one, refs)
        if config.timing.enabled:
            with model.ledger.under(TIMED):
                for setting in study.settings:
                    explainer(refs, [item], setting, config.runtime.token_budget)()


def _taste(study: Study, refs: References, item: Encoded) -> None:
    """The maps of one text and their metrics."""
    with refs.model.frozen():
        block_tables(replace(study, model=refs.model), refs, [item], ())


def _families(study: Study, refs: References, item: Encoded) -> list[Family]:
    with refs.model.frozen():
        budget = study.config.runtime.token_budget
        block = open_block(refs, [item], study.config.target, budget)
        return block.families(study.settings)


def _spent(study: Study, refs: References, before: Ledger) -> dict[str, Any]:
    """What this process has paid since; parts that an earlier one had finished are not among it."""
    ledger = study.model.ledger.since(before)
    paid = spent(ledger, costs(study.model, max(study.encoded, key=len)))
    return paid._asdict() | {"calls": ledger.calls, "budget_halvings": refs.halvings}


def _identity(
    config: Any, settings: Sequence[Setting], model: Model, encoded: Sequence[Encoded]
) -> dict[str, Any]:
    plain = asdict(config)
    kept = {
        key: value for key, value in plain.items() if key not in (*SHOWN, "method", "model", "data")
    }
    inputs = [
        [item.example_id, item.input_ids, item.token_type_ids, item.gold]
        + ([] if item.relevant is None else [item.relevant])
        for item in encoded
    ]
    provenance = collect(_computation(config, model), command=[], started=datetime.now(UTC))
    return {
        "model": dict(model.facts) | {"name": model.name, "labels": list(model.labels)},
        "data": plain["data"] | {"sha256": digest(inputs, 64)},
        "seed": config.seed,
        "settings": [setting.id for setting in settings],
        "config": kept,
        "environment": provenance["identity"],
    }


def _computation(config: Any, model: Model) -> dict[str, Any]:
    device = model.device
    return {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "dtype": config.runtime.dtype,
        "attention": config.runtime.attention,
        "threads": torch.get_num_threads(),
        "token_budget": config.runtime.token_budget,
    }


def _folder(study: Study) -> Path:
    name = study.config.name
    return Path(study.config.out) if study.config.out else RUNS / f"{name}-{study.id}"


def _refuse_another(study: Study, folder: Path) -> None:
    """Refuses a folder that holds another study, naming what differs."""
    path = folder / IDENTITY
    identity = json.loads(json.dumps(study.identity))
    if path.is_file():
        held = json.loads(path.read_text("utf-8"))
        if held != identity:
            changed = ", ".join(_differences(held, identity))
            raise InputError(
                f"{folder} holds another run; it differs in {changed}. Give another folder with out=, or remove it."
            )


def _write_settings(study: Study, folder: Path) -> None:
    """Claims the folder for this study."""
    write_json(folder / IDENTITY, json.loads(json.dumps(study.identity)))
    write_json(folder / SETTINGS, [setting.to_dict() for setting in study.settings])


def _differences(a: Any, b: Any, key: str = "") -> Iterable[str]:
    """Dotted keys at which two JSON values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for name in sorted({*a, *b}):
            yield from _differences(a.get(name), b.get(name), f"{key}.{name}" if key else name)
    elif a != b:
        yield key if isinstance(a, list | dict) else f"{key} ({a} → {b})"


def _manifest(
    study: Study,
    command: Sequence[str],
    started: datetime,
    n_resumed: int,
) -> dict[str, Any]:
    config = study.config
    provenance = collect(
        _computation(config, study.model), command=command, started=started, ended=datetime.now(UTC)
    )
    reference = config.statistics.reference
    ids = [setting.id for setting in study.settings if reference in (None, setting.name)]
    ids += [
        setting.id for setting in study.settings
    ]  # the named entry may have become another's twin
    return {
        "id": study.id,
        "cell_id": study.cell_id,
        "name": config.name,
        "command": shlex.join(command),
        "config": json.loads(portable(json.dumps(asdict(config) | {"out": None}))),
        "reference_setting": ids[0],
        "split": config.data.get("split"),
        "n_examples": len(study.encoded),
        "model": study.identity["model"],
        "data": study.identity["data"],
        "preflight": study.findings.to_dict(),
        "parts_resumed": n_resumed,
        **provenance,
    }
