"""The result of a run in a sentence, from the same paired differences as its tables."""

import math
from collections.abc import Sequence

import pandas as pd

from saliency_bench.core.errors import counted
from saliency_bench.core.labels import listed, metric_label
from saliency_bench.core.method_facts import competes, facts_of
from saliency_bench.report import stats
from saliency_bench.report.analysis import Analysis
from saliency_bench.report.parity import Parity, parities
from saliency_bench.report.table import Estimate

_FEWEST, _DIGITS, _NAMED = 6, 3, 3


def verdict(analysis: Analysis) -> str:
    """Names the best setting by the primary metric and those that it is ahead of; "" without two settings to compare.

    A setting is ahead of another if the interval of their paired difference lies above 0, in the digits that are shown too,
    and, in a study that makes claims, if they share no letter. With fewer than 6 texts none is: no set of differences would be
    significant at 5 % by a two-sided sign or signed-rank test (2 / 2^5 is more).
    """
    metric, (best, *others) = analysis.primary, _contestants(analysis) or [""]
    if metric is None or not others:
        return ""
    rows = analysis.rows[analysis.rows["metric"] == metric]
    rows = rows[rows["setting_id"].isin([best, *others])]
    gains = _gains(
        stats.compare(rows, best, analysis.resampling), analysis.higher_is_better(metric)
    )
    others = [key for key in others if key in gains]
    behind = [
        key
        for key in others
        if analysis.n_examples >= _FEWEST
        and round(gains[key].low, _DIGITS) > 0
        and not _share_letter(analysis, best, key)
    ]
    near = [key for key in others if key not in behind]
    label, name = plain_label(analysis, best), metric_label(metric)
    parts = []
    if near:
        words = [_beside(analysis, key, gains[key]) for key in near]
        if len(words) > _NAMED:
            words[_NAMED:] = [f"{len(words) - _NAMED} more"]
        parts.append(f"In {name}, {label} is first, but not told apart from {listed(words)}")
    if behind:
        first, n_more = behind[0], len(behind) - 1
        ahead = f"ahead of {_beside(analysis, first, gains[first])}"
        ahead += f" and of {n_more} more" * (n_more > 0)
        parts.append(f"it is {ahead}" if near else f"In {name}, {label} is {ahead}")
    return f"{'; '.join(parts)}. {_how_sure(analysis)}" if parts else ""


def plain_label(analysis: Analysis, setting_id: str) -> str:
    """Returns the label of one of our settings without the word that distinguishes it from Captum's."""
    return analysis.labels[setting_id].replace(" (native)", "")


def _contestants(analysis: Analysis) -> list[str]:
    """Returns the shown settings with a value, the best first, without chance, bounds and Captum's twins."""
    metric = analysis.primary
    if metric is None or analysis.higher_is_better(metric) is None:
        return []
    settings = [analysis.setting(key) for key in analysis.shown]
    return [
        setting["setting_id"]
        for setting in settings
        if competes(setting) and analysis.estimate(setting["setting_id"], metric) is not None
    ]


def _gains(compared: pd.DataFrame, higher_is_better: bool | None) -> dict[str, Estimate]:
    """Returns by setting the amount by which the best is better: positive in either direction of better."""
    sign = -1 if higher_is_better else 1  # differences are of the other, minus the best
    return {
        row.setting_id: Estimate(sign * row.difference, *sorted((sign * row.low, sign * row.high)))
        for row in compared.itertuples()
    }


def _share_letter(analysis: Analysis, *keys: str) -> bool:
    """Whether settings share a letter, so that a study that makes claims finds no difference between them."""
    return bool(set.intersection(*(set(analysis.groups.get(key, "")) for key in keys)))


def _beside(analysis: Analysis, key: str, gain: Estimate) -> str:
    mean, *ends = (f"{value:z.{_DIGITS}f}" for value in gain if not math.isnan(value))
    interval = f" [{', '.join(ends)}]" if ends else ""
    return f"{plain_label(analysis, key)} (by {mean}{interval})"


def _how_sure(analysis: Analysis) -> str:
    texts = counted(analysis.n_examples, "text")
    if analysis.n_examples == 1:
        return f"{texts}, which gives no interval: a first look, no claim."
    return f"{texts}." if analysis.claims else f"{texts}: a first look, no claim."


def twins(analysis: Analysis) -> str:
    """Returns the differences from Captum of the settings that it computes too, in words; "" if there are none."""
    compared = parities(analysis.run)
    if not compared:
        return ""
    names = listed([facts_of(analysis.setting(pair.setting_id)).label for pair in compared])
    same = "the same scores" if agree(compared) else "other scores"
    worst = max(pair.relative for pair in compared)
    n_texts = min(pair.n_examples for pair in compared)
    words = (
        f"the largest difference is {worst:.0e} of a text's largest score"
        if worst
        else "to the bit"
    )
    return f"Captum gives {same} for {names}: {words} ({counted(n_texts, 'text')})."


def agree(compared: Sequence[Parity]) -> bool:
    """Whether all of our settings agree with Captum's within the tolerance."""
    return all(pair.verdict == "agrees" for pair in compared)
