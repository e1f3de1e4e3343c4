"""What a configuration asks for: checked against the parts that it names, and expanded into settings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from string import ascii_letters, digits
from typing import TYPE_CHECKING, Any

from saliency_bench.core import conf as conf_files
from saliency_bench.core import overrides, ranges
from saliency_bench.core.errors import InputError, one_of, shown, unknown
from saliency_bench.core.ranges import BASELINE_SPECIAL_TOKENS
from saliency_bench.core.rows import Setting, as_list, expand_axes
from saliency_bench.core.signatures import typed

if TYPE_CHECKING:
    from saliency_bench.cli.schema import Config, ModelConfig, Runtime
    from saliency_bench.core.registry import Registry

TOO_LONG = ("truncate", "error")
CLUSTERS = ("slurm", "local", "debug")  # of submitit

NAME_CHARACTERS = frozenset(ascii_letters + digits + "-_")


def validate(cfg: "Config") -> None:
    """Checks everything that can be known before data and model are loaded; each message names the key.

    Raises:
        InputError: the first thing that is wrong.
    """
    ranges.check(asdict(cfg))
    _check_model(cfg.model)
    _check_names(cfg)
    _check_runtime(cfg.runtime)
    _check_data(cfg)
    _check_metrics(cfg)
    _check_choose(cfg)
    settings(cfg)
    if cfg.statistics.endpoint is not None:
        one_of("statistics.endpoint", cfg.statistics.endpoint, cfg.metric)
    if cfg.statistics.reference is not None:
        one_of("statistics.reference", cfg.statistics.reference, cfg.method)


def settings(cfg: "Config") -> list[Setting]:
    """Every method entry with one value per axis and backend: entries in order, the last hyperparameter fastest.

    Raises:
        InputError: an entry is wrong, or two of them compute the same numbers.
    """
    if not cfg.method:
        raise InputError("method is empty. Give at least one: method=[vanilla]")
    found: dict[str, Setting] = {}
    for name, entry in cfg.method.items():
        for setting in _expand(cfg, name, entry):
            other = found.setdefault(setting.id, setting)
            if other is not setting:
                raise InputError(
                    f"method.{other.name} and method.{name} both compute {setting.method} "
                    f"({setting.backend}, {setting.reduction}, {dict(setting.hyper)}). Remove one of them."
                )
    return list(found.values())


def _expand(cfg: "Config", name: str, entry: Mapping[str, Any]) -> Iterator[Setting]:
    from saliency_bench.attribution.methods import METHODS
    from saliency_bench.attribution.settings import checked_setting, lacks

    where = f"method.{name}"
    method, hyper = _component(
        METHODS, "method", entry, where, others=("reduction", "backend", "output")
    )
    axes = {"_backend": _backends(cfg, entry, method, where)}
    axes["_reduction"] = _reductions(entry, method, where)
    axes["_output"] = _outputs(cfg, entry, where)
    for key in METHODS.hyperparameters(method):
        axes[key] = [_value(METHODS[method], key, one, where) for one in as_list(hyper[key])]
    for key, values in axes.items():
        _check_axis(f"{where}.{key.lstrip('_')}", values)
    for axis in expand_axes(axes):
        backend, reduction, output = (
            axis.pop(key) for key in ("_backend", "_reduction", "_output")
        )
        if "backend" not in entry and len(axes["_backend"]) > 1 and lacks(backend, method, axis):
            continue  # asked of all entries, and another backend has it
        yield checked_setting(name, method, backend, reduction, cfg.target, output, cfg.seed, axis)


def _backends(cfg: "Config", entry: Mapping[str, Any], method: str, where: str) -> list[str]:
    from saliency_bench.attribution.methods import KINDS, ONLY
    from saliency_bench.attribution.settings import BACKENDS

    if method not in ONLY and KINDS[method] != "token":
        found = as_list(entry.get("backend", cfg.backend))
        for backend in found:
            one_of(f"{where}.backend", backend, BACKENDS)
        return found
    if "backend" in entry:
        raise InputError(f"{where}.backend: {method} has no choice of backends. Remove it.")
    return [ONLY.get(method, "native")]


def _reductions(entry: Mapping[str, Any], method: str, where: str) -> list[str]:
    from saliency_bench.attribution.methods import KINDS
    from saliency_bench.attribution.reduction import REDUCTIONS

    if KINDS[method] == "token":
        if "reduction" in entry:
            raise InputError(
                f"{where}.reduction: {method} gives one number per token and has none. Remove it."
            )
        return ["none"]
    if "reduction" not in entry:
        raise InputError(f"{where}.reduction is missing. Give one: l2, l1, sum or dot.")
    found = as_list(entry["reduction"])
    for reduction in found:
        one_of(f"{where}.reduction", reduction, REDUCTIONS)
    return found


def _outputs(cfg: "Config", entry: Mapping[str, Any], where: str) -> list[str]:
    """The scores that an entry explains: its own, or the study's."""
    from saliency_bench.models.tasks.sequence_classification import OUTPUTS

    found = as_list(entry.get("output", cfg.output))
    for output in found:
        one_of(f"{where}.output", output, OUTPUTS)
    return found


