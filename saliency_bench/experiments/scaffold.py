"""The frame of all experiments: options from conf/ and the command line, and results with their provenance.

An experiment measures rows and makes tables, figures and notes of them (`ExperimentReport`). Everything else is done here.
"""

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from saliency_bench.core import conf as conf_files
from saliency_bench.core import overrides, ranges
from saliency_bench.core.errors import InputError, one_of, unknown
from saliency_bench.core.rows import as_list
from saliency_bench.experiments.reports import ExperimentReport, render, show
from saliency_bench.models import loading
from saliency_bench.report.stats import Resampling
from saliency_bench.store.durable import replace_file
from saliency_bench.store.manifest import collect, portable
from saliency_bench.store.run import MANIFEST, SETTINGS, write_json
from saliency_bench.studies.budget import check_budget
from saliency_bench.studies.prepare import machine
from saliency_bench.studies.run import Progress as Progress

#: The module of each verb's `Experiment`.
MODULES = {
    "validate": "parity.run",
    "throughput": "throughput.run",
    "trust": "trust",
    "sanity": "sanity.run",
}

Config = Mapping[str, Any]


def quiet(stage: str, done: int, total: int, left: float | None = None) -> None:
    """Shows no progress."""


@dataclass(frozen=True)
class ExperimentOptions:
    """The options of an experiment: the folder of its results, and its file of conf/ with the overrides."""

    name: str
    out: Path
    config: Config
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def resampling(self) -> Resampling:
        """The resampling by which intervals are made."""
        statistics = self.config["statistics"]
        return Resampling(statistics["confidence"], statistics["n_resamples"], self.config["seed"])


@dataclass(frozen=True)
class Outcome:
    """The measurements of an experiment.

    Attributes:
        report: tables, figures and notes.
        files: rows as they are written, by file name.
        facts: what the manifest says beside the configuration and the provenance.
        computation: what the numbers depend on as far as the machine decides it, see `computation`.
        failure: raised when everything has been written and shown.
    """

    report: ExperimentReport
    files: Mapping[str, bytes]
    facts: Mapping[str, Any]
    computation: Mapping[str, Any]
    failure: BaseException | None = None


@dataclass(frozen=True)
class Experiment:
    """A verb with a file of its own in conf/.

    Attributes:
        name: the verb, and the file's name.
        out: the folder of the results where none is given.
        measure: does the work.
        choices: the names that a value may be, by its key or the end of its key after a dot.
        check: refuses what ranges and choices do not.
    """

    name: str
    out: Path
    measure: Callable[[ExperimentOptions, Progress], Outcome]
    choices: Mapping[str, Callable[[], Collection[str]]] = field(default_factory=dict)
    check: Callable[[Config], object] = lambda config: None

    def options(self, words: Sequence[str]) -> ExperimentOptions:
        """The words of a command line, each `key=value` with the value in YAML; `sweep.n_steps` is a key within another.

        Raises:
            InputError: a word is none of these, or its value is not usable.
        """
        changes = dict(overrides.pair(self.name, word) for word in words)
        out = Path(changes.pop("out", self.out))
        config = _defaults(self.name, changes)
        for key, value in changes.items():
            overrides.put(config, key, value, self.name)
        self._check(config)
        if (out / SETTINGS).exists() or (out / "parts").exists():
            raise InputError(f"out={out} holds the results of a run. Give another folder.")
        return ExperimentOptions(self.name, out, config)

    def _check(self, config: Config) -> None:
        """Refuses unknown names, numbers that make no sense, and lists with a value twice."""
        ranges.check(config)
        for key, value in overrides.leaves(config):
            values = as_list(value)
            if repeated := [entry for entry in values if values.count(entry) > 1]:
                raise InputError(f"{key} lists {repeated[0]!r} twice. Remove one.")
            for end, names in self.choices.items():
                for name in values if f".{key}".endswith(f".{end}") else ():
                    one_of(key, name, names())
            if key == "runtime.dtype":
                one_of(key, value, loading.DTYPES)
            if key == "runtime.token_budget":
                check_budget(value, key)
        self.check(config)


def experiment(verb: str) -> Experiment:
    """The experiment that a verb runs."""
    module = import_module(f"{__package__}.{MODULES[verb]}")
    configured: Experiment = module.EXPERIMENT
    return configured


def _defaults(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The file of conf/, under its profile if it has some, with the runtime of all."""
    config = conf_files.read("", name)
    profiles = config.pop("profiles", None)
    if profiles is not None:
        profile = changes.get("profile", config["profile"])
        if profile not in profiles:
            raise unknown("profile", profile, list(profiles))
        config = overrides.merged(config, profiles[profile])
    if "runtime" in config:
        config["runtime"] = conf_files.runtime_defaults() | config["runtime"]
    return config


def computation(runtime: Mapping[str, Any], **changed: Any) -> dict[str, Any]:
    """The facts of the machine that numbers depend on, for a manifest."""
    return machine(runtime, loading.resolve_device(runtime["device"])) | changed


def publish(
    options: ExperimentOptions,
    outcome: Outcome,
    command: Sequence[str],
    console: Console | None = None,
) -> None:
    """Writes everything, the manifest last, and prints the tables and notes.

    Raises:
        StorageError: the folder cannot be written.
        BaseException: the outcome's failure.
    """
    for name, content in outcome.files.items():
        replace_file(options.out / name, content)
    render(outcome.report, options.out)
    provenance = collect(
        outcome.computation, command=command, started=options.started, ended=datetime.now(UTC)
    )
    facts = {
        "name": options.name,
        "command": portable(shlex.join(command)),
        "config": _without_folders(options.config),
    }
    write_json(options.out / MANIFEST, facts | dict(outcome.facts) | provenance)
    show(outcome.report, options.out, console)
    if outcome.failure is not None:
        raise outcome.failure


def _without_folders(config: Config) -> dict[str, Any]:
    """The configuration with the last part of its path where the model is a folder."""
    if "model" not in config:
        return dict(config)
    path = Path(config["model"]).expanduser()
    return dict(config) | {"model": path.resolve().name if path.exists() else config["model"]}
