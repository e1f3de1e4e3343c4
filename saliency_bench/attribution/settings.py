"""Expansion of method entries, from a configuration or a call, to settings, with the checks of every value.

Values that give the same numbers get one name, so that equal numbers have equal setting ids.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

from saliency_bench.attribution import captum
from saliency_bench.attribution.adaptive import FIRST_ROUND
from saliency_bench.attribution.anchors import STRATEGIES
from saliency_bench.attribution.backward import rules as backward
from saliency_bench.attribution.context import SPECIAL_TOKENS
from saliency_bench.attribution.methods import ABOUT, KINDS, METHODS, ONLY
from saliency_bench.attribution.methods.ancestors import MULTIPLIERS
from saliency_bench.attribution.methods.attention import QUERIES
from saliency_bench.attribution.methods.paths import STATISTICS
from saliency_bench.attribution.methods.rankings import GOALS
from saliency_bench.attribution.noise import AUTO, SAMPLERS
from saliency_bench.attribution.quadrature import CALIBRATED, NAMES, whole
from saliency_bench.attribution.quadrature import check as check_rule
from saliency_bench.attribution.reduction import REDUCTIONS
from saliency_bench.core import ranges, signatures
from saliency_bench.core.errors import InputError, one_of, shown
from saliency_bench.core.registry import REMOVALS, Registry
from saliency_bench.core.rows import Setting, Target, as_list, check_axis, expand_axes
from saliency_bench.core.signatures import typed
from saliency_bench.data.records import half_character
from saliency_bench.models import references
from saliency_bench.models.tasks.scores import CRITERION, OUTPUTS

BACKENDS: Mapping[str, Registry[Any]] = {"native": METHODS, **captum.BACKENDS}

#: The allowed names, by hyperparameter.
CHOICES: Mapping[str, Collection[str] | Registry[Any]] = {
    "baseline_special_tokens": SPECIAL_TOKENS,
    "goal": GOALS,
    "multiplied_by": MULTIPLIERS,
    "objective": OUTPUTS,
    "quadrature": NAMES,
    "query": QUERIES,
    "removal": REMOVALS,
    "sampler": SAMPLERS,
    "statistic": STATISTICS,
    "strategy": STRATEGIES,
}

#: Keys of an entry that are no hyperparameters of its method.
SHARED = ("reduction", "backend", "output", backward.KEY)

#: The checks of hyperparameters that may also be the user's own texts, vectors or files.
CHECKS: Mapping[str, Callable[[str, str], None]] = {
    "baseline": references.check_baseline,
    "references": references.check_references,
}


def expand(
    entries: Mapping[str, Mapping[str, Any]],
    *,
    target: Target = "predicted",
    output: str = "logit",
    seed: int | Sequence[int] = 0,
    backends: Sequence[str] = ("native",),
) -> list[Setting]:
    """The settings of method entries: one for each combination of values, the last hyperparameter fastest.

    Args:
        entries: by name, as in conf/method/: a method, its reduction and every hyperparameter, and optionally a backend
            and an output. A list is an axis.
        target: the class that is explained.
        output: the output for entries without one.
        seed: the seed of the noise; several are an axis.
        backends: the backends for entries without one. If there are several, a setting that one lacks is skipped for it.

    Raises:
        InputError: an entry is wrong, or two settings compute the same numbers.
    """
    settings: dict[str, Setting] = {}
    for name, entry in entries.items():
        for setting in _expand_entry(name, entry, target, output, seed, backends):
            other = settings.setdefault(setting.id, setting)
            if other is not setting:
                raise InputError(
                    f"method.{other.name} and method.{name} both compute {setting.method} "
                    f"({setting.backend}, {setting.reduction}, {dict(setting.hyper)}). Remove one of them."
                )
    return list(settings.values())


def single_settings(entries: Mapping[str, Mapping[str, Any]], **common: Any) -> dict[str, Setting]:
    """The settings of method entries without an axis, by name; `common` are further arguments of `expand`.

    Raises:
        InputError: as `expand`, or an entry has several settings.
    """
    settings = expand(entries, **common)
    counts = Counter(setting.name for setting in settings)
    for name, count in counts.items():
        if count > 1:
            raise InputError(
                f"method.{name} has {count} settings: expected one. Give each of its keys one value."
            )
    return {setting.name: setting for setting in settings}


def _expand_entry(
    name: str,
    entry: Mapping[str, Any],
    target: Target,
    output: str,
    seed: int | Sequence[int],
    backends: Sequence[str],
) -> Iterator[Setting]:
    where = f"method.{name}"
    ranges.check(entry, where)
    method, hyper = METHODS.entry("method", entry, where, others=SHARED)
    outputs = as_list(entry.get("output", output))
    if "output" in entry:
        for output in outputs:
            one_of(f"{where}.output", output, OUTPUTS)
    axes = {
        "_backend": _backends(entry, backends, method, where),
        "_reduction": _reductions(entry, method, where),
        "_output": outputs,
        "_seed": as_list(seed),
    }
    for key in METHODS.hyperparameters(method):
        axes[key] = [
            checked_value(method, key, value, f"{where}.{key}") for value in as_list(hyper[key])
        ]
    axes[backward.KEY] = as_list(entry.get(backward.KEY, backward.PLAIN))
    for rule in axes[backward.KEY]:
        one_of(f"{where}.{backward.KEY}", rule, backward.NAMES)
    for key, values in axes.items():
        check_axis("seed" if key == "_seed" else f"{where}.{key.lstrip('_')}", values)
    for axis in expand_axes(axes):
        backend, reduction, of_output, of_seed = (
            axis.pop(key) for key in ("_backend", "_reduction", "_output", "_seed")
        )
        if "backend" not in entry and len(axes["_backend"]) > 1 and lacks(backend, method, axis):
            continue
        yield _combined(name, method, backend, reduction, target, of_output, of_seed, axis)


def has_backends(method: str) -> bool:
    """Whether more than one backend may compute a method."""
    return method not in ONLY and KINDS[method] != "token"


def _backends(
    entry: Mapping[str, Any], backends: Sequence[str], method: str, where: str
) -> list[str]:
    if has_backends(method):
        names = as_list(entry.get("backend", backends))
        for backend in names:
            one_of(f"{where}.backend", backend, BACKENDS)
        return names
    if "backend" in entry:
        raise InputError(f"{where}.backend: {method} has no choice of backends. Remove it.")
    return [ONLY.get(method, "native")]


def _reductions(entry: Mapping[str, Any], method: str, where: str) -> list[str]:
    if KINDS[method] == "token":
        if "reduction" in entry:
            raise InputError(
                f"{where}.reduction: {method} gives one number per token and has none. Remove it."
            )
        return ["none"]
    if "reduction" not in entry:
        raise InputError(f"{where}.reduction is missing. Give one: l2, l1, sum or dot.")
    names = as_list(entry["reduction"])
    for reduction in names:
        one_of(f"{where}.reduction", reduction, REDUCTIONS)
    return names


def checked_value(method: str, key: str, value: Any, where: str) -> Any:
    """The value of a hyperparameter in the type that the method declares.

    Raises:
        InputError: it is out of range, of another type, or an unknown name; the message begins with `where`.
    """
    value = typed(METHODS[method], key, value, where)
    if isinstance(value, str) and (fault := half_character(value)):
        raise InputError(f"{where}={value!r}: expected a text, got {fault}")
    if (choices := CHOICES.get(key)) is not None:
        name = whole(value) if key == "quadrature" else value
        one_of(where, name, choices.names() if isinstance(choices, Registry) else choices)
    if key in CHECKS:
        CHECKS[key](value, where)
    return value


def _combined(
    name: str,
    method: str,
    backend: str,
    reduction: str,
    target: Target,
    output: str,
    seed: int,
    hyper: Mapping[str, Any],
) -> Setting:
    """The setting of values that were checked one by one, in its canonical form.

    `vanilla` with `dot` becomes `input_x_gradient` with `sum`, which has the same numbers; `smoothgrad` likewise. Methods
    that give one number per token have no reduction, and have a backend only if they are computed by another library.

    Raises:
        InputError: the combination has no meaning, or the backend lacks it.
    """
    where = f"method.{name}"
    _check_together(where, method, hyper)
    _check_rule(where, method, hyper)
    if output != CRITERION:
        one_of("output", output, OUTPUTS)
    seed = _whole_seed(seed)
    hyper = _only_what_counts(hyper)
    if KINDS[method] == "token":
        return Setting(name, method, ONLY.get(method, "none"), "none", target, output, seed, hyper)
    if reduction == "dot" and KINDS[method] == "product":
        raise InputError(
            f"{where}.reduction=dot would multiply by the input twice: {method} has done so already. Use sum, l2 or l1."
        )
    if reduction == "dot" and KINDS[method] == "square":
        raise InputError(
            f"{where}.reduction=dot: {method} gives squares, which have no sign. Use sum."
        )
    if reduction == "dot":
        twin = ABOUT[method].dot_twin
        method, reduction = (method, "dot") if twin is None else (twin, "sum")
    if method in ONLY:
        return Setting(name, method, ONLY[method], reduction, target, output, seed, hyper)
    if (reason := lacks(backend, method, hyper)) is not None:
        raise InputError(f"{where}: {reason}")
    return Setting(name, method, backend, reduction, target, output, seed, hyper)


def lacks(backend: str, method: str, hyper: Mapping[str, Any]) -> str | None:
    """The reason for which a backend cannot compute a setting, and a remedy; None if it can."""
    if method not in BACKENDS[backend]:
        return f"the {backend} backend has no {method}. It has: {', '.join(BACKENDS[backend].names())}."
    if backend == "native":
        return None
    if (rule := hyper.get(backward.KEY, backward.PLAIN)) != backward.PLAIN:
        return (
            f"{backward.KEY}={rule}: the {backend} backend has no backward rules. Use {backward.KEY}={backward.PLAIN}, or "
            "`backend: [native]`."
        )
    if hyper.get("n_samples") == AUTO:
        return f"n_samples=auto: the {backend} backend takes a number, or `backend: [native]`."
    return captum.lacks(backend, hyper)


def _only_what_counts(hyper: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters, with None for those that have no effect under the others' values.

    Equal numbers thus get equal settings.
    """
    canonical = dict(hyper)
    if "relative_error" in canonical and canonical["n_samples"] != AUTO:
        canonical |= {"relative_error": None, "max_samples": None}
    if canonical.get(backward.KEY) == backward.PLAIN:
        del canonical[backward.KEY]
    return canonical


