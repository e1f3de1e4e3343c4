"""How much a study's answer depends on what replaces removed tokens."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from saliency_bench.core.labels import arrow, metric_label
from saliency_bench.report.analysis import Analysis, removals
from saliency_bench.report.style import WIDTH, ink_on, note, shades, wrapped

_FRAME = "#D55E00"  # is seen on the dark and on the bright end of the scale


def removal_grid(analysis: Analysis) -> Figure | None:
    """The primary metric of every setting under every removal operator; None with fewer than two of either."""
    operators = removals(analysis.run.manifest)
    metric = analysis.primary
    if metric is None or len(operators) < 2:
        return None
    names = [metric, *(f"{metric} ({one})" for one in operators[1:])]
    drawn = [key for key in analysis.shown if any(analysis.estimate(key, one) for one in names)]
    if len(drawn) < 2:
        return None
    values = np.array([[_mean(analysis, key, one) for one in names] for key in drawn])
    labels, n_lines = wrapped(analysis.labels[key] for key in drawn)
    height = 1.4 + max(0.3, 0.15 * n_lines) * len(drawn)
    figure = Figure(figsize=(min(2.6 + 0.8 * len(operators), WIDTH), height), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, aspect="auto", **shades(values))
    for (row, column), value in np.ndenumerate(values):
        text = "–" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
        axes.text(column, row, text, ha="center", va="center", size=7.5, color=ink_on(image, value))
    for row, key in enumerate(drawn):
        for column, operator in enumerate(operators):
            if _circular(analysis.setting(key), operator):
                _frame(axes, column, row)
    axes.set_xticks(range(len(operators)), operators)
    axes.set_yticks(range(len(drawn)), labels)
    axes.set_xlabel("What replaces removed tokens")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    label = f"{metric_label(metric)} {arrow(analysis.higher_is_better(metric))}".strip()
    figure.colorbar(image, ax=axes, label=label, aspect=30).outline.set_visible(False)
    note(
        figure,
        f"Means over {analysis.n_examples} examples. Framed: the method compares with what replaces removed tokens.",
    )
    return figure


def _mean(analysis: Analysis, key: str, metric: str) -> float:
    found = analysis.estimate(key, metric)
    return found.mean if found else float("nan")


def _circular(setting: Mapping[str, Any], operator: str) -> bool:
    """Whether a method compares with what an operator puts in; its own baseline always is that."""
    baseline = setting.get("baseline")
    return operator in (baseline, setting.get("removal")) or (
        operator == "baseline" and baseline is not None
    )


def _frame(axes: Axes, column: int, row: int) -> None:
    place = (column - 0.47, row - 0.47)
    axes.add_patch(Rectangle(place, 0.94, 0.94, fill=False, edgecolor=_FRAME, linewidth=1.8))