def _value(function: Any, key: str, value: Any, where: str) -> Any:
    """A hyperparameter's value, of the type that the function declares and one of the known names."""
    from saliency_bench.attribution.methods.rankings import GOALS
    from saliency_bench.attribution.quadrature import NAMES as RULES
    from saliency_bench.models.references import REMOVALS, check_baseline, check_references
    from saliency_bench.models.tasks.sequence_classification import OUTPUTS

    known: dict[str, Sequence[str]] = {
        "objective": list(OUTPUTS),
        "goal": list(GOALS),
        "quadrature": RULES,
        "baseline_special_tokens": BASELINE_SPECIAL_TOKENS,
        "removal": REMOVALS.names(),
    }
    value = typed(function, key, value, f"{where}.{key}")
    if key in known:
        one_of(f"{where}.{key}", value, known[key])
    own = {"baseline": check_baseline, "references": check_references}
    if key in own:
        own[key](value, f"{where}.{key}")
    return value


def _component(
    registry: "Registry[Any]",
    kind: str,
    entry: Mapping[str, Any],
    where: str,
    others: tuple[str, ...] = (),
) -> tuple[str, dict[str, Any]]:
    """The name under `kind` in an entry and its hyperparameters: none unknown, none missing."""
    key = f"{where}.{kind}"
    if kind not in entry:
        raise InputError(f"{key} is missing: it names the function. Is {where} selected at all?")
    name = entry[kind]
    one_of(key, name, registry.names())
    hyper = {one: value for one, value in entry.items() if one not in (kind, *others)}
    registry.check(name, hyper, where)
    return name, hyper


def _check_axis(where: str, values: Sequence[Any]) -> None:
    if not values:
        raise InputError(f"{where} is an empty list. Give at least one value.")
    for value in values:
        if values.count(value) > 1:
            raise InputError(f"{where} lists {value!r} twice. Remove one.")


def _check_model(model: "ModelConfig") -> None:
    """What can be known of a model before it is loaded."""
    from saliency_bench.data.shortcuts import KINDS
    from saliency_bench.models.heads import TASKS

    known = vars(model)
    if "kind" in known:
        one_of("model.kind", known["kind"], KINDS)
    if "task" in known:
        one_of("model.task", known["task"], TASKS)
    if known.get("path") == "":
        raise InputError(
            "model.path is empty. Give a folder or hub id: model.path=FOLDER_OR_HUB_ID"
        )
    labels = known.get("labels")
    if labels is not None:
        if not labels or not all(isinstance(one, str) and one for one in labels):
            raise InputError(
                f"model.labels={shown(labels)}: expected a name for each class: model.labels=[negative,positive]"
            )
        _check_axis("model.labels", labels)


def _check_names(cfg: "Config") -> None:
    from saliency_bench.attribution.settings import BACKENDS
    from saliency_bench.models.tasks.sequence_classification import OUTPUTS
    from saliency_bench.models.tasks.targets import read as read_target
    from saliency_bench.report.stats import TESTS

    if not cfg.name or not set(cfg.name) <= NAME_CHARACTERS:
        raise InputError(
            f"name={cfg.name!r} heads a folder: expected letters, digits, - and _ only"
        )
    read_target(cfg.target)
    one_of("output", cfg.output, OUTPUTS)
    one_of("too_long", cfg.too_long, TOO_LONG)
    _check_axis("evaluation.removal", cfg.evaluation.removal)
    for key, known in _views().items():
        for value in as_list(getattr(cfg.evaluation, key)):
            one_of(f"evaluation.{key}", value, known)
    _check_agreement(cfg)
    one_of("statistics.test", cfg.statistics.test, TESTS)
    for backend in cfg.backend:
        one_of("backend", backend, BACKENDS)
    _check_axis("backend", cfg.backend)


def _check_agreement(cfg: "Config") -> None:
    from saliency_bench.evaluation.agreement import NAMES
    from saliency_bench.evaluation.units import GRANULARITIES

    asked = cfg.agreement
    if asked.metrics:
        _check_axis("agreement.metrics", asked.metrics)
    for metric in asked.metrics:
        one_of("agreement.metrics", metric, NAMES)
    one_of("agreement.granularity", asked.granularity, GRANULARITIES)


