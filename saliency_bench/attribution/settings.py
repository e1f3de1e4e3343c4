"""Which combinations of method, backend, reduction and hyperparameters make sense; one name per number."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from saliency_bench.core import ranges
from saliency_bench.core.errors import InputError, one_of, shown
from saliency_bench.core.rows import Setting

if TYPE_CHECKING:
    from saliency_bench.core.registry import Registry

from numbers import Integral

from saliency_bench.attribution import captum
from saliency_bench.attribution.adaptive import FIRST_ROUND
from saliency_bench.attribution.methods import ABOUT, KINDS, METHODS, ONLY
from saliency_bench.attribution.noise import AUTO
from saliency_bench.attribution.quadrature import CALIBRATED
from saliency_bench.attribution.quadrature import check as check_rule
from saliency_bench.attribution.reduction import REDUCTIONS
from saliency_bench.core import signatures
from saliency_bench.core.registry import Registry
from saliency_bench.core.rows import Target
from saliency_bench.models.tasks.sequence_classification import CRITERION, OUTPUTS

BACKENDS: Mapping[str, Registry[Any]] = {"native": METHODS, **captum.BACKENDS}


def checked_setting(
    name: str,
    method: str,
    backend: str,
    reduction: str,
    target: Target,
    output: str,
    seed: int,
    hyper: Mapping[str, Any],
) -> Setting:
    """The setting of one method entry with one value per axis, in its canonical form.

    `vanilla` with `dot` is `input_x_gradient` with `sum`, and is called so; `smoothgrad` likewise. Methods that
    give one number per token have no reduction, and no backend unless they are another's.

    Raises:
        InputError: a name is unknown, or the combination has no meaning.
    """
    where = f"method.{name}"
    one_of(f"{where}.method", method, METHODS.names())
    METHODS.check(method, hyper, where)
    _check_numbers(where, method, hyper)
    if output != CRITERION:
        one_of("output", output, OUTPUTS)
    one_of("backend", backend, BACKENDS)
    seed = _whole_seed(seed)
    hyper = _only_what_counts(hyper)
    if KINDS[method] == "token":
        return Setting(name, method, ONLY.get(method, "none"), "none", target, output, seed, hyper)
    one_of(f"{where}.reduction", reduction, REDUCTIONS)
    if reduction == "dot" and KINDS[method] == "product":
        raise InputError(
            f"{where}.reduction=dot would multiply the input in twice: {method} has it in already. Use sum, l2 or l1."
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
    """Why a backend cannot compute a setting, and what to do; None where it can."""
    if method not in BACKENDS[backend]:
        return f"the {backend} backend has no {method}. It has: {', '.join(BACKENDS[backend].names())}."
    if backend == "native":
        return None
    if hyper.get("n_samples") == AUTO:
        return f"n_samples=auto: the {backend} backend takes a number, or `backend: [native]`."
    return captum.lacks(backend, hyper)


def _only_what_counts(hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters without a say under the others' values as null, so that they make no second setting."""
    kept = dict(hyper)
    if "relative_error" in kept and kept["n_samples"] != AUTO:
        kept |= {"relative_error": None, "max_samples": None}
    return kept


def _whole_seed(seed: object) -> int:
    """A seed as Python's own whole number: numpy's are other names for the same draws."""
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise InputError(f"seed={shown(seed)}: expected {ranges.range_of('seed')}")
    ranges.check(int(seed), "seed")
    return int(seed)


def _check_numbers(where: str, method: str, hyper: Mapping[str, Any]) -> None:
    for key in ("n_steps", "n_samples", "n_rankings", "max_steps"):
        value = hyper.get(key, 1)
        if isinstance(value, str) and key == "n_samples":
            continue  # auto, or refused below
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"{where}.{key}={value}: expected {ranges.range_of(key)}")
    ranges.check(hyper, where)
    if "tolerance" in hyper:
        _check_adaptive(where, hyper["tolerance"], hyper["max_steps"])
    try:
        if "quadrature" in hyper:
            check_rule(hyper["quadrature"], hyper["n_steps"])
            _check_calibrated(method, hyper["quadrature"])
        signatures.grouped(METHODS[method], hyper)
    except InputError as error:
        about_a_key = str(error).split("=")[0] in hyper
        raise InputError(f"{where}{'.' if about_a_key else ': '}{error}") from error


def _check_adaptive(where: str, tolerance: object, max_steps: int) -> None:
    number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    if not (number and 0 < tolerance < 1):  # type: ignore[operator]
        raise InputError(f"{where}.tolerance={tolerance!r}: expected a number between 0 and 1")
    if max_steps < FIRST_ROUND:
        raise InputError(
            f"{where}.max_steps={max_steps}: expected a whole number of at least {FIRST_ROUND}"
        )


def _check_calibrated(method: str, rule: str) -> None:
    if rule == CALIBRATED and not ABOUT[method].calibrated:
        own = [name for name in METHODS.names() if ABOUT[name].calibrated]
        raise InputError(f"quadrature={rule}: its nodes are those of {', '.join(own)} alone")


def refuse_vanishing_sum(setting: Setting, sum_vanishes: bool) -> None:
    """Refuses to sum raw gradients where the sum is rounding noise.

    With LayerNorm right after the embedding, adding a constant to a token's vector changes nothing, so
    Σ_d ∂F/∂e_td is exactly 0 and what is left is noise of the arithmetic.

    Raises:
        InputError: this setting would report that noise.
    """
    if sum_vanishes and setting.reduction == "sum" and KINDS[setting.method] == "gradient":
        raise InputError(
            f"method.{setting.name}.reduction=sum: in this model the gradients of a token sum to exactly 0 over "
            "its dimensions (LayerNorm follows the embedding), so the scores would be rounding noise. Use l2 or dot."
        )
