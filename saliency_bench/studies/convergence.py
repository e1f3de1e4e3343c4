"""How far approximate maps are from converged ones: the same settings again, with more points.

A path method is compared with itself at twice the steps, or, where a reference is asked for, with a dense rule; a
mean over random draws with the mean of many other draws. The companion is native: a reference that a backend computes
by itself would share its faults.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from saliency_bench.attribution.backward import KEY
from saliency_bench.attribution.describe import about_of
from saliency_bench.attribution.settings import lacks
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.rows import Setting
from saliency_bench.evaluation.agreement import kendall_tau
from saliency_bench.evaluation.metrics import NotApplicable
from saliency_bench.studies.block import OpenBlock

DOUBLED, REFERENCE = "doubled", "reference"

#: Rules with both ends, whose nodes are among those of twice as many intervals.
CLOSED = ("trapezoid", "captum_riemann_trapezoid", "clenshaw_curtis")

#: Draws of a reference have another seed, or the draws under test would be among them.
OTHER_SEED = 1_000_003


@dataclass(frozen=True)
class Dense:
    """What approximate settings are compared with: None where they are not."""

    n_steps: int | None
    n_samples: int | None


def doubled(setting: Setting) -> Setting | None:
    """The setting with twice the intervals on its path; None where it has no number of steps."""
    if "n_steps" not in setting.hyper:
        return None
    n = setting.hyper["n_steps"]
    twice = 2 * n - 1 if setting.hyper.get("quadrature") in CLOSED else 2 * n
    return _native(setting, {"n_steps": max(twice, 2)})


def reference(setting: Setting, dense: Dense) -> Setting | None:
    """A setting whose error is small beside that of `setting`; None where none is asked for, or none applies."""
    drawn = "n_samples" in setting.hyper and "noise_std" in setting.hyper
    if "baseline" in setting.hyper and not drawn and dense.n_steps is not None:
        hyper = {"baseline", "baseline_special_tokens", KEY}
        kept = {key: value for key, value in setting.hyper.items() if key in hyper}
        rule = kept | {"n_steps": dense.n_steps, "quadrature": "clenshaw_curtis"}
        if (limit := about_of(setting.method).limit) is not None:
            whole = replace(setting, method=limit, backend="native", hyper=rule)
            return replace(whole, reduction="sum") if setting.reduction == "none" else whole
    if drawn and dense.n_samples is not None and "n_steps" not in setting.hyper:
        more = {"n_samples": dense.n_samples, "sampler": "antithetic"}
        found = _native(setting, more | {"relative_error": None, "max_samples": None})
        return None if found is None else replace(found, seed=setting.seed + OTHER_SEED)
    return None


def _native(setting: Setting, change: Mapping[str, Any]) -> Setting | None:
    found = replace(setting, backend="native", hyper={**setting.hyper, **change})
    return None if lacks("native", setting.method, found.hyper) else found


def companions(settings: Sequence[Setting], dense: Dense) -> list[tuple[Setting, str, Setting]]:
    """Each setting that is compared, what it is compared with (`REFERENCE`, `DOUBLED`), and that companion."""
    pairs = []
    for setting in settings:
        if (other := reference(setting, dense)) is not None:
            pairs.append((setting, REFERENCE, other))
        elif (other := doubled(setting)) is not None:
            pairs.append((setting, DOUBLED, other))
    return pairs


def convergence_rows(
    block: OpenBlock,
    maps: Mapping[str, Sequence[AttributionMap]],
    settings: Sequence[Setting],
    dense: Dense,
) -> list[dict[str, Any]]:
    """For each example of the block and each setting, how far its map is from that of its companion.

    `maps` are those of `settings` on at least the block's examples, by setting id.
    """
    pairs = companions(settings, dense)
    others = block.explain(list({other.id: other for _, _, other in pairs}.values()))
    rows = []
    for setting, against, other in pairs:
        own = {one.example_id: one for one in maps[setting.id]}
        rows += [_row(own[one.example_id], one, against) for one in others[other.id]]
    return rows


def _row(attribution: AttributionMap, reference: AttributionMap, against: str) -> dict[str, Any]:
    finite = attribution.finite and reference.finite
    scale = float(np.abs(reference.scores).max(initial=0.0))
    apart = float(np.abs(attribution.scores - reference.scores).max(initial=0.0))
    return {
        "setting_id": attribution.setting["setting_id"],
        "example_id": attribution.example_id,
        "against": against,
        "tau": _tau(attribution, reference) if finite else None,
        "error": apart / scale if finite and scale > 0 else None,
    }


def _tau(attribution: AttributionMap, reference: AttributionMap) -> float | None:
    try:
        return kendall_tau(attribution.scores, reference.scores, np.array(attribution.attributable))
    except NotApplicable:
        return None
