"""A study before it runs: model and data loaded, checked against each other, and named by all that can change a number."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from saliency_bench.attribution.backward.score import refuse_without_parts
from saliency_bench.attribution.describe import described
from saliency_bench.attribution.settings import refuse_vanishing_sum
from saliency_bench.core.errors import InputError
from saliency_bench.core.method_facts import FACTS
from saliency_bench.core.rows import Setting, digest
from saliency_bench.core.text import Encoded, Shared
from saliency_bench.data import DATASETS
from saliency_bench.data.example import Example
from saliency_bench.evaluation.removal import fit_operator
from saliency_bench.evaluation.units import WORD, refuse_unknown_words
from saliency_bench.evaluation.view import Reading, usual
from saliency_bench.models import loading, references
from saliency_bench.models.heads import SEQUENCE_CLASSIFICATION
from saliency_bench.models.model import Model
from saliency_bench.models.preflight import Findings, inspect_texts
from saliency_bench.models.tasks import targets
from saliency_bench.models.tasks.registry import questions, task_of
from saliency_bench.models.tasks.sequence_classification import mostly_unknown
from saliency_bench.store.durable import is_leftover, refuse_links, replace_file, storing
from saliency_bench.store.manifest import collect
from saliency_bench.store.run import CONFIG, IDENTITY, SETTINGS, read_json, write_json
from saliency_bench.study.budget import resolve as resolve_budget

RUNS = Path("results") / "runs"
CHOICE = "choice"  # the folder of the study that chooses
_NAMED, _SHOWN = 12, 60  # differences in a message, and characters of each key and value
#: Keys of the configuration that change no number: where results go and how they are shown.
SHOWN = ("out", "name", "report", "statistics")


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
    asked: Any  # the configuration before the model changed it

    @property
    def id(self) -> str:
        """Hashed from everything that can change a number."""
        return digest(self.identity)

    def warnings_of(self, example_id: str) -> list[dict[str, str]]:
        """The warning rows of one text; of the study as a whole for ""."""
        return [{"cell_id": self.cell_id} | one for one in self._warned.get(example_id, ())]

    @cached_property
    def _warned(self) -> dict[str, list[dict[str, str]]]:
        """The warnings by text: a study of a million texts asks for each."""
        found: dict[str, list[dict[str, str]]] = {}
        for one in self.warnings:
            found.setdefault(one["example_id"], []).append(one)
        return found

    @cached_property
    def cell_id(self) -> str:
        """The (model, data, seed) of the study."""
        return digest({key: self.identity[key] for key in ("model", "data", "seed")})


def prepare(
    config: Any, settings: Sequence[Setting], say: Callable[[str], None] = lambda stage: None
) -> Study:
    """Loads model and data and checks that they fit; writes nothing. `say` is told what is being done."""
    asked = config
    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    say("reading the data")
    examples = load_examples(config)
    say("loading the model")
    model = load_configured_model(config)
    say("reading the texts as the model does")
    asked_of = questions_of(model, examples, config.too_long)
    encoded = [question for _, question in asked_of]
    targets.check(config.target, model.labels, encoded)
    _refuse_unknown_words(config, encoded)
    say("trying the model on a text")
    findings = inspect_texts(model, encoded)
    fitted, warnings = fit_settings(model, settings, max(map(len, encoded)))
    for setting in fitted:
        refuse_vanishing_sum(setting, findings.sum_vanishes)
    with model.frozen():
        refuse_without_parts(model, fitted, encoded[0])
    config, lacking = fit_removals(model, config)
    warnings += lacking + ungated(model) + _repeats(examples) + other_attention(model)
    budget = resolve_budget(config.runtime.token_budget, model, [*map(len, encoded)])
    config = replace(config, runtime=replace(config.runtime, token_budget=budget))
    warnings += [
        {
            "example_id": item.example_id,
            "source": example.source,
            "message": "the text is longer than the model allows and was cut",
        }
        for example, item in asked_of
        if item.truncated
    ]
    if message := mostly_unknown(model, encoded):
        warnings.append({"example_id": "", "source": "model", "message": message})
    identity = identity_of(config, fitted, model, encoded)
    return Study(
        config, tuple(fitted), model, findings, tuple(encoded), tuple(warnings), identity, asked
    )


def _refuse_unknown_words(config: Any, encoded: Sequence[Encoded]) -> None:
    """Refuses granularity=word, wherever it is asked for, where nothing says what the words of a text are."""
    asked = [config.evaluation.granularity, config.agreement.granularity]
    if WORD in [*asked, *(entry.get("granularity") for entry in config.metric.values())]:
        for item in encoded:
            refuse_unknown_words(item)


def questions_of(
    model: Model, examples: Sequence[Example], too_long: str
) -> list[tuple[Example, Encoded]]:
    """What the model's task asks of the examples: each as it is by a classifier, which alone knows gold labels."""
    task = task_of(model)
    if model.task != SEQUENCE_CLASSIFICATION:
        examples = [replace(example, label=None) for example in examples]
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
    return loading.load_model(
        one.path,
        task=one.task,
        revision=one.revision,
        adapter=one.adapter,
        labels=one.labels,
        **runtime,
    )


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
                warnings += _lacks(model, where, asked, hyper[key])
        one = replace(setting, hyper=hyper)
        fitted.setdefault(one.id, one)
    return list(fitted.values()), warnings


