"""Finds the configuration and reads its plain YAML without Hydra, for the Python interface."""

from copy import deepcopy
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from saliency_bench.core.errors import InputError, one_of

PACKAGE = Path(__file__).resolve().parents[1]
SUFFIX = ".yaml"


@cache
def folder() -> Path:
    """`conf` inside the package (a wheel), else beside it (an editable install or a checkout)."""
    for candidate in (PACKAGE / "conf", PACKAGE.parent / "conf"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise InputError(
        f"the installation is broken: no conf/config.yaml in or beside {PACKAGE}. Install it again."
    )


def names(group: str) -> list[str]:
    """Lists the choices of a group, sorted: those of "method" are the names for `method=[...]`."""
    return sorted(path.stem for path in (folder() / group).glob(f"*{SUFFIX}"))


def read(group: str, name: str) -> dict[str, Any]:
    """Reads `conf/<group>/<name>.yaml`.

    Raises:
        InputError: the group has no such choice.
    """
    one_of(group, name, names(group))
    return _load(folder() / group / f"{name}{SUFFIX}")


def summary(group: str, name: str) -> str:
    """Reads the sentence at the head of a file: its first comment that is not a directive."""
    lines = (folder() / group / f"{name}{SUFFIX}").read_text("utf-8").splitlines()
    comments = (
        line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line
    )
    return next(comments, "")


def entry(group: str, name: str) -> dict[str, Any]:
    """Reads the entry of a method or a metric in conf/, with every hyperparameter."""
    return dict(read(group, name)[name])


def method_defaults(name: str) -> dict[str, Any]:
    """Reads the entry of a method in conf/method/: method, reduction and every hyperparameter."""
    return entry("method", name)


def metric_defaults(name: str) -> dict[str, Any]:
    """Reads the entry of a metric in conf/metric/."""
    return entry("metric", name)


def config() -> dict[str, Any]:
    """Returns a new copy of conf/config.yaml without the sections for Hydra."""
    content = _load(folder() / f"config{SUFFIX}")
    return {key: value for key, value in content.items() if key not in ("defaults", "hydra")}


def selected(group: str) -> dict[str, dict[str, Any]]:
    """Returns the default entries of a study by name: those of the quickstart, else those of conf/config.yaml.

    An entry in a subfolder (`quick/smoothgrad`) changes some hyperparameters of the entry of that name.
    """
    for path in (f"experiment/quickstart{SUFFIX}", f"config{SUFFIX}"):
        for choice in _load(folder() / path)["defaults"]:
            for key in (group, f"override /{group}"):
                if isinstance(choice, dict) and key in choice:
                    return dict(_changed(group, name) for name in choice[key])
    raise InputError(f"conf/ selects nothing of {group}")


def explained() -> list[str]:
    """Returns the methods that `explain` shows if none is named."""
    return list(_load(folder() / f"explain{SUFFIX}")["method"])


def _changed(group: str, choice: str) -> tuple[str, dict[str, Any]]:
    """Returns the name and the complete entry of a choice in a list of defaults."""
    name = choice.rpartition("/")[2]
    changes = _load(folder() / group / f"{choice}{SUFFIX}")[name]
    return name, entry(group, name) | changes


def runtime_defaults() -> dict[str, Any]:
    """Returns the runtime defaults (device, dtype, token budget) of verbs that are not studies: these spread no model."""
    here = {"threads": read("runtime", "here")["threads"]}
    shared = {key: value for key, value in config()["runtime"].items() if key != "device_map"}
    return here | shared


def _load(path: Path) -> dict[str, Any]:
    """Returns a new copy of a file's content; the file is parsed again if it has changed."""
    return deepcopy(_parsed(path, path.stat().st_mtime_ns))


@lru_cache(maxsize=256)
def _parsed(path: Path, changed: int) -> dict[str, Any]:
    import yaml

    content = yaml.safe_load(path.read_text("utf-8"))
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected keys and values, got {type(content).__name__}")
    return content
