"""Prepares a study: loads model and data, checks that they fit, and makes the id from all that can change a number."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any, TypeVar

import torch

from saliency_bench.attribution import philox
from saliency_bench.attribution.backward.score import refuse_without_parts
from saliency_bench.attribution.quadrature import CALIBRATED
from saliency_bench.attribution.settings import refuse_vanishing_sum
from saliency_bench.core.errors import InputError, counted
from saliency_bench.core.rows import Setting, digest
from saliency_bench.core.text import Encoded, Shared
from saliency_bench.core.units import refuse_without_units
from saliency_bench.data import DATASETS
from saliency_bench.data.example import Example
from saliency_bench.evaluation.removal import fit_operator
from saliency_bench.evaluation.view import View, usual
from saliency_bench.models import loading, references
from saliency_bench.models.heads import SEQUENCE_CLASSIFICATION
from saliency_bench.models.model import Model
from saliency_bench.models.placement import PLACEMENT, refuse_device_map
from saliency_bench.models.preflight import PreflightReport, inspect_texts
from saliency_bench.models.tasks import targets
from saliency_bench.models.tasks.encoding import mostly_unknown
from saliency_bench.models.tasks.registry import questions, task_of
from saliency_bench.store.manifest import collect
from saliency_bench.studies.budget import resolve as resolve_budget
from saliency_bench.studies.convergence import Companion, Dense, companions

Text = TypeVar("Text", Example, Encoded)

#: Replaces calibrated nodes, which are learnt from texts of the package that only classifiers can be asked about.
UNCALIBRATED = {"quadrature": "gauss_legendre", "n_steps": 50}

#: Keys of the configuration that change no number, but the place of results and the way they are shown.
SHOWN = ("out", "name", "report", "statistics")


@dataclass(frozen=True)
class Study:
    """Everything that a run needs, checked before anything is written."""

    config: Any
    settings: tuple[Setting, ...]
    model: Model
    preflight: PreflightReport
    encoded: tuple[Encoded, ...]
    warnings: tuple[dict[str, str], ...]
    identity: Mapping[str, Any]
    requested: Any  # the configuration before the model changed it
    parts: Mapping[str, Any] = field(default_factory=dict)  # by backward rule, where it acts

    @property
    def id(self) -> str:
        """Hashed from everything that can change a number."""
        return digest(self.identity)

    def warnings_of(self, example_id: str) -> list[dict[str, str]]:
        """The warning rows of one text; of the study as a whole for ""."""
        return [{"cell_id": self.cell_id} | warning for warning in self._warned.get(example_id, ())]

    @cached_property
    def _warned(self) -> dict[str, list[dict[str, str]]]:
        """The warnings by text: a study of a million texts asks for each."""
        by_text: dict[str, list[dict[str, str]]] = {}
        for warning in self.warnings:
            by_text.setdefault(warning["example_id"], []).append(warning)
        return by_text

    @cached_property
    def companions(self) -> list[Companion]:
        """The companions that maps of approximate settings are compared with."""
        convergence = self.config.convergence
        return companions(
            self.settings, Dense(convergence.reference_steps, convergence.reference_samples)
        )

    @cached_property
    def cell_id(self) -> str:
        """The (model, data, seed) of the study."""
        return digest({key: self.identity[key] for key in ("model", "data", "seed")})


@dataclass(frozen=True)
class Inputs:
    """The model of a study and its questions; `sources` name the origin of each, for messages."""

    model: Model
    encoded: Sequence[Encoded]
    sources: Sequence[str]


def load_inputs(config: Any, say: Callable[[str], None]) -> Inputs:
    """The configured model, and the configured data as that model reads them."""
    say("reading the data")
    examples = load_examples(config)
    say("loading the model")
    model = load_configured_model(config)
    say("reading the texts as the model does")
    pairs = questions_of(model, examples, config.too_long)
    return Inputs(
        model,
        [question for _, question in pairs],
        [example.source for example, _ in pairs],
    )


def prepare(
    config: Any,
    settings: Sequence[Setting],
    say: Callable[[str], None] = lambda stage: None,
    inputs: Inputs | None = None,
) -> Study:
    """Checks that model, data and settings fit; writes nothing. `say` is called with each stage.

    `inputs` are in memory already; None: `load_inputs`.
    """
    requested = config
    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    inputs = inputs or load_inputs(config, say)
    model, encoded = inputs.model, inputs.encoded
    targets.check(config.target, model.labels, encoded)
    _refuse_without_units(config, encoded)
    say("trying the model on a text")
    preflight = inspect_texts(model, encoded)
    fitted, warnings = fit_settings(model, settings, max(map(len, encoded)))
    for setting in fitted:
        refuse_vanishing_sum(setting, preflight.sum_vanishes)
    with model.frozen():
        parts = refuse_without_parts(model, fitted, encoded[0])
    config, lacking = fit_removals(model, config)
    warnings += lacking + ungated(model) + _repeats(model, encoded) + other_attention(model)
    budget = resolve_budget(config.runtime.token_budget, model, [*map(len, encoded)])
    config = replace(config, runtime=replace(config.runtime, token_budget=budget))
    cut = "the text is longer than the model allows and was cut"
    warnings += [
        _warning(source, cut, item.example_id)
        for source, item in zip(inputs.sources, encoded, strict=True)
        if item.truncated
    ]
    if message := mostly_unknown(model, encoded):
        warnings.append(_warning("model", message))
    identity = identity_of(config, fitted, model, encoded)
    return Study(
        config,
        tuple(fitted),
        model,
        preflight,
        tuple(encoded),
        tuple(warnings),
        identity,
        requested,
        parts,
    )


def _warning(source: str, message: str, example_id: str = "") -> dict[str, str]:
    """A row for the table of warnings, of the study as a whole where no text is named."""
    return {"example_id": example_id, "source": source, "message": message}


def _refuse_without_units(config: Any, encoded: Sequence[Encoded]) -> None:
    """Refuses granularities in which a text has no units."""
    entries = (entry.get("granularity") for entry in config.metric.values())
    granularities = {config.evaluation.granularity, config.agreement.granularity, *entries} - {None}
    for granularity in sorted(granularities):
        for item in encoded:
            refuse_without_units(item, granularity)


def questions_of(
    model: Model, examples: Sequence[Example], too_long: str
) -> list[tuple[Example, Encoded]]:
    """The questions that the model's task makes of examples. A classifier takes each as it is, and alone knows gold labels."""
    task = task_of(model)
    if model.task != SEQUENCE_CLASSIFICATION:
        examples = [e if e.options else replace(e, label=None) for e in examples]
    share = Shared()
    texts = [share(task.encode(model, example, too_long)) for example in examples]
    return [(examples[index], question) for index, question in questions(model, texts)]


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


