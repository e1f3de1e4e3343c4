"""Our numbers against Captum's: every setting that both have, compared text by text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from saliency_bench.attribution.captum import BACKENDS
from saliency_bench.attribution.explain import explain
from saliency_bench.attribution.methods import METHODS
from saliency_bench.attribution.parity import (
    has_rounded_weights,
    in_captums_rounding,
    relative_tolerance,
)
from saliency_bench.attribution.settings import expand
from saliency_bench.core import conf as conf_files
from saliency_bench.core.rows import Setting
from saliency_bench.core.text import Encoded
from saliency_bench.experiments.scaffold import Config, Progress
from saliency_bench.models import references
from saliency_bench.models.model import Model
from saliency_bench.models.references import References
from saliency_bench.studies.block import OpenBlock, opened_blocks
from saliency_bench.studies.budget import ON_CPU

AGREES, DIFFERS, BIASED = "agrees", "differs", "differs by the known bias"

#: The weights of Captum's trapezoidal rule sum to (n-1)/n.
BIASED_RULE = "captum_riemann_trapezoid"

#: Hyperparameters by which the rows of the matrix differ.
VARIANTS = ("quadrature", "statistic", "sampler")


@dataclass(frozen=True)
class ParityModel:
    """A model in one type, and its texts."""

    name: str
    dtype: str
    model: Model
    encoded: Sequence[Encoded]
    random: bool = False  # built here, and small


@dataclass(frozen=True)
class Pair:
    """A setting of ours and its Captum twin; `bias`: ours is larger by this share of Captum's, by definition."""

    native: Setting
    captum: Setting
    bias: float = 0.0

    @property
    def method(self) -> str:
        """The name of the method, marked where Captum computes it at a layer."""
        layer = self.captum.backend == "captum_layer"
        return f"{self.native.method} (layer)" if layer else self.native.method

    @property
    def variant(self) -> str:
        """The values by which the rows of one method differ."""
        values = [
            str(self.native.hyper[key])
            for key in VARIANTS
            if self.native.hyper.get(key) is not None
        ]
        return ", ".join(values) + (f" against {BIASED_RULE}" if self.bias else "")


@dataclass(frozen=True)
class Comparison:
    """The text on which two settings are furthest apart, in units of what its tolerance allows.

    Differences and tolerances are relative to Captum's largest score of that text. `copied` is what is left of them
    where our engine is given Captum's own nodes and weights; None where Captum rounds none.
    """

    pair: Pair
    model: str
    dtype: str
    n_texts: int
    difference: float
    tolerance: float
    copied: "tuple[float, float] | None" = None

    @property
    def verdict(self) -> str:
        """Agrees, differs, or differs by the known bias. A difference that is not a number differs."""
        off = [pair for pair in (self.as_shipped, self.copied) if pair and not pair[0] <= pair[1]]
        if off:
            return DIFFERS
        return BIASED if self.pair.bias else AGREES

    @property
    def as_shipped(self) -> tuple[float, float]:
        """The difference to Captum as it is, and its tolerance."""
        return self.difference, self.tolerance


def compared(subject: ParityModel, config: Config, progress: Progress) -> list[Comparison]:
    """The comparisons of all pairs on one subject."""
    model = subject.model
    tested = pairs(model, config)
    done, whole = 0, len(subject.encoded) * len(tested)
    stage = f"{subject.name} {subject.dtype}"
    ratios: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    refs = References(model)
    with model.frozen():
        for planned, block in opened_blocks(refs, subject.encoded, "predicted", ON_CPU):
            check = BlockCheck(block, tested)
            for number, pair in enumerate(tested):
                progress(stage, done, whole)
                ratios.setdefault(number, []).append(check.differences(pair))
                done += len(planned.indices)
    progress(stage, whole, whole)
    return [
        _comparison(subject, pair, *map(np.concatenate, zip(*ratios[number], strict=True)))
        for number, pair in enumerate(tested)
    ]


