"""Checks of a configuration against the parts that it names, and its expansion into settings."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from string import ascii_letters, digits
from typing import TYPE_CHECKING, Any

from saliency_bench.core import conf as conf_files
from saliency_bench.core import overrides, ranges
from saliency_bench.core.averages import PAIRED_TESTS
from saliency_bench.core.errors import InputError, StorageError, one_of, shown
from saliency_bench.core.rows import Setting, as_list, check_axis
from saliency_bench.core.signatures import typed

if TYPE_CHECKING:
    from saliency_bench.studies.config import Config, ModelConfig, Runtime

TOO_LONG = ("truncate", "error")
CLUSTERS = ("slurm", "local", "debug")  # of submitit

NAME_CHARACTERS = frozenset(ascii_letters + digits + "-_")


def validate(cfg: "Config") -> None:
    """Checks everything that can be known before data and model are loaded; each message names the key.

    Raises:
        InputError, or StorageError for `out`: the first thing that is wrong.
    """
    ranges.check(asdict(cfg))
    if not cfg.name or not set(cfg.name) <= NAME_CHARACTERS:
        raise InputError(
            f"name={cfg.name!r} heads a folder: expected letters, digits, - and _ only"
        )
    if cfg.out and Path(cfg.out).is_file():
        raise StorageError(f"out={cfg.out} is a file: expected a folder, which a study makes.")
    _check_choices(cfg)
    _check_model(cfg.model)
    _check_runtime(cfg.runtime)
    _check_data(cfg)
    _check_metrics(cfg)
    _check_choose(cfg)
    _check_pairs(cfg.statistics.pairs, settings(cfg))


def settings(cfg: "Config") -> list[Setting]:
    """Expands every method entry to one setting per value of its axes and backend, the last hyperparameter fastest.

    Raises:
        InputError: an entry is wrong, or two of them compute the same numbers.
    """
    if not cfg.method:
        raise InputError("method is empty. Give at least one: method=[vanilla]")
    from saliency_bench.attribution.settings import expand

    return expand(
        cfg.method, target=cfg.target, output=cfg.output, seed=cfg.seed, backends=cfg.backend
    )


def _check_pairs(pairs: Any, expanded: Sequence[Setting]) -> None:
    """Checks that `statistics.pairs` holds method entries against others that have one setting each."""
    if pairs is None:
        return
    if not isinstance(pairs, Mapping) or not pairs:
        raise InputError(
            f"statistics.pairs={shown(pairs)}: expected method entries, each with the entry that it is compared with: "
            "statistics.pairs={smoothgrad:vanilla}"
        )
    counts = Counter(setting.name for setting in expanded)
    for name, against in pairs.items():
        one_of("method entry of statistics.pairs", name, counts)
        one_of("method entry of statistics.pairs", against, counts)
        if name == against:
            raise InputError(
                f"statistics.pairs holds {name} against itself: expected another entry"
            )
        if counts[against] > 1:
            raise InputError(
                f"statistics.pairs holds {name} against {against}, which has {counts[against]} settings: expected one. "
                "Give its hyperparameters one value each."
            )


def _check_choices(cfg: "Config") -> None:
    """Checks every key whose value is one name of a list, or some of them."""
    from saliency_bench.attribution.settings import BACKENDS
    from saliency_bench.core.units import GRANULARITIES
    from saliency_bench.data.shortcuts import KINDS
    from saliency_bench.evaluation.agreement import NAMES
    from saliency_bench.models.heads import TASKS
    from saliency_bench.models.loading import ATTENTION, DTYPES
    from saliency_bench.models.tasks.scores import OUTPUTS

    choices: dict[str, Iterable[str]] = {
        "model.kind": KINDS,
        "model.task": TASKS,
        "output": OUTPUTS,
        "too_long": TOO_LONG,
        "backend": BACKENDS,
        **{f"evaluation.{key}": names for key, names in _views().items()},
        "agreement.metrics": NAMES,
        "agreement.granularity": GRANULARITIES,
        "statistics.test": PAIRED_TESTS,
        "statistics.endpoint": cfg.metric,
        "statistics.reference": cfg.method,
        "runtime.dtype": DTYPES,
        "runtime.attention": ATTENTION,
    }
    for key, names in choices.items():
        section: Any = cfg
        *sections, name = key.split(".")
        for part in sections:
            section = getattr(section, part)
        # None: the model has no such key, or nothing is chosen.
        for value in as_list(getattr(section, name, None)):
            if value is not None:
                one_of(key, value, names)
    check_axis("evaluation.removal", cfg.evaluation.removal)
    check_axis("backend", cfg.backend)
    if cfg.agreement.metrics:
        check_axis("agreement.metrics", cfg.agreement.metrics)


def _check_model(model: "ModelConfig") -> None:
    """Checks what can be known of a model before it is loaded."""
    if getattr(model, "path", None) == "":
        raise InputError(
            "model.path is empty. Give a folder or hub id: model.path=FOLDER_OR_HUB_ID"
        )
    labels = getattr(model, "labels", None)
    if labels is not None:
        if not labels or not all(isinstance(label, str) and label for label in labels):
            raise InputError(
                f"model.labels={shown(labels)}: expected a name for each class: model.labels=[negative,positive]"
            )
        check_axis("model.labels", labels)


def _check_runtime(runtime: "Runtime") -> None:
    from saliency_bench.models.loading import resolve_device
    from saliency_bench.models.placement import check_device_map, refuse_device_map
    from saliency_bench.studies.budget import check_budget

    resolve_device(runtime.device)
    check_device_map(runtime.device_map, runtime.device)
    executor = runtime.executor.get("name")
    if executor != "here":
        reason = f"each worker of runtime={executor} would load the whole model"
        refuse_device_map(runtime.device_map, f"{reason}. Use runtime=here, or one device")
    check_budget(runtime.token_budget, "runtime.token_budget")
    _check_executor(runtime)


def _check_executor(runtime: "Runtime") -> None:
    """Checks that `runtime.executor` has the keys of the chosen file of conf/runtime/, with values of the same kinds."""
    name = runtime.executor.get("name")
    one_of("runtime.executor.name", name, conf_files.names("runtime"))
    defaults = conf_files.read("runtime", str(name))["executor"]
    for key, value in runtime.executor.items():
        one_of(f"key of runtime.executor ({name})", key, defaults)
        if defaults[key] is None and not (value is None or isinstance(value, str)):
            raise InputError(f"runtime.executor.{key}={value!r}: expected text or null")
        if defaults[key] is not None and not overrides.alike(value, defaults[key]):
            raise InputError(
                f"runtime.executor.{key}={value!r}: expected one like {defaults[key]!r}"
            )
    if missing := [key for key in defaults if key not in runtime.executor]:
        raise InputError(f"runtime.executor.{missing[0]} is missing. Choose it by runtime={name}.")
    if "cluster" in defaults:
        one_of("runtime.executor.cluster", runtime.executor["cluster"], CLUSTERS)
    if name != "here" and runtime.threads is None:
        raise InputError(
            f"runtime.threads=null: with runtime={name} the threads of a worker must be given, since the last digits "
            "depend on them: runtime.threads=1"
        )


def _check_data(cfg: "Config") -> None:
    from saliency_bench.data import DATASETS
    from saliency_bench.models.tasks.targets import parse_target
    from saliency_bench.studies.config import MemoryModel

    parse_target(cfg.target)
    if isinstance(cfg.model, MemoryModel):  # its texts are in memory too
        return
    name, hyper = DATASETS.entry("dataset", cfg.data, "data")
    for key, value in hyper.items():
        typed(DATASETS[name], key, value, f"data.{key}")
    kind = getattr(cfg.model, "kind", None)  # None: a model that was taught no shortcut
    if name == "shortcuts" and kind not in (None, cfg.data["kind"]):
        raise InputError(
            f"model.kind={kind}, data.kind={cfg.data['kind']}: the model was trained on another shortcut. "
            "Give both the same."
        )


def _views() -> dict[str, Sequence[str]]:
    """Lists the choices of `evaluation`, which metric entries may have too, by key."""
    from saliency_bench.core.units import GRANULARITIES
    from saliency_bench.evaluation.curves import OUTPUTS
    from saliency_bench.evaluation.removal import operators
    from saliency_bench.evaluation.view import RANKINGS

    return {
        "removal": operators(),
        "granularity": GRANULARITIES,
        "output": list(OUTPUTS),
        "ranking": RANKINGS,
    }


#: Keys without effect on metrics that read only the map, or the map and the tokens that are known to matter.
_IDLE = {
    "attribution": ("removal", "granularity", "output", "ranking"),
    "truth": ("removal", "output"),
}


def _check_metrics(cfg: "Config") -> None:
    from saliency_bench.evaluation.metrics import INFO, METRICS

    views = _views()
    for name, entry in cfg.metric.items():
        where = f"metric.{name}"
        function = entry.get("metric", "")
        keywords = METRICS.hyperparameters(function) if function in METRICS else ()
        apart = [key for key in views if key in entry and key not in keywords]
        metric, hyper = METRICS.entry("metric", entry, where, others=tuple(apart))
        idle = [key for key in apart if key in _IDLE.get(INFO[metric].reads, ())]
        if idle:
            raise InputError(f"{where}.{idle[0]}: {metric} removes nothing. Remove the key.")
        for key in apart:
            one_of(f"{where}.{key}", entry[key], views[key])
        for key, value in hyper.items():
            typed(METRICS[metric], key, value, f"{where}.{key}")
        for key in hyper.keys() & {"grid", "shares"}:
            _check_fractions(f"metric.{name}.{key}", hyper[key])


def _check_fractions(where: str, grid: Any) -> None:
    """Checks that a grid is a name, or fractions of the units."""
    from saliency_bench.evaluation.grid import FRACTIONS, FULL

    if isinstance(grid, str):
        one_of(where, grid, [*FRACTIONS, FULL])
        return
    check_axis(where, as_list(grid))
    for fraction in as_list(grid):
        if isinstance(fraction, bool) or not isinstance(fraction, int | float):
            raise InputError(f"{where}={fraction!r}: expected {ranges.range_of(where)}")


def _check_choose(cfg: "Config") -> None:
    if cfg.choose is None:
        return
    if cfg.data.get("split") in (None, cfg.choose.split):
        raise InputError(
            f"choose.split={cfg.choose.split}, data.split={cfg.data.get('split')}: what is chosen and what is "
            "reported must be two splits. Set choose=null to report every setting without choosing."
        )
    one_of("choose.metric", cfg.choose.metric, cfg.metric)