def choosing(config: Any) -> Any:
    """The configuration of the study that chooses settings on another split."""
    return replace(
        config,
        data=config.data | {"split": config.choose.split},
        n_examples=config.choose.n_examples,
        timing=replace(config.timing, enabled=False),
        convergence=replace(config.convergence, n_examples=0),
        choose=None,
    )


def by_text_hash(texts: Sequence[Text]) -> list[Text]:
    """Ordered by the hash of their texts, so that a file sorted by label is not cut to one class."""
    return sorted(texts, key=lambda text: hashlib.sha256(text.text.encode()).hexdigest())


def load_configured_model(config: Any) -> Model:
    """The model that `model` and `runtime` name."""
    runtime = {key: getattr(config.runtime, key) for key in ("dtype", "device", "attention")}
    loaders: dict[str, Callable[..., Model]] = {
        "default": loading.load_default,
        "masked": loading.load_masked,
        "random_labels": loading.load_random_labels,
        "shortcuts": loading.load_shortcuts,
        "smollm2_shortcuts": partial(loading.load_shortcuts, source="smollm2_shortcuts"),
    }
    loaders |= {name: partial(loading.load_adapted, name) for name in loading.ADAPTED}
    values, device_map = asdict(config.model), config.runtime.device_map
    name = values.pop("name")
    if name in loaders:
        refuse_device_map(device_map, f"an adapter is merged into {name}")
        return loaders[name](**values, **runtime)
    path = values.pop("path", name)  # a prepared model is loaded by its name
    return loading.load_model(path, device_map=device_map, **values, **runtime)


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
                where, value = f"method.{setting.name}.{key}", hyper[key]
                hyper[key] = resolve(model, value, where)
                warnings += _lacks(model, where, value, hyper[key])
        if hyper.get("quadrature") == CALIBRATED and model.task != SEQUENCE_CLASSIFICATION:
            hyper |= UNCALIBRATED
            message = f"nodes are calibrated for classifiers alone, and this is {model.task}: 50 of Gauss-Legendre are used instead"
            warnings.append(_warning(f"method.{setting.name}.quadrature", message))
        changed = replace(setting, hyper=hyper)
        fitted.setdefault(changed.id, changed)
    return list(fitted.values()), warnings


