"""`saliency-bench sanity`: whether maps depend on the model, on chance and on small changes as they should; conf/sanity.yaml."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import InputError
from saliency_bench.core.registry import REMOVALS
from saliency_bench.core.rows import SANITY
from saliency_bench.data import DATASETS
from saliency_bench.data.example import Example
from saliency_bench.experiments.reports import ROWS, of_sanity, pack
from saliency_bench.experiments.sanity import random_removal as removal
from saliency_bench.experiments.sanity import randomisation, seeds, sensitivity, special_tokens
from saliency_bench.experiments.sanity.subjects import Row, Subject, fix_class
from saliency_bench.experiments.scaffold import (
    Config,
    Experiment,
    ExperimentOptions,
    Outcome,
    Progress,
    computation,
    quiet,
)
from saliency_bench.models import loading
from saliency_bench.models.encoder import MASKED
from saliency_bench.models.model import Model
from saliency_bench.models.references import resolve_removal
from saliency_bench.models.tasks.encoding import encode
from saliency_bench.studies.budget import resolve as resolve_budget

DEFAULT, BUNDLED = "default", "bundled"

Section = Callable[[Subject, Callable[[int, int], None]], Iterator[Row]]

SECTIONS: Mapping[str, Section] = {
    "randomisation": randomisation.rows,
    "random_labels": seeds.random_labels,
    "stability": seeds.stability,
    "sensitivity": sensitivity.rows,
    "removal": removal.rows,
    "special_tokens": special_tokens.rows,
}


def measure(options: ExperimentOptions, progress: Progress = quiet) -> Outcome:
    """Runs every section on the model, and that on removal on its twin too, which was trained on masked texts.

    Raises:
        InputError: the model or the texts do not load.
    """
    config = options.config
    if config["runtime"]["threads"]:
        torch.set_num_threads(config["runtime"]["threads"])
    progress("loading the model", 0, 0)
    models = _models(config)
    examples = _examples(config)
    rows: list[Row] = []
    for name in config["sections"]:
        n_examples = (config["removal"] if name == "removal" else config)["n_examples"]
        for model in models if name == "removal" else models[:1]:
            subject = _subject(model, examples[:n_examples], config)
            show = _staged(progress, f"{name}, {model.name}")
            rows += [{"section": name} | row for row in SECTIONS[name](subject, show)]
    table = pd.DataFrame(rows, columns=list(SANITY))
    facts = {model.name: dict(model.facts) for model in models}
    return Outcome(
        of_sanity(table, facts, options.resampling),
        {ROWS: pack(table)},
        {"models": facts, "n_rows": len(rows)},
        computation(config["runtime"]),
    )


def _models(config: Config) -> list[Model]:
    """The configured model, and beside the bundled one its twin that was trained on masked texts."""
    runtime = {key: config["runtime"][key] for key in ("dtype", "device", "attention")}
    if config["model"] != DEFAULT:
        return [loading.load_model(config["model"], **runtime)]
    models = [loading.load_default(**runtime)]
    if "removal" in config["sections"] and MASKED.is_dir():
        models.append(loading.load_masked(**runtime))
    return models


def _examples(config: Config) -> list[Example]:
    if config["texts"] == BUNDLED:
        return DATASETS["movie_reviews"](split="test")
    path = Path(config["texts"]).expanduser()
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"texts={path} could not be read as a text file: {error}") from error
    examples = [
        Example(f"{path.name}:{number}", line, source=f"{path}:{number}")
        for number, line in enumerate(lines, 1)
        if line
    ]
    if not examples:
        raise InputError(f"texts={path}: expected one text per line, the file has none")
    return examples


def _subject(model: Model, examples: Sequence[Example], config: Config) -> Subject:
    """A model with its texts, and with the removal operators that it has in place of those it lacks."""
    encoded = tuple(encode(model, examples))
    budget = resolve_budget(config["runtime"]["token_budget"], model, [*map(len, encoded)])
    operators = [resolve_removal(model, name) for name in config["removal"]["operators"]]
    removals = config["removal"] | {"operators": list(dict.fromkeys(operators))}
    fixed = fix_class(model, encoded, budget)
    return Subject(model, encoded, fixed, dict(config) | {"removal": removals}, budget)


def _staged(progress: Progress, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(stage, done, total)


def _check(config: Config) -> None:
    """Refuses lists of fewer than two seeds, which are to be compared."""
    for key, values in config["stability"].items():
        if len(values) < 2:
            raise InputError(f"stability.{key}={values}: expected two or more, to be compared")


EXPERIMENT = Experiment(
    name="sanity",
    out=Path("results") / "sanity",
    measure=measure,
    choices={
        "sections": lambda: SECTIONS,
        "methods": lambda: conf_files.names("method"),
        "randomisation.orders": lambda: randomisation.ORDERS,
        "removal.operators": REMOVALS.names,
    },
    check=_check,
)
