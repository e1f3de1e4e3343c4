"""The distance of approximate maps from converged ones: the same settings again, with fewer points or with many more.

A path method is compared with itself at every other of its nodes, which costs no gradient, or at half of its steps where
they choose the path; where a reference is asked for, with a dense rule. A mean over random draws is compared with the
mean of many other draws. The companion is native: a reference that a backend computes by itself would share its faults.

The difference from a coarser map is about the error of the coarser one. So the map is held against the limit that both
let expect (Richardson's extrapolation): with errors that fall as 1/n^p, what the full map is off by is their difference over
2^p - 1.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from saliency_bench.attribution.backward import KEY
from saliency_bench.attribution.describe import about_of
from saliency_bench.attribution.methods import KINDS
from saliency_bench.attribution.noise import AUTO
from saliency_bench.attribution.quadrature import HALF, fewest_of_half, whole
from saliency_bench.attribution.settings import has_backends, lacks, single_settings
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.rows import Setting
from saliency_bench.evaluation.agreement import kendall_tau
from saliency_bench.evaluation.metrics import NotApplicable

#: Companions of a map: half of its nodes, twice the steps where there are too few to halve, a dense rule or many
#: other draws.
LIMIT, DOUBLED, REFERENCE = "limit", "doubled", "reference"

#: Rules whose error is about as large as their difference from half of their nodes.
FIRST_ORDER = (None, "left", "right", "midpoint")

#: Draws of a reference have another seed, or the draws under test would be among them.
OTHER_SEED = 1_000_003


@dataclass(frozen=True)
class Dense:
    """Steps and samples of references for approximate settings; None where there are no references."""

    n_steps: int | None
    n_samples: int | None


@dataclass(frozen=True)
class Companion:
    """A setting and another that its maps are compared with; `free` where that one's points are points of the study anyway."""

    setting: Setting
    against: str
    other: Setting
    free: bool = False


def halved(setting: Setting) -> Setting | None:
    """The setting with every other node of its path; None where it has no path, too few nodes, or half of them already.

    Where no rule of quadrature says how to leave nodes out, it has half of its steps.
    """
    n, rule = setting.hyper.get("n_steps", 0), setting.hyper.get("quadrature")
    if rule is None:
        return _native(setting, {"n_steps": n // 2}) if n >= 2 else None
    if rule != whole(rule) or n < fewest_of_half(rule):
        return None
    return _native(setting, {"quadrature": HALF + rule})


def doubled(setting: Setting) -> Setting | None:
    """The setting with twice the steps; None where it has none."""
    n = setting.hyper.get("n_steps")
    return None if n is None else _native(setting, {"n_steps": 2 * n})


def reference(setting: Setting, dense: Dense) -> Setting | None:
    """A setting whose error is small beside that of `setting`; None where none is asked for, or none applies."""
    drawn = "n_samples" in setting.hyper and "noise_std" in setting.hyper
    if "baseline" in setting.hyper and not drawn and dense.n_steps is not None:
        path = ("baseline", "baseline_special_tokens", KEY)
        kept = {key: value for key, value in setting.hyper.items() if key in path}
        rule = kept | {"n_steps": dense.n_steps, "quadrature": "clenshaw_curtis"}
        if (limit := about_of(setting.method).limit) is not None:
            reduction = "sum" if setting.reduction == "none" else setting.reduction
            return _expanded(setting, limit, reduction, rule)
    if drawn and dense.n_samples is not None and "n_steps" not in setting.hyper:
        more = {"n_samples": dense.n_samples, "sampler": "antithetic"}
        return _native(setting, more | {"relative_error": None, "max_samples": None}, OTHER_SEED)
    return None


def _native(setting: Setting, change: Mapping[str, Any], more_seed: int = 0) -> Setting | None:
    """The setting with other hyperparameters, computed by us; None where we do not have it."""
    hyper = {**setting.hyper, **change}
    if has_backends(setting.method) and lacks("native", setting.method, hyper):
        return None
    return _expanded(setting, setting.method, setting.reduction, hyper, more_seed)


def _expanded(
    setting: Setting, method: str, reduction: str, hyper: Mapping[str, Any], more_seed: int = 0
) -> Setting:
    """The one setting of an entry with these values, beside `setting`."""
    entry = {"method": method, **hyper}
    if has_backends(method):
        entry["backend"] = "native"
    if KINDS[method] != "token":
        entry["reduction"] = reduction
    seed = setting.seed + more_seed
    single = single_settings(
        {setting.name: entry}, target=setting.target, output=setting.output, seed=seed
    )
    return single[setting.name]


def companions(settings: Sequence[Setting], dense: Dense) -> list[Companion]:
    """The companions of all settings that have one."""
    ids = {setting.id for setting in settings}
    pairs = []
    for setting in settings:
        if (other := reference(setting, dense)) is not None:
            pairs.append(Companion(setting, REFERENCE, other))
        elif (other := halved(setting)) is not None:
            shared = "quadrature" in setting.hyper and setting.hyper.get("n_samples") != AUTO
            free = shared and setting.twin(other.backend).id in ids
            pairs.append(Companion(setting, LIMIT, other, free))
        elif (other := doubled(setting)) is not None:
            pairs.append(Companion(setting, DOUBLED, other))
    return pairs


def others(pairs: Sequence[Companion], *, free: bool) -> list[Setting]:
    """The companions that cost nothing beside the settings of the study, or those that do, each once."""
    return list({pair.other.id: pair.other for pair in pairs if pair.free == free}.values())


def convergence_rows(
    pairs: Sequence[Companion],
    maps: Mapping[str, Sequence[AttributionMap]],
    checked: Collection[str],
) -> list[dict[str, Any]]:
    """The distance of each checked example's map from that of its companion, for each setting that has one.

    `maps` are those of all settings and companions on at least the checked examples, by setting id.
    """
    rows = []
    for pair in pairs:
        of_setting = {map_.example_id: map_ for map_ in maps[pair.setting.id]}
        rows += [
            _row(of_setting[other.example_id], other, pair)
            for other in maps[pair.other.id]
            if other.example_id in checked
        ]
    return rows


def _row(attribution: AttributionMap, other: AttributionMap, pair: Companion) -> dict[str, Any]:
    finite = attribution.finite and other.finite
    scores = attribution.scores
    better = _limit(scores, other.scores, pair.setting) if pair.against == LIMIT else other.scores
    scale = float(np.abs(better).max(initial=0.0))
    apart = float(np.abs(scores - better).max(initial=0.0))
    return {
        "setting_id": attribution.setting["setting_id"],
        "example_id": attribution.example_id,
        "against": pair.against,
        "tau": _tau(attribution, better) if finite else None,
        "error": apart / scale if finite and scale > 0 else None,
    }


def _limit(
    scores: Float[np.ndarray, " T"], half: Float[np.ndarray, " T"], setting: Setting
) -> Float[np.ndarray, " T"]:
    """The limit of a map by Richardson's extrapolation, from its nodes and half of them.

    Errors fall at least as 1/n² but for left and right sums. Of half of the midpoints another rule is made, and where the
    steps choose the path nothing is known: there the difference counts as it is.
    """
    order = 1 if setting.hyper.get("quadrature") in FIRST_ORDER else 2
    return np.asarray(scores + (scores - half) / (2**order - 1))


def _tau(attribution: AttributionMap, other: Float[np.ndarray, " T"]) -> float | None:
    try:
        return kendall_tau(attribution.scores, other, np.array(attribution.attributable))
    except NotApplicable:
        return None