def fit_removals(model: Model, config: Any) -> tuple[Any, list[dict[str, str]]]:
    """The configuration with removals that the model has, and a warning for each that was replaced."""
    warnings: list[dict[str, str]] = []

    def fitted(removal: str, where: str) -> str:
        used = fit_operator(model, removal, where)
        warnings.extend(_lacks(model, where, removal, used))
        return used

    removals = [fitted(removal, "evaluation.removal") for removal in config.evaluation.removal]
    metrics = {
        name: entry | {"removal": fitted(entry["removal"], f"metric.{name}.removal")}
        if "removal" in entry
        else entry
        for name, entry in config.metric.items()
    }
    evaluation = replace(config.evaluation, removal=list(dict.fromkeys(removals)))
    return replace(config, evaluation=evaluation, metric=metrics), warnings


def ungated(model: Model) -> list[dict[str, str]]:
    """A warning where a shortcut model does not follow its shortcut alone, so that no token is known to matter."""
    gate = model.facts.get("gate")
    if gate is None or gate["passed"]:
        return []
    message = f"{model.name} did not pass its gate, so that the shortcut is no ground truth: {gate['reason']}"
    return [_warning("model", message)]


def _repeats(model: Model, encoded: Sequence[Encoded]) -> list[dict[str, str]]:
    """A warning where the data has a text more than once. Several questions about one example repeat nothing."""
    asks_several = model.task != SEQUENCE_CLASSIFICATION
    examples = {
        (
            item.example_id.rpartition("@")[0] if asks_several else item.example_id,
            item.text,
            item.text_pair,
        )
        for item in encoded
    }
    different = len({(text, pair) for _, text, pair in examples})
    if different == len(examples):
        return []
    message = (
        f"{len(examples)} examples have {counted(different, 'different text')}: means, intervals and tests are over these, "
        "of each of which the examples are averaged first"
    )
    return [_warning("data", message)]


def other_attention(model: Model) -> list[dict[str, str]]:
    """A warning where the model has another attention than the one that was asked for."""
    used = model.facts.get("attention")
    if used is None:
        return []
    message = f"{model.name} does not have the attention that was asked for: {used} is used instead"
    return [_warning("runtime.attention", message)]


def usual_views(config: Any) -> list[View]:
    """The views of texts that metrics have which name no other."""
    evaluation = config.evaluation
    return usual(evaluation.removal, evaluation.granularity, evaluation.output, evaluation.ranking)


def _lacks(model: Model, key: str, wanted: str, used: str) -> list[dict[str, str]]:
    """A warning where something replaces what the model lacks."""
    message = references.lacking(model, wanted, used)
    return [_warning(key, message)] if message else []


#: Keys that say how a file is read; what they change shows in the texts.
_READING = ("quotes", "options", "segments", "messages")


def identity_of(
    config: Any, settings: Sequence[Setting], model: Model, encoded: Sequence[Encoded]
) -> dict[str, Any]:
    """Everything that can change a number; the executor and the number of workers cannot."""
    plain = asdict(config)
    kept = {
        key: value for key, value in plain.items() if key not in (*SHOWN, "method", "model", "data")
    }
    unsaid = {"executor", *(("device_map",) if config.runtime.device_map is None else ())}
    kept["runtime"] = {key: value for key, value in kept["runtime"].items() if key not in unsaid}
    inputs = [
        [item.example_id, item.input_ids, item.token_type_ids, item.gold]
        + ([] if item.relevant is None else [item.relevant])
        + ([] if not item.extra else [item.extra])
        + ([] if not item.parts else [item.parts])
        + ([item.turns] if item.turns and item.segmented else [])
        + ([] if model.task == SEQUENCE_CLASSIFICATION else [_question(item)])
        for item in encoded
    ]
    provenance = collect(computation(config, model), command=[], started=datetime.now(UTC))
    return {
        # On which of the same devices a part lies changes no number.
        "model": {key: value for key, value in model.facts.items() if key != PLACEMENT}
        | {"name": model.name, "labels": list(model.labels)},
        "data": {key: value for key, value in plain["data"].items() if key not in _READING}
        | {"sha256": digest(inputs, 64)},
        "seed": config.seed,
        "settings": [setting.id for setting in settings],
        "config": kept,
        "environment": provenance["identity"],
    }


def _question(item: Encoded) -> list[Any]:
    options = [item.options, item.mean] if item.options else []
    return [item.position, item.boundary, item.default_class, *options]


def computation(config: Any, model: Model) -> dict[str, Any]:
    """The facts of the machine that numbers depend on besides the study."""
    runtime = asdict(config.runtime)
    return machine(runtime, model.device) | {
        "attention": model.facts.get("attention", runtime["attention"]),
        "noise": philox.GENERATOR,
    }


def machine(runtime: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The facts of a computation that the machine and `runtime` of conf/config.yaml decide, for a manifest."""
    return {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "dtype": runtime["dtype"],
        "attention": runtime["attention"],
        "threads": torch.get_num_threads(),
        "token_budget": runtime["token_budget"],
    }