def fit_removals(model: Model, config: Any) -> tuple[Any, list[dict[str, str]]]:
    """The configuration with every removal one that the model has, and a warning for each that was replaced."""
    warnings: list[dict[str, str]] = []

    def fitted(asked: str, where: str) -> str:
        found = fit_operator(model, asked, where)
        warnings.extend(_lacks(model, where, asked, found))
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


def _repeats(examples: Sequence[Example]) -> list[dict[str, str]]:
    """A warning where the data has a text more than once."""
    different = len({(one.text, one.text_pair) for one in examples})
    if different == len(examples):
        return []
    message = (
        f"{len(examples) - different} of {len(examples)} examples repeat the text of another: means, intervals and tests "
        f"are over the {different} different texts, of each of which the examples are averaged first"
    )
    return [{"example_id": "", "source": "data", "message": message}]


def other_attention(model: Model) -> list[dict[str, str]]:
    """A warning where the model has another attention than the one that was asked for."""
    used = model.facts.get("attention")
    if used is None:
        return []
    message = f"{model.name} does not have the attention that was asked for: {used} is used instead"
    return [{"example_id": "", "source": "runtime.attention", "message": message}]


def usual_readings(config: Any) -> list[Reading]:
    """How the study looks at texts where a metric says nothing else."""
    one = config.evaluation
    return usual(one.removal, one.granularity, one.output, one.ranking)


def _lacks(model: Model, key: str, asked: str, used: str) -> list[dict[str, str]]:
    """A warning where something stands in for what the model lacks."""
    message = references.lacking(model, asked, used)
    return [{"example_id": "", "source": key, "message": message}] if message else []


#: What says how a file is read, which shows in what is read.
_READING = ("quotes",)


def identity_of(
    config: Any, settings: Sequence[Setting], model: Model, encoded: Sequence[Encoded]
) -> dict[str, Any]:
    """All that can change a number: who computes it, and how many at a time, cannot."""
    plain = asdict(config)
    kept = {
        key: value for key, value in plain.items() if key not in (*SHOWN, "method", "model", "data")
    }
    kept["runtime"] = {key: value for key, value in kept["runtime"].items() if key != "executor"}
    inputs = [
        [item.example_id, item.input_ids, item.token_type_ids, item.gold]
        + ([] if item.relevant is None else [item.relevant])
        + ([] if not item.extra else [item.extra])
        + ([] if model.task == SEQUENCE_CLASSIFICATION else [_asked(item)])
        for item in encoded
    ]
    provenance = collect(computation(config, model), command=[], started=datetime.now(UTC))
    return {
        "model": dict(model.facts) | {"name": model.name, "labels": list(model.labels)},
        "data": {key: value for key, value in plain["data"].items() if key not in _READING}
        | {"sha256": digest(inputs, 64)},
        "seed": config.seed,
        "settings": [setting.id for setting in settings],
        "config": kept,
        "environment": provenance["identity"],
    }