def _whole_seed(seed: object) -> int:
    """A seed as a Python int; a numpy integer of the same value gives the same draws and must give the same id."""
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise InputError(f"seed={shown(seed)}: expected {ranges.range_of('seed')}")
    ranges.check(int(seed), "seed")
    return int(seed)


def _check_together(where: str, method: str, hyper: Mapping[str, Any]) -> None:
    """Checks hyperparameters that depend on each other."""
    if "tolerance" in hyper and hyper["max_steps"] < FIRST_ROUND:
        raise InputError(
            f"{where}.max_steps={hyper['max_steps']}: expected a whole number of at least {FIRST_ROUND}"
        )
    try:
        if "quadrature" in hyper:
            check_rule(hyper["quadrature"], hyper["n_steps"])
            _check_calibrated(method, hyper["quadrature"])
        signatures.grouped(METHODS[method], hyper)
    except InputError as error:
        about_a_key = str(error).split("=")[0] in hyper
        raise InputError(f"{where}{'.' if about_a_key else ': '}{error}") from error


#: The reasons for which methods of a kind have no backward rules.
NO_RULE = {
    "token": "it takes no gradient that a backward rule could change",
    "square": "a rule's gradient is relevance only if it is multiplied by the input and not squared",
}


def _check_rule(where: str, method: str, hyper: Mapping[str, Any]) -> None:
    """Refuses a backward rule for methods in which it has no meaning."""
    rule, about = hyper.get(backward.KEY, backward.PLAIN), ABOUT[method]
    if rule == backward.PLAIN:
        return
    kind: str = KINDS[method]
    if about.backward and hyper.get("statistic", "mean") != "mean":
        kind, about = "square", replace(about, backward=False)
    if not about.backward:
        reason = about.no_rule or NO_RULE.get(kind, "it does not declare backward=True")
        raise InputError(
            f"{where}.{backward.KEY}={rule}: {method} has {backward.KEY}={backward.PLAIN} only, because {reason}"
        )


def _check_calibrated(method: str, rule: str) -> None:
    if whole(rule) == CALIBRATED and not ABOUT[method].calibrated:
        calibrated = [name for name in METHODS.names() if ABOUT[name].calibrated]
        raise InputError(
            f"quadrature={rule}: expected another rule; only {', '.join(calibrated)} has it"
        )


def refuse_vanishing_sum(setting: Setting, sum_vanishes: bool) -> None:
    """Refuses to sum raw gradients over dimensions in a model in which the sum is 0 but for rounding.

    With LayerNorm right after the embedding, adding a constant to a token's vector changes nothing, so that
    Σ_d ∂F/∂e_td is exactly 0 and a computed sum is rounding noise.

    Raises:
        InputError: the setting sums raw gradients, and `sum_vanishes`.
    """
    if sum_vanishes and setting.reduction == "sum" and KINDS[setting.method] == "gradient":
        raise InputError(
            f"method.{setting.name}.reduction=sum: in this model the gradients of a token sum to exactly 0 over "
            "its dimensions (LayerNorm follows the embedding), so that the scores would be rounding noise. Use l2 or dot."
        )
