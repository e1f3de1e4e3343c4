"""What an experiment or a suite runs, from the configuration that Hydra composes of it."""

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from saliency_bench.cli import config
from saliency_bench.core import conf as conf_files
from saliency_bench.core.labels import PRIMARY
from saliency_bench.core.program import program
from saliency_bench.store import suite as suites

#: The words that select one of them, by group.
SELECTED = {
    "experiment": "experiment={}",
    "suite": f"+{suites.GROUP}={{}} ~experiment",
}


def remarks(group: str, name: str) -> str:
    """The comments at the head of a file after its summary, by paragraph."""
    text = (conf_files.folder() / group / f"{name}{conf_files.SUFFIX}").read_text("utf-8")
    head = takewhile(lambda line: line.startswith("#"), text.splitlines())
    lines = [line.lstrip("# ") for line in head if "@package" not in line]
    return " ".join(lines[1:]).replace("  ", "\n\n")


def facts(group: str, name: str) -> dict[str, str]:
    """What the study is made of, by heading.

    Raises:
        InputError: the files are not a study.
    """
    cfg = config.load(SELECTED[group].format(name).split())
    first = PRIMARY if PRIMARY in cfg.metric else next(iter(cfg.metric), "none")
    split = f", split {cfg.data['split']}" if cfg.data.get("split") else ""
    found = {
        "Texts": f"{cfg.n_examples} of {cfg.data['dataset']}{split}",
        "Model": cfg.model.name,
        "Metrics": ", ".join(cfg.metric),
        "Removals": ", ".join(cfg.evaluation.removal),
        "Endpoint": cfg.statistics.endpoint or f"{first}, not fixed in advance",
        "Target": f"{cfg.target}, its {cfg.output}",
        "Computed by": ", ".join(cfg.backend),
    }
    if group == suites.GROUP:
        return found | {"Content digest": suites.CONTENTS[name], "Cost": "docs/suite.md"}
    return found | {"Cost": f"{program()} estimate {SELECTED[group].format(name)}"}


def entries(group: str, name: str) -> list[tuple[str, str]]:
    """The method entries with their hyperparameters; a list is an axis."""
    methods = config.load(SELECTED[group].format(name).split()).method
    return [(entry, _hyperparameters(entry, values)) for entry, values in methods.items()]


def _hyperparameters(name: str, entry: Mapping[str, Any]) -> str:
    unsaid = ("method",) if entry["method"] == name else ()
    return ", ".join(f"{key}={_plain(value)}" for key, value in entry.items() if key not in unsaid)


def _plain(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, list):
        return f"[{','.join(map(_plain, value))}]"
    words = {True: "true", False: "false", None: "null"}
    return words[value] if isinstance(value, bool | None) else str(value)