def _asked(item: Encoded) -> list[int | None]:
    return [item.position, item.boundary, item.default_class]


def computation(config: Any, model: Model) -> dict[str, Any]:
    """What numbers depend on besides the study, as far as the machine decides it."""
    device = model.device
    return {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "dtype": config.runtime.dtype,
        "attention": model.facts.get("attention", config.runtime.attention),
        "threads": torch.get_num_threads(),
        "token_budget": config.runtime.token_budget,
    }


def folder_of(study: Study) -> Path:
    """Where the study's results go."""
    name = study.config.name
    return Path(study.config.out) if study.config.out else RUNS / f"{name}-{study.id}"


def refuse_another(study: Study, folder: Path) -> None:
    """Refuses a folder that holds another study, naming what differs, or anything that no study has written.

    Raises:
        InputError: it does.
        StorageError: what the folder says of itself is damaged, or it holds a link to elsewhere.
    """
    refuse_links(folder)
    path = folder / IDENTITY
    if not path.is_file() and (others := strangers(folder)):
        some = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise InputError(
            f"{folder} holds other files ({some}) and no {IDENTITY} of a study. Give a new folder with out=."
        )
    identity = json.loads(json.dumps(study.identity))
    if path.is_file():
        held = read_json(path, dict)
        if held != identity:
            changed = list(differences(held, identity))
            if "settings" in changed and (folder / SETTINGS).is_file():
                changed.remove("settings")
                changed += _of_settings(read_json(folder / SETTINGS, list), study)
            some = ", ".join(changed[:_NAMED]) + (", ..." if len(changed) > _NAMED else "")
            raise InputError(
                f"{folder} holds another run; it differs in {some}. Give another folder with out=, or remove it."
            )


def _of_settings(held: list[Any], study: Study) -> list[str]:
    """What the settings of each method entry differ in, by field; what they all have from the study aside."""
    found: dict[str, None] = {}
    for name in dict.fromkeys(
        [*(str(one.get("name")) for one in held if isinstance(one, dict))]
        + [one.name for one in study.settings]
    ):
        before = [one for one in held if isinstance(one, dict) and one.get("name") == name]
        after = [one.to_dict() for one in study.settings if one.name == name]
        if len(before) != len(after):
            found[f"method.{_cut(name)} ({len(before)} → {len(after)} settings)"] = None
            continue
        for one, other in zip(before, after, strict=True):
            fields = {*one, *other} - {"setting_id", "seed", "target", FACTS}
            one, other = ({key: it[key] for key in fields & it.keys()} for it in (one, other))
            found |= dict.fromkeys(differences(one, other, f"method.{name}"))
    return list(found)


def strangers(folder: Path) -> list[str]:
    """What a study has not written before it claims a folder; the study that chooses stands there by then."""
    if not folder.is_dir():
        return []
    with storing(folder):
        names = sorted(path.name for path in folder.iterdir() if not is_leftover(path.name))
    choice = folder / CHOICE
    if choice.is_dir() and ((choice / IDENTITY).is_file() or not strangers(choice)):
        names.remove(CHOICE)
    return names


def claim(study: Study, folder: Path) -> None:
    """Makes the folder this study's: what it is, its settings, and all that another process needs to go on with it."""
    write_json(folder / IDENTITY, json.loads(json.dumps(study.identity)))
    write_json(folder / SETTINGS, [described(setting) for setting in study.settings])
    # In its own order, which is that of the settings: canonical JSON would sort it.
    held = json.dumps(asdict(study.asked) | {"out": None}, indent=1, ensure_ascii=False)
    replace_file(folder / CONFIG, f"{held}\n".encode())


def differences(a: Any, b: Any, key: str = "") -> Iterable[str]:
    """Dotted keys at which two JSON values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for name in sorted({*a, *b}):
            yield from differences(a.get(name), b.get(name), f"{key}.{name}" if key else name)
    elif a != b:
        yield _cut(key) if isinstance(a, list | dict) else f"{_cut(key)} ({_cut(a)} → {_cut(b)})"


def _cut(value: object) -> str:
    """A key or value of a folder that may be somebody else's, short and in one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