class BlockCheck:
    """One block with everything that several pairs share: our scores, tolerances, and scores in Captum's rounding."""

    def __init__(self, block: OpenBlock, tested: Sequence[Pair]) -> None:
        self.block = block
        native = {pair.native.id: pair.native for pair in tested}
        self.context = block.context("logit", tested[0].native.seed)
        self.native = self._scores(list(native.values()))
        self._tolerances: dict[tuple[str, bool], Float[np.ndarray, " B"]] = {}
        self._copied: dict[str, Float[np.ndarray, "B T"]] = {}

    def differences(self, pair: Pair) -> tuple[Float[np.ndarray, "B 2"], Float[np.ndarray, "B 2"]]:
        """Differences and tolerances of each text: as shipped, and with weights copied (NaN where none are)."""
        captum = self._scores([pair.captum])[pair.captum.id]
        twin = pair.captum.twin("native")
        shipped = _relative(self.native[pair.native.id] / (1 + pair.bias), captum)
        nothing = np.full_like(shipped, np.nan)
        exact, allowed = nothing, nothing
        if not pair.bias and self._double and has_rounded_weights(twin):
            exact = _relative(self._in_captums_rounding(twin), captum)
            allowed = self._tolerance(twin, copied=True)
        return np.stack([shipped, exact], 1), np.stack([self._tolerance(twin), allowed], 1)

    @property
    def _double(self) -> bool:
        return self.block.model.dtype == torch.float64

    def _scores(self, settings: Sequence[Setting]) -> dict[str, Float[np.ndarray, "B T"]]:
        attributions = explain(self.context, settings)
        return {
            key: np.asarray(attribution.scores.cpu()) for key, attribution in attributions.items()
        }

    def _tolerance(self, setting: Setting, copied: bool = False) -> Float[np.ndarray, " B"]:
        key = setting.id, copied
        if key not in self._tolerances:
            self._tolerances[key] = relative_tolerance(self.context, setting, copied=copied)
        return self._tolerances[key]

    def _in_captums_rounding(self, setting: Setting) -> Float[np.ndarray, "B T"]:
        if setting.id not in self._copied:
            made = in_captums_rounding(self.context, setting)
            self._copied[setting.id] = np.asarray(made.scores.cpu())
        return self._copied[setting.id]


def settings_of(config: Config) -> Iterator[Setting]:
    """Every method that a Captum backend has, with the configured values.

    Raises:
        InputError: a value is not usable.
    """
    for backend, registry in BACKENDS.items():
        for method in registry.names():
            entries = {method: _entry(method, config)}
            yield from expand(entries, backends=[backend], seed=config["seed"])


def pairs(model: Model, config: Config) -> list[Pair]:
    """All of these with their native twins, as far as the model has what they need."""
    unique: dict[tuple[str, str], Pair] = {}
    for setting in settings_of(config):
        captum = _fitted(model, setting)
        if captum is None:
            continue
        native = captum.twin("native")
        both = [Pair(native, captum)]
        if captum.backend == "captum" and captum.hyper.get("quadrature") == BIASED_RULE:
            trapezoid = replace(native, hyper={**native.hyper, "quadrature": "trapezoid"})
            both.append(Pair(trapezoid, captum, bias=1 / (captum.hyper["n_steps"] - 1)))
        for pair in both:
            unique.setdefault((pair.native.id, pair.captum.id), pair)
    return list(unique.values())


def _entry(method: str, config: Config) -> dict[str, Any]:
    """A method with the hyperparameters of validate.yaml, else those of conf/method/."""
    entry: dict[str, Any] = {"method": method, "reduction": "sum"}
    if method in conf_files.names("method"):
        entry |= conf_files.method_defaults(method)
    declared = METHODS.hyperparameters(method)
    entry |= {key: value for key, value in config["hyper"].items() if key in declared}
    return entry | dict(config["method"].get(method, {}))


def _fitted(model: Model, setting: Setting) -> Setting | None:
    """The setting with a baseline that the model has; None where the backend can start from none of its."""
    if "baseline" not in setting.hyper:
        return setting
    candidates = [setting.hyper["baseline"], *references.FALLBACK]
    if setting.backend == "captum_layer":
        candidates = [
            name for name in (*candidates, *references.TOKENS) if name in references.TOKENS
        ]
    for name in candidates:
        if references.available(model, name):
            return replace(setting, hyper={**setting.hyper, "baseline": name})
    return None


def _relative(
    ours: Float[np.ndarray, "B T"], captum: Float[np.ndarray, "B T"]
) -> Float[np.ndarray, " B"]:
    """Of each text, the largest difference over Captum's largest score; two maps of zeros do not differ."""
    apart, size = np.abs(ours - captum).max(1), np.abs(captum).max(1)
    return np.where(size > 0, apart / np.where(size > 0, size, 1), np.where(apart == 0, 0, np.inf))


def _comparison(
    subject: ParityModel,
    pair: Pair,
    differences: Float[np.ndarray, "N 2"],
    tolerances: Float[np.ndarray, "N 2"],
) -> Comparison:
    """The worst text of each kind; a difference that is not a number is worse than any."""
    worst = np.nan_to_num(differences / tolerances, nan=np.inf).argmax(0)
    both = [
        (float(differences[row, kind]), float(tolerances[row, kind]))
        for kind, row in enumerate(worst)
    ]
    copied = None if np.isnan(tolerances[:, 1]).all() else both[1]
    return Comparison(pair, subject.name, subject.dtype, len(differences), *both[0], copied)
