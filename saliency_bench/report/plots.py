"""Figures that compare methods: curves, metrics, agreement, cost."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter

from saliency_bench.report.analysis import Analysis
from saliency_bench.report.labels import arrow, metric_label, unit_label
from saliency_bench.report.style import WIDTH, color, ink_on, literal, marker, note, stroke, wrapped
from saliency_bench.report.table import Estimate
from saliency_bench.rows import OK
from saliency_bench.stats import index_of, intervals, per_text

_FRACTIONS = np.linspace(0, 1, 21)
_PANELS, _MOST_PANELS = 3, 9  # beside each other, and in all; the tables have every metric
_HALO = [withStroke(linewidth=2.6, foreground="white")]


def curves(analysis: Analysis) -> Figure | None:
    """Probability against the fraction of tokens dropped, and kept, with bands."""
    found = analysis.curves
    drawn = [key for key in analysis.drawn if key in set(found["setting_id"])]
    if not drawn:
        return None
    figure = Figure(figsize=(WIDTH, 3.5 + 0.14 * len(drawn)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for key in drawn:
        own = found[found["setting_id"] == key]
        for axes, name in ((left, "deletion"), (right, "insertion")):
            _curve(axes, analysis, key, _on_grid(own, name))
    left.set(title="Deletion ↓", xlabel="Fraction of tokens removed, top first", xlim=(0, 1))
    right.set(title="Insertion ↑", xlabel="Fraction of tokens kept, top first", xlim=(0, 1))
    left.set_ylabel("Probability of the explained class")
    for axes in (left, right):
        axes.grid(axis="y")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    words = f"Mean over {analysis.n_examples} examples; bands: {_interval(analysis)}."
    hidden = " A dashed line (Captum) that is not seen lies on the solid one."
    note(figure, words + (hidden if _both_backends(analysis) else ""))
    return figure


def _curve(axes: Axes, analysis: Analysis, key: str, values: Float[np.ndarray, "N K"]) -> None:
    setting = analysis.setting(key)
    is_random = setting["method"] == "random"
    if setting["backend"] != "captum":
        low, high = intervals(values, analysis.resampling)
        shade, strength = color(setting["method"]), 0.28 if is_random else 0.12
        axes.fill_between(_FRACTIONS, low, high, color=shade, alpha=strength, lw=0)
    order = 2 if is_random else 3
    axes.plot(
        _FRACTIONS,
        values.mean(0),
        label=literal(analysis.labels[key]),
        zorder=order,
        **stroke(setting),
    )


def _on_grid(own: pd.DataFrame, name: str) -> Float[np.ndarray, "N K"]:
    """The curve of every text at common fractions of its tokens, linear between its points."""
    keys = index_of(own)
    found = {
        key: np.interp(_FRACTIONS, one["k"] / one["n_units"], one[name])
        for key, one in own.sort_values("k").groupby(keys)
    }
    index = pd.MultiIndex.from_tuples(list(found), names=keys)
    return np.asarray(per_text(pd.DataFrame(np.stack([*found.values()]), index=index)))


def metric_bars(analysis: Analysis) -> Figure | None:
    """The mean of the first metrics for each method, with intervals, a panel each."""
    metrics = [one for one in analysis.metrics if _has_two_methods(analysis, one)][:_MOST_PANELS]
    if not metrics:
        return None
    n_rows = -(-len(metrics) // _PANELS)
    _, n_lines = wrapped(analysis.labels[key] for key in analysis.drawn)
    height = n_rows * (0.6 + max(0.19, 0.14 * n_lines) * len(analysis.drawn)) + 0.4
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    grid = figure.subplots(n_rows, min(_PANELS, len(metrics)), sharey=True, squeeze=False)
    panels = list(grid.flat)
    for axes, metric in zip(panels, metrics, strict=False):
        _bars(axes, analysis, metric)
    for axes in panels[len(metrics) :]:
        axes.remove()
    panels[0].invert_yaxis()
    hatched = " Hatched: Captum." if _both_backends(analysis) else ""
    note(
        figure,
        f"Mean over {analysis.n_examples} examples; whiskers: {_interval(analysis)}.{hatched}",
    )
    return figure


def _has_two_methods(analysis: Analysis, metric: str) -> bool:
    drawn = [key for key in analysis.drawn if analysis.estimate(key, metric)]
    return len({analysis.setting(key)["method"] for key in drawn}) > 1


def _bars(axes: Axes, analysis: Analysis, metric: str) -> None:
    beside: dict[str, Any] = {
        "transform": axes.get_yaxis_transform(),
        "va": "center",
        "color": "#777777",
    }
    for place, key in enumerate(analysis.drawn):
        if (one := analysis.estimate(key, metric)) is None:
            axes.text(0.02, place, "n/a", size=7, **beside)
            continue
        setting = analysis.setting(key)
        hatch = "////" if setting["backend"] == "captum" else None
        shade, ends = color(setting["method"]), [one.low, one.high]
        axes.barh(place, one.mean, 0.72, color=shade, hatch=hatch, edgecolor="white", lw=0)
        axes.plot(ends, [place, place], color="#222222", lw=1.0, path_effects=_HALO)
    own = analysis.summary[analysis.summary["metric"] == metric].iloc[0]
    better = None if pd.isna(own["higher_is_better"]) else bool(own["higher_is_better"])
    unit = unit_label(own["unit"] or "")
    axes.set_title(f"{metric_label(metric)} {arrow(better)}".strip(), loc="left")
    axes.set_xlabel(unit)
    labels, _ = wrapped(analysis.labels[key] for key in analysis.drawn)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0)
    axes.axvline(0, color="#444444", lw=0.7)
    axes.spines["left"].set_visible(False)


def agreement(analysis: Analysis) -> Figure | None:
    """Mean Kendall τ-b between the token scores of every two methods."""
    found = analysis.run.tables["agreement"]
    ok = found[(found["status"] == OK) & (found["metric"] == "kendall_tau")]
    means = ok.groupby(["setting_a", "setting_b"])["value"].mean().to_dict()
    drawn = [key for key in analysis.drawn if any(key in pair for pair in means)]
    if len(drawn) < 3:
        return None
    values = np.array([[_mean_tau(means, a, b) for b in drawn] for a in drawn])
    labels, n_lines = wrapped(analysis.labels[key] for key in drawn)
    side = 2.4 + max(0.42, 0.16 * n_lines) * len(drawn)
    figure = Figure(figsize=(min(side + 1.0, WIDTH), min(side, WIDTH - 1.0)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(values):
        _cell_text(axes, column, row, value, ink_on(image, value))
    # Columns have the numbers of the rows: names of several lines would lie on each other.
    axes.set_xticks(range(len(drawn)), [str(place) for place in range(1, len(drawn) + 1)])
    numbered = [f"{label}  {place}" for place, label in enumerate(labels, 1)]
    axes.set_yticks(range(len(drawn)), numbered)
    axes.xaxis.tick_top()
    _bare(axes)
    figure.colorbar(image, ax=axes, label="Mean Kendall τ-b", shrink=0.8, aspect=30)
    note(
        figure, f"Mean over {analysis.n_examples} examples of the rank correlation of token scores."
    )
    return figure


def _mean_tau(means: dict[tuple[str, str], float], a: str, b: str) -> float:
    return 1.0 if a == b else means.get((a, b), means.get((b, a), np.nan))


def _cell_text(axes: Axes, x: int, y: int, value: float, shade: str) -> None:
    text = "–" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
    axes.text(x, y, text, ha="center", va="center", size=7.5, color=shade)


def _bare(axes: Axes) -> None:
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def cost(analysis: Analysis) -> Figure | None:
    """The primary metric against gradients, and against seconds, per example."""
    metric = analysis.primary
    drawn = [key for key in analysis.drawn if metric and analysis.estimate(key, metric)]
    costs = analysis.costs
    if metric is None or (costs.loc[drawn, "n_gradients"] > 0).sum() < 2:
        return None
    timed = bool((costs.loc[drawn, "seconds"] > 0).any())
    figure = Figure(
        figsize=(WIDTH if timed else 4.2, 3.1 + 0.12 * len(drawn)), layout="constrained"
    )
    panels = figure.subplots(1, 1 + timed, sharey=True, squeeze=False)[0]
    _cost_panel(panels[0], analysis, drawn, metric, "n_gradients")
    panels[0].set_xscale("log", base=2)
    panels[0].set_xlabel("Gradients per example")
    panels[0].set_ylabel(f"{metric_label(metric)} {arrow(_direction(analysis, metric))}".strip())
    if timed:
        _cost_panel(panels[1], analysis, drawn, metric, "seconds")
        panels[1].set_xscale("log")
        panels[1].set_xlabel("Time per example (s)")
    for axes in panels:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    handles, names = panels[-1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2)
    note(
        figure,
        f"Whiskers: {_interval(analysis)}; bands: those of rankings that take no gradient. "
        "Points of equal cost are moved apart.",
    )
    return figure


def _cost_panel(axes: Axes, analysis: Analysis, drawn: Sequence[str], metric: str, by: str) -> None:
    costs = {key: float(analysis.costs.loc[key, by]) for key in drawn}
    for key, x in costs.items():
        one = analysis.estimate(key, metric)
        if one is None or np.isnan(x):
            continue
        if by == "n_gradients" and x == 0:
            shade = color(analysis.setting(key)["method"])
            axes.axhspan(one.low, one.high, color=shade, alpha=0.12, lw=0)
            axes.axhline(one.mean, color=shade, lw=1.0, ls=":", label=literal(analysis.labels[key]))
            continue
        together = [other for other in drawn if costs[other] == x]
        aside = together.index(key) - (len(together) - 1) / 2
        _cost_point(axes, analysis, key, x * 2 ** (0.16 * aside), one)
    axes.grid(axis="y")


def _cost_point(axes: Axes, analysis: Analysis, key: str, x: float, one: Estimate) -> None:
    setting = analysis.setting(key)
    shade = color(setting["method"])
    face = "white" if setting["backend"] == "captum" else shade
    axes.plot([x, x], [one.low, one.high], color=shade, lw=1.2)
    label = literal(analysis.labels[key])
    axes.plot(x, one.mean, marker(setting), ms=5, color=shade, mfc=face, mew=1.2, label=label)


def _direction(analysis: Analysis, metric: str) -> bool | None:
    value = analysis.summary.loc[analysis.summary["metric"] == metric, "higher_is_better"].iloc[0]
    return None if pd.isna(value) else bool(value)


def _both_backends(analysis: Analysis) -> bool:
    return len({analysis.setting(key)["backend"] for key in analysis.drawn} - {"none"}) > 1


def _interval(analysis: Analysis) -> str:
    return f"{100 * analysis.resampling.confidence:g} % BCa bootstrap intervals"
