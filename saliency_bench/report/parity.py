"""Compares native token scores with Captum's, setting by setting."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from saliency_bench.core.labels import value_label
from saliency_bench.core.method_facts import FACTS, is_reference
from saliency_bench.store.run import Run

_BIASED = "captum_riemann_trapezoid"


@dataclass(frozen=True)
class Parity:
    """The differences of two settings' scores, over all examples they share.

    `absolute` is the largest difference of two token scores, `relative` the largest in units of the other setting's largest
    score of the text. `expected` is the relative difference that the two rules have by definition.
    """

    setting_id: str
    other_id: str
    n_examples: int
    absolute: float
    relative: float
    expected: float = 0.0
    tolerance: float | None = None

    @property
    def verdict(self) -> str:
        """The verdict in words: they agree, differ, or differ by the expected amount."""
        if self.tolerance is None:
            return "no tolerance given"
        if abs(self.relative - self.expected) > self.tolerance:
            return "differs"
        return "agrees" if self.expected == 0 else "differs by the known bias"


def parities(run: Run) -> list[Parity]:
    """Compares every native setting with its Captum twin, then our trapezoid with Captum's rule of that name.

    `manifest["parity"]["relative_tolerance"]` is a number, or one per native setting id.
    """
    tolerance = (run.manifest.get("parity") or {}).get("relative_tolerance")
    compared = pairs(run.settings)
    paired = {key for native, captum, _ in compared for key in (native, captum)}
    maps = run.columns("maps", ["setting_id", "example_id", "scores"], {"setting_id": paired})
    scores = {
        key: of_setting.set_index("example_id")["scores"]
        for key, of_setting in maps.groupby("setting_id")
    }
    comparisons = []
    # A Captum setting has one tolerance, whichever of our rules it is compared with.
    twins = {captum: native for native, captum, _ in _twins(run.settings)}
    for native, captum, expected in compared:
        if native in scores and captum in scores:
            key = twins.get(captum, native)
            allowed = tolerance.get(key) if isinstance(tolerance, Mapping) else tolerance
            comparisons.append(_compare(native, captum, scores, expected, allowed))
    return comparisons


def pairs(settings: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, float]]:
    """Returns the ids of our and Captum's settings that correspond, and the relative difference that is expected."""
    return [*_twins(settings), *_trapezoids(settings)]


def _twins(settings: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, float]]:
    native = {
        _key(setting): setting["setting_id"]
        for setting in settings
        if setting["backend"] == "native"
    }
    for setting in settings:
        if is_reference(setting) and (twin := native.get(_key(setting))):
            yield twin, setting["setting_id"], 0.0


def twin_of(settings: Sequence[Mapping[str, Any]], native: str) -> str | None:
    """Returns the Captum setting of the same name and hyperparameters; None if the run has none."""
    return next((other for ours, other, _ in _twins(settings) if ours == native), None)


def _trapezoids(settings: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, float]]:
    """Yields pairs of trapezoids. Captum's weights sum to (n-1)/n, so that our scores are larger by 1/(n-1)."""
    captum = [
        setting
        for setting in settings
        if is_reference(setting) and setting.get("quadrature") == _BIASED
    ]
    for setting in settings:
        if setting["backend"] == "native" and setting.get("quadrature") == "trapezoid":
            for other in captum:
                if _key(setting, "name", "quadrature") == _key(other, "name", "quadrature"):
                    yield setting["setting_id"], other["setting_id"], 1 / (setting["n_steps"] - 1)


def _key(setting: Mapping[str, Any], *ignored: str) -> tuple[tuple[str, str], ...]:
    dropped = {"setting_id", "backend", FACTS, *ignored}
    return tuple((key, value_label(setting[key])) for key in sorted(setting.keys() - dropped))


def _compare(
    native: str,
    captum: str,
    scores: Mapping[Any, pd.Series],
    expected: float,
    tolerance: float | None,
) -> Parity:
    both = pd.concat({"a": scores[native], "b": scores[captum]}, axis=1, join="inner")
    absolute, relative = [0.0], [0.0]
    for a, b in zip(both["a"], both["b"], strict=True):
        difference = float(np.max(np.abs(np.asarray(a) - np.asarray(b)), initial=0.0))
        scale = float(np.max(np.abs(b), initial=0.0))
        absolute.append(difference)
        relative.append(difference / scale if scale else float(difference > 0))
    return Parity(native, captum, len(both), max(absolute), max(relative), expected, tolerance)
