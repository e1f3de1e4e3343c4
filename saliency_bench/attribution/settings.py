"""Which combinations of method, backend, reduction and hyperparameters make sense; one name per number."""

import math
from collections.abc import Mapping
from typing import Any

from saliency_bench.attribution import captum
from saliency_bench.attribution.methods import KINDS, METHODS
from saliency_bench.attribution.quadrature import quadrature
from saliency_bench.attribution.reduction import REDUCTIONS
from saliency_bench.errors import InputError, unknown
from saliency_bench.rows import Setting
from saliency_bench.tasks.sequence_classification import OUTPUTS

BACKENDS: Mapping[str, Any] = {"native": METHODS, "captum": captum.METHODS}


def checked_setting(
    name: str,
    method: str,
    backend: str,
    reduction: str,
    target: str | int,
    output: str,
    seed: int,
    hyper: Mapping[str, Any],
) -> Setting:
    """The setting of one method entry with one value per axis, in its canonical form.

    `vanilla` with `dot` is `input_x_gradient` with `sum`, and is called so. Methods that give one number per
    token have no backend and no reduction.

    Raises:
        InputError: a name is unknown, or the combination has no meaning.
    """
    where = f"method.{name}"
    if method not in METHODS:
        raise unknown(f"{where}.method", method, METHODS.names())
    METHODS.check(method, hyper, where)
    _check_numbers(where, hyper)
    if output not in OUTPUTS:
        raise unknown("output", output, list(OUTPUTS))
    if backend not in BACKENDS:
        raise unknown("backend", backend, list(BACKENDS))
    if KINDS[method] == "token":
        return Setting(name, method, "none", "none", target, output, seed, dict(hyper))
    if reduction not in REDUCTIONS:
        raise unknown(f"{where}.reduction", reduction, list(REDUCTIONS))
    if reduction == "dot" and KINDS[method] == "product":
        raise InputError(
            f"{where}.reduction=dot would multiply the input in twice: {method} has it in already. Use sum, l2 or l1."
        )
    if method == "vanilla" and reduction == "dot":
        method, reduction = "input_x_gradient", "sum"
    if method not in BACKENDS[backend]:
        raise InputError(
            f"{where}: the {backend} backend has no {method}. It has: {', '.join(BACKENDS[backend].names())}."
        )
    return Setting(name, method, backend, reduction, target, output, seed, dict(hyper))


def _check_numbers(where: str, hyper: Mapping[str, Any]) -> None:
    for key in ("n_steps", "n_samples", "n_rankings"):
        value = hyper.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{where}.{key}={value}: expected a whole number of at least 1")
    std = hyper.get("noise_std", 0.0)
    if (
        isinstance(std, bool)
        or not isinstance(std, int | float)
        or not math.isfinite(std)
        or std < 0
    ):
        raise InputError(f"{where}.noise_std={std}: expected a finite number of at least 0")
    if "quadrature" in hyper:
        try:
            quadrature(hyper["quadrature"], hyper["n_steps"])
        except InputError as error:
            raise InputError(f"{where}: {error}") from error


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