def _check_runtime(runtime: "Runtime") -> None:
    from saliency_bench.models.loading import ATTENTION, DTYPES, resolve_device
    from saliency_bench.study.budget import check_budget

    one_of("runtime.dtype", runtime.dtype, DTYPES)
    one_of("runtime.attention", runtime.attention, ATTENTION)
    resolve_device(runtime.device)
    check_budget(runtime.token_budget, "runtime.token_budget")
    _check_executor(runtime)


def _check_executor(runtime: "Runtime") -> None:
    """The keys of the chosen file of conf/runtime/, with values like those that stand there."""
    name = runtime.executor.get("name")
    one_of("runtime.executor.name", name, conf_files.names("runtime"))
    known = conf_files.read("runtime", str(name))["executor"]
    for key, value in runtime.executor.items():
        if key not in known:
            raise unknown(f"key of runtime.executor ({name})", key, list(known))
        if known[key] is None and not (value is None or isinstance(value, str)):
            raise InputError(f"runtime.executor.{key}={value!r}: expected text or null")
        if known[key] is not None and not overrides.alike(value, known[key]):
            raise InputError(f"runtime.executor.{key}={value!r}: expected one like {known[key]!r}")
    if missing := [key for key in known if key not in runtime.executor]:
        raise InputError(f"runtime.executor.{missing[0]} is missing. Choose it by runtime={name}.")
    if "cluster" in known:
        one_of("runtime.executor.cluster", runtime.executor["cluster"], CLUSTERS)
    if name != "here" and runtime.threads is None:
        raise InputError(
            f"runtime.threads=null: with runtime={name} the threads of a worker must be given, since the last digits "
            "depend on them: runtime.threads=1"
        )


def _check_data(cfg: "Config") -> None:
    from saliency_bench.data import DATASETS

    name, hyper = _component(DATASETS, "dataset", cfg.data, "data")
    for key, value in hyper.items():
        typed(DATASETS[name], key, value, f"data.{key}")
    _check_shortcuts(cfg)


def _check_shortcuts(cfg: "Config") -> None:
    """A model that follows another shortcut than the data's says nothing of either."""
    kind = getattr(cfg.model, "kind", None)  # None: a model that was taught none, for comparison
    if cfg.data["dataset"] == "shortcuts" and kind not in (None, cfg.data["kind"]):
        raise InputError(
            f"model.kind={kind}, data.kind={cfg.data['kind']}: the model was trained on another shortcut. "
            "Give both the same."
        )


def _views() -> dict[str, Sequence[str]]:
    """How texts can be looked at, by the keys of `evaluation` and of metric entries."""
    from saliency_bench.evaluation.curves import OUTPUTS
    from saliency_bench.evaluation.removal import operators
    from saliency_bench.evaluation.units import GRANULARITIES
    from saliency_bench.evaluation.view import RANKINGS

    return {
        "removal": operators(),
        "granularity": GRANULARITIES,
        "output": list(OUTPUTS),
        "ranking": RANKINGS,
    }


#: What says nothing to a metric that reads the map alone, or the map beside what is known to matter.
_IDLE = {
    "attribution": ("removal", "granularity", "output", "ranking"),
    "truth": ("removal", "output"),
}


def _check_metrics(cfg: "Config") -> None:
    from saliency_bench.evaluation.metrics import INFO, METRICS

    views = _views()
    for name, entry in cfg.metric.items():
        where = f"metric.{name}"
        asked = entry.get("metric", "")
        known = METRICS.hyperparameters(asked) if asked in METRICS else ()
        apart = [key for key in views if key in entry and key not in known]
        metric, hyper = _component(METRICS, "metric", entry, where, others=tuple(apart))
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
    """A grid by name, or fractions of the units."""
    from saliency_bench.evaluation.grid import FRACTIONS, FULL

    if isinstance(grid, str):
        one_of(where, grid, [*FRACTIONS, FULL])
        return
    _check_axis(where, as_list(grid))
    for one in as_list(grid):
        if isinstance(one, bool) or not isinstance(one, int | float):
            raise InputError(f"{where}={one!r}: expected {ranges.range_of(where)}")


def _check_choose(cfg: "Config") -> None:
    if cfg.choose is None:
        return
    if cfg.data.get("split") in (None, cfg.choose.split):
        raise InputError(
            f"choose.split={cfg.choose.split}, data.split={cfg.data.get('split')}: what is chosen and what is "
            "reported must be two splits. Set choose=null to report every setting without choosing."
        )
    one_of("choose.metric", cfg.choose.metric, cfg.metric)
