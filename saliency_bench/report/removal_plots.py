"""The figure of a study's results by removal operator."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from saliency_bench.core.errors import counted
from saliency_bench.core.labels import arrow, metric_label
from saliency_bench.report.analysis import Analysis, removals
from saliency_bench.report.charts import matrix
from saliency_bench.report.style import WIDTH, note, shades, wrapped

_FRAME = "#D55E00"  # visible on the dark and on the bright end of the scale


def removal_grid(analysis: Analysis) -> Figure | None:
    """Draws the primary metric of every setting under every removal operator; None with fewer than two of either."""
    operators = removals(analysis.run.manifest)
    metric = analysis.primary
    if metric is None or len(operators) < 2:
        return None
    names = [metric, *(f"{metric} ({operator})" for operator in operators[1:])]
    drawn = [key for key in analysis.shown if any(analysis.estimate(key, name) for name in names)]
    if len(drawn) < 2:
        return None
    means = analysis.summary.pivot(index="setting_id", columns="metric", values="mean")
    values = means.reindex(index=drawn, columns=names).to_numpy()
    labels, n_lines = wrapped(analysis.labels[key] for key in drawn)
    height = 1.4 + max(0.3, 0.15 * n_lines) * len(drawn)
    figure = Figure(figsize=(min(2.6 + 0.8 * len(operators), WIDTH), height), layout="constrained")
    axes = figure.subplots()
    label = f"{metric_label(metric)} {arrow(analysis.higher_is_better(metric))}".strip()
    matrix(axes, values, rows=labels, columns=operators, label=label, **shades(values))
    for row, key in enumerate(drawn):
        for column, operator in enumerate(operators):
            if _circular(analysis.setting(key), operator):
                corner = (column + 0.03, row + 0.03)
                frame = Rectangle(corner, 0.94, 0.94, fill=False, edgecolor=_FRAME, linewidth=1.8)
                axes.add_patch(frame)
    axes.set_xlabel("What replaces removed tokens")
    note(
        figure,
        f"Means over {counted(analysis.n_examples, 'example')}. Framed: the method compares with what replaces removed tokens.",
    )
    return figure


def _circular(setting: Mapping[str, Any], operator: str) -> bool:
    """Whether a method compares with the replacement of an operator, as always if this is the method's own baseline."""
    baseline = setting.get("baseline")
    return operator in (baseline, setting.get("removal")) or (
        operator == "baseline" and baseline is not None
    )
