"""`saliency-bench sanity`: do maps depend on the model, on chance and on small changes as they should; conf/sanity.yaml."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console

from saliency_bench.core import conf as conf_files
from saliency_bench.core import overrides, ranges
from saliency_bench.core.errors import InputError, one_of
from saliency_bench.core.registry import REMOVALS
from saliency_bench.core.rows import SANITY
from saliency_bench.data import DATASETS
from saliency_bench.data.example import Example
from saliency_bench.experiments.findings import of_sanity
from saliency_bench.experiments.publish import publish, refuse_a_run
from saliency_bench.experiments.sanity import random_removal as removal
from saliency_bench.experiments.sanity import randomisation, seeds, sensitivity, special_tokens
from saliency_bench.experiments.sanity.asking import Row, Subject, fix_class
from saliency_bench.models import loading
from saliency_bench.models.encoder import MASKED
from saliency_bench.models.model import Model
from saliency_bench.models.references import resolve_removal
from saliency_bench.models.tasks import sequence_classification as task
from saliency_bench.report.stats import Resampling
from saliency_bench.study.budget import check_budget
from saliency_bench.study.budget import resolve as resolve_budget

OUT = Path("results") / "sanity"
CONFIG = "sanity"
DEFAULT, BUNDLED = "default", "bundled"

Progress = Callable[[str, int, int], None]
Section = Callable[[Subject, Callable[[int, int], None]], Iterator[Row]]

SECTIONS: Mapping[str, Section] = {
    "randomisation": randomisation.rows,
    "random_labels": seeds.random_labels,
    "stability": seeds.stability,
    "sensitivity": sensitivity.rows,
    "removal": removal.rows,
    "special_tokens": special_tokens.rows,
}


@dataclass(frozen=True)
class Options:
    """What the command line gives; `config` is conf/sanity.yaml with the overrides."""

    out: Path
    config: Mapping[str, Any]

    @property
    def resampling(self) -> Resampling:
        """How intervals are made."""
        one = self.config["statistics"]
        return Resampling(one["confidence"], one["n_resamples"], self.config["seed"])


@dataclass(frozen=True)
class Outcome:
    """The rows (`rows.SANITY`), and what is known of each model by name."""

    rows: pd.DataFrame
    models: Mapping[str, Mapping[str, Any]]
    started: datetime


def options(words: Sequence[str]) -> Options:
    """The words of a command line, each `key=value`, a key within another as `removal.n_draws`, values in YAML.

    Raises:
        InputError: a word is none of these, or its value is not usable.
    """
    given = dict(overrides.pair(CONFIG, word) for word in words)
    out = Path(given.pop("out", OUT))
    config = conf_files.read("", CONFIG)
    config["runtime"] = conf_files.runtime_defaults() | config["runtime"]
    for key, value in given.items():
        overrides.put(config, key, value, CONFIG)
    _check(config)
    refuse_a_run(out)
    return Options(out, config)


def measure(chosen: Options, progress: Progress = lambda *_: None) -> Outcome:
    """Every section on the model, and the cost of removal on its twin that was trained on masked texts.

    Raises:
        InputError: the model or the texts do not load.
    """
    started, config = datetime.now(UTC), chosen.config
    if config["runtime"]["threads"]:
        torch.set_num_threads(config["runtime"]["threads"])
    progress("loading the model", 0, 0)
    models = _models(config)
    examples = _examples(config)
    rows: list[Row] = []
    for name in config["sections"]:
        for model in models if name == "removal" else models[:1]:
            subject = _subject(model, examples, config, _number(name, config))
            show = _staged(progress, f"{name}, {model.name}")
            rows += [{"section": name} | row for row in SECTIONS[name](subject, show)]
    facts = {model.name: dict(model.facts) for model in models}
    return Outcome(pd.DataFrame(rows, columns=list(SANITY)), facts, started)


def conclude(
    chosen: Options, outcome: Outcome, command: Sequence[str], console: Console | None = None
) -> None:
    """Writes rows, tables, figures and the manifest, and prints what was found."""
    rows, models = outcome.rows, outcome.models
    found = of_sanity(rows, models, chosen.resampling)
    publish(found, rows, models, chosen.out, chosen.config, command, outcome.started, console)


def _models(config: Mapping[str, Any]) -> list[Model]:
    """The model that is asked about, and after the bundled one its twin that knows masks."""
    runtime = {key: config["runtime"][key] for key in ("dtype", "device", "attention")}
    if config["model"] != DEFAULT:
        return [loading.load_model(config["model"], **runtime)]
    models = [loading.load_default(**runtime)]
    if "removal" in config["sections"] and MASKED.is_dir():
        models.append(loading.load_masked(**runtime))
    return models


def _examples(config: Mapping[str, Any]) -> list[Example]:
    if config["texts"] == BUNDLED:
        return DATASETS["movie_reviews"](split="test")
    path = Path(config["texts"]).expanduser()
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"texts={path} could not be read as a text file: {error}") from error
    found = [
        Example(f"{path.name}:{number}", line, source=f"{path}:{number}")
        for number, line in enumerate(lines, 1)
        if line
    ]
    if not found:
        raise InputError(f"texts={path}: expected one text per line, the file has none")
    return found


def _number(section: str, config: Mapping[str, Any]) -> int:
    own: int = config["removal"]["n_examples"] if section == "removal" else config["n_examples"]
    return own


def _subject(
    model: Model, examples: Sequence[Example], config: Mapping[str, Any], n: int
) -> Subject:
    encoded = tuple(task.encode(model, examples[:n]))
    budget = resolve_budget(config["runtime"]["token_budget"], model, [*map(len, encoded)])
    fitted = dict(config) | {"removal": _fitted(model, config["removal"])}
    return Subject(model, encoded, fix_class(model, encoded, budget), fitted, budget)


def _fitted(model: Model, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The operators that the model has; one that puts a token which it lacks is another that is there."""
    operators = [resolve_removal(model, one) for one in asked["operators"]]
    return dict(asked) | {"operators": list(dict.fromkeys(operators))}


def _staged(progress: Progress, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(stage, done, total)


def _check(config: Mapping[str, Any]) -> None:
    """Refuses names that nothing has and numbers that make no sense."""
    known: dict[str, Sequence[str]] = {
        "sections": list(SECTIONS),
        "methods": conf_files.names("method"),
        "randomisation.orders": randomisation.ORDERS,
        "removal.operators": REMOVALS.names(),
    }
    values = dict(overrides.leaves(config))
    for key, names in known.items():
        for one in values[key]:
            one_of(key, one, names)
    lists = [*known, *(key for key, value in values.items() if isinstance(value, list))]
    for key in dict.fromkeys(lists):
        if repeated := [one for one in values[key] if values[key].count(one) > 1]:
            raise InputError(f"{key} lists {repeated[0]!r} twice. Remove one.")
    for key in ("stability.noise_seeds", "stability.training_seeds"):
        if len(values[key]) < 2:
            raise InputError(f"{key}={values[key]}: expected two or more, to be compared")
    ranges.check(config)
    one_of("runtime.dtype", values["runtime.dtype"], loading.DTYPES)
    check_budget(values["runtime.token_budget"], "runtime.token_budget")
