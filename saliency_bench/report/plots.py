"""Figures that compare methods: curves, metrics, agreement, cost."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from saliency_bench.core.errors import counted
from saliency_bench.core.labels import arrow, metric_label, same_evidence_words, unit_label
from saliency_bench.core.method_facts import facts_of, is_reference
from saliency_bench.core.rows import OK
from saliency_bench.core.texts import index_of, per_text
from saliency_bench.report import style
from saliency_bench.report.analysis import Analysis
from saliency_bench.report.charts import FROM_ENDS, bars, ends, matrix
from saliency_bench.report.stats import intervals

_SEEN = 0.005  # curves that are nearer than this everywhere look like one
_FRACTIONS = np.linspace(0, 1, 21)
_PANELS = 3  # beside each other
_ROWS = 3  # of panels, at most: the tables have every metric
_BESIDE = 3.2  # inches of names and of a colour bar beside a matrix
_FEW = 3  # up to so many bars, two rows of panels are enough
_TITLE_CHARACTERS = 23
#: The costs of a map: the base of the logarithmic scale, and the label.
_COSTS = {"n_gradients": (2, "Gradients per example"), "seconds": (10, "Time per example (s)")}
_FEW_DECADES = 50  # up to this ratio of its ends, an axis has ticks between the powers of ten
_HOLLOW = "white"


def curves(analysis: Analysis) -> Figure | None:
    """Draws the probability against the fraction of removed, and of kept, tokens, with bands."""
    grids = {}
    for key in analysis.drawn:  # one at a time, since all curves of a large study need much memory
        if len(rows := analysis.curves(key)):
            grids[key] = [_on_grid(rows, name) for name in ("deletion", "insertion")]
    drawn = list(grids)
    if not drawn:
        return None
    figure = Figure(figsize=(style.WIDTH, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    marks = style.signs([analysis.setting(key) for key in drawn])
    above = _lying_on_others(grids)
    for key in drawn:
        for axes, values in zip((left, right), grids[key], strict=True):
            _curve(axes, analysis, key, values, marks[key], dotted=key in above)
    left.set(title="Deletion ↓", xlabel="Fraction of tokens removed, top first", xlim=(0, 1))
    right.set(title="Insertion ↑", xlabel="Fraction of tokens kept, top first", xlim=(0, 1))
    left.set_ylabel("Probability of the explained class")
    for axes in (left, right):
        axes.grid(axis="y")
    style.shared_legend(figure)
    bands = "bands" if all(map(style.leads, marks.values())) else "bands, one for each colour"
    words = f"Mean over {counted(analysis.n_examples, 'example')}; {bands}: {_interval(analysis)}."
    hidden = " Dashed: Captum; where it is not seen it lies on a solid line."
    words += hidden if _both_backends(analysis) else ""
    words += " Dotted: lies on the line beneath." if above else ""
    style.note(figure, words + analysis.drawn_words)
    return figure


def _lying_on_others(grids: Mapping[str, Sequence[Float[np.ndarray, "N K"]]]) -> set[str]:
    """Returns the settings whose mean curves look like those of a setting that is drawn before."""
    means = {
        key: np.concatenate([values.mean(0) for values in grid]) for key, grid in grids.items()
    }
    keys = list(means)
    return {
        key
        for place, key in enumerate(keys)
        if any(np.abs(means[key] - means[other]).max() < _SEEN for other in keys[:place])
    }


def _curve(
    axes: Axes,
    analysis: Analysis,
    key: str,
    values: Float[np.ndarray, "N K"],
    sign: str,
    *,
    dotted: bool,
) -> None:
    setting = analysis.setting(key)
    is_random = facts_of(setting).role == "chance"
    table = pd.DataFrame({"at": _FRACTIONS, "mean": values.mean(0)})
    table["low"] = table["high"] = table["mean"]
    if banded := not is_reference(setting) and style.leads(sign):
        table["low"], table["high"] = intervals(values, analysis.resampling)
    sns.lineplot(
        ends(table, ["at"]),
        x="at",
        y="value",
        label=style.literal(analysis.labels[key]),
        legend=False,
        zorder=2 if is_random else 3,
        err_kws={"alpha": 0.28 if is_random else 0.12, "lw": 0},
        ax=axes,
        **FROM_ENDS | ({} if banded else {"errorbar": None}),
        **style.stroke(setting, sign)
        | ({} if not dotted or is_reference(setting) else style.DOTTED),
    )


def _on_grid(rows: pd.DataFrame, name: str) -> Float[np.ndarray, "N K"]:
    """Returns the curve of every text at common fractions of its tokens, interpolated linearly."""
    keys = index_of(rows)
    points = rows[[*keys, name]].assign(at=rows["k"] / rows["n_units"]).sort_values([*keys, "at"])
    starts = np.flatnonzero(~points.duplicated(keys))
    columns = (np.split(points[column].to_numpy(float), starts[1:]) for column in ("at", name))
    interpolated = [np.interp(_FRACTIONS, *curve) for curve in zip(*columns, strict=True)]
    index = pd.MultiIndex.from_frame(points[keys].iloc[starts])
    return np.asarray(per_text(pd.DataFrame(interpolated, index=index)))


def metric_bars(analysis: Analysis) -> Figure | None:
    """Draws the mean of the first metrics for each method, with intervals, in a panel each."""
    metrics = [metric for metric in analysis.metrics if _has_two_methods(analysis, metric)]
    if not metrics:
        return None
    _, n_lines = style.wrapped(analysis.labels[key] for key in analysis.drawn)
    row = 0.75 + max(0.19, 0.15 * n_lines) * len(analysis.drawn)
    most = _ROWS if len(analysis.drawn) > _FEW else _ROWS - 1
    n_rows = max(1, min(most, -(-len(metrics) // _PANELS), int((style.HEIGHT - 0.4) // row)))
    n_metrics = len(metrics)
    metrics = metrics[: n_rows * _PANELS]
    figure = Figure(figsize=(style.WIDTH, n_rows * row + 0.4), layout="constrained")
    grid = figure.subplots(n_rows, min(_PANELS, len(metrics)), sharey=True, squeeze=False)
    panels = list(grid.flat)
    for axes, metric in zip(panels, metrics, strict=False):
        _bars(axes, analysis, metric)
    for axes in panels[len(metrics) :]:
        axes.remove()
    some = f" {len(metrics)} of {n_metrics} metrics." if len(metrics) < n_metrics else ""
    hatched = " Hatched: Captum." if _both_backends(analysis) else ""
    style.note(
        figure,
        f"Mean over {_over(analysis, metrics)}; whiskers: {_interval(analysis)}.{hatched}"
        f"{same_evidence_words(metrics)}{some}{analysis.drawn_words}",
    )
    return figure


def _over(analysis: Analysis, metrics: Sequence[str]) -> str:
    """Returns the number of examples of the means, in words: some metrics have no value for some texts."""
    summary = analysis.summary
    drawn = summary["setting_id"].isin(analysis.drawn) & summary["metric"].isin(metrics)
    counts = summary[drawn].groupby("metric")["n"].max()
    least, most = (int(end) for end in (counts.min(), counts.max()))
    if least == analysis.n_examples:
        return counted(analysis.n_examples, "example")
    if least == most:
        return f"the {most} of {counted(analysis.n_examples, 'example')} that have a value"
    return f"the {least} to {most} of {counted(analysis.n_examples, 'example')} that have a value, by metric"


def _has_two_methods(analysis: Analysis, metric: str) -> bool:
    drawn = [key for key in analysis.drawn if analysis.estimate(key, metric)]
    return len({analysis.setting(key)["method"] for key in drawn}) > 1


def _bars(axes: Axes, analysis: Analysis, metric: str) -> None:
    beside: dict[str, Any] = {
        "transform": axes.get_yaxis_transform(),
        "va": "center",
        "color": "#777777",
    }
    estimates = {key: analysis.estimate(key, metric) for key in analysis.drawn}
    measured = {key: estimate for key, estimate in estimates.items() if estimate}
    table = pd.DataFrame({"key": key, **estimate._asdict()} for key, estimate in measured.items())
    shades = {key: style.color(analysis.setting(key)) for key in analysis.drawn}
    bars(axes, table, shades, y="key", width=0.72)
    for bar, key in zip(axes.patches, measured, strict=True):
        if is_reference(analysis.setting(key)):
            bar.set_hatch("////")
    for place, estimate in enumerate(estimates.values()):
        if estimate is None:
            axes.text(0.02, place, "n/a", size=7, **beside)
    row = analysis.summary[analysis.summary["metric"] == metric].iloc[0]
    unit = unit_label(row["unit"] or "")
    # The arrow stays on one line with the last word.
    title = f"{metric_label(metric)}\N{NO-BREAK SPACE}{arrow(analysis.higher_is_better(metric))}"
    lines = textwrap.fill(title, _TITLE_CHARACTERS).replace("\N{NO-BREAK SPACE}", " ")
    axes.set_title(lines.strip(), loc="left")
    axes.set_xlabel(unit)
    labels, _ = style.wrapped(analysis.labels[key] for key in analysis.drawn)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0)
    axes.axvline(0, color="#444444", lw=0.7)
    axes.spines["left"].set_visible(False)


def agreement(analysis: Analysis) -> Figure | None:
    """Draws the mean Kendall τ-b between the token scores of every two methods."""
    rows = analysis.run.tables["agreement"]
    rows = rows[(rows["status"] == OK) & (rows["metric"] == "kendall_tau")]
    pairs = rows.groupby(["setting_a", "setting_b"], observed=True)["value"].mean().unstack()
    means = pairs.combine_first(pairs.T)
    drawn = [key for key in analysis.drawn if key in means.index]
    if len(drawn) < 3:
        return None
    values = means.reindex(index=drawn, columns=drawn).to_numpy(copy=True)
    np.fill_diagonal(values, 1.0)
    labels, n_lines = style.wrapped(analysis.labels[key] for key in drawn)
    width = min(style.WIDTH, _BESIDE + 0.55 * len(drawn))
    height = 0.8 + max(0.32, 0.15 * n_lines) * len(drawn)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    # Columns have the numbers of the rows, since names of several lines would overlap.
    matrix(
        axes,
        values,
        rows=[f"{label}  {place}" for place, label in enumerate(labels, 1)],
        columns=[str(place) for place in range(1, len(drawn) + 1)],
        label="Mean Kendall τ-b",
        cmap="RdBu_r",
        vmin=-1,
        vmax=1,
    )
    axes.xaxis.tick_top()
    style.note(
        figure,
        f"Mean over {counted(analysis.n_examples, 'example')} of the rank correlation of token scores."
        f"{analysis.drawn_words}",
    )
    return figure


def cost(analysis: Analysis) -> Figure | None:
    """Draws the primary metric against gradients and against seconds per example; None if neither varies."""
    metric = analysis.primary
    drawn = [key for key in analysis.drawn if metric and analysis.estimate(key, metric)]
    varying = [by for by in _COSTS if _n_costs(analysis, drawn, by) > 1]
    if metric is None or not varying:
        return None
    figure = Figure(figsize=(style.WIDTH, 3.0), layout="constrained")
    panels = figure.subplots(1, len(varying), sharey=True, squeeze=False)[0]
    for axes, by in zip(panels, varying, strict=True):
        _cost_panel(axes, analysis, drawn, metric, by)
    panels[0].set_ylabel(
        f"{metric_label(metric)} {arrow(analysis.higher_is_better(metric))}".strip()
    )
    style.shared_legend(figure)
    points = [line.get_markerfacecolor() for axes in panels for line in axes.get_lines()]
    hollow = " Hollow: Captum." if _HOLLOW in points else ""
    style.note(
        figure,
        f"Whiskers: {_interval(analysis)}; bands: those of what takes no gradient. "
        f"Points of equal cost are moved apart.{hollow}{analysis.drawn_words}",
    )
    return figure


def _n_costs(analysis: Analysis, drawn: Sequence[str], by: str) -> int:
    """Counts the different costs above 0."""
    costs = analysis.costs.loc[list(drawn), by]
    return int(costs[costs > 0].nunique())


def _cost_panel(axes: Axes, analysis: Analysis, drawn: Sequence[str], metric: str, by: str) -> None:
    costs = {key: float(analysis.costs.loc[key, by]) for key in drawn}
    marks = style.signs([analysis.setting(key) for key in drawn])
    for key, x in costs.items():
        estimate, setting = analysis.estimate(key, metric), analysis.setting(key)
        if estimate is None or np.isnan(x):
            continue
        shade, name = style.color(setting), style.literal(analysis.labels[key])
        if by == "n_gradients" and x == 0:
            axes.axhspan(estimate.low, estimate.high, color=shade, alpha=0.12, lw=0)
            axes.axhline(estimate.mean, color=shade, lw=1.0, ls=":", zorder=1, label=name)
            continue
        equal_cost = [other for other in drawn if costs[other] == x]
        aside = equal_cost.index(key) - (len(equal_cost) - 1) / 2
        point = {"cost": x * 2 ** (0.16 * aside), **estimate._asdict()}
        sns.lineplot(
            ends(pd.DataFrame([point]), ["cost"]),
            x="cost",
            y="value",
            label=name,
            legend=False,
            linestyle="none",
            color=shade,
            marker=style.marker(setting, marks[key]),
            markersize=5,
            markerfacecolor=_HOLLOW if is_reference(setting) else shade,
            markeredgecolor=shade,
            markeredgewidth=1.2,
            err_style="bars",
            err_kws={"elinewidth": 1.2, "zorder": 1.9},  # not seen in hollow points
            ax=axes,
            **FROM_ENDS,
        )
    base, label = _COSTS[by]
    axes.set_xscale("log", base=base)
    axes.set(xlabel=label, ylabel="")
    _plain_ticks(axes, base)
    axes.grid(axis="y")


def _plain_ticks(axes: Axes, base: int) -> None:
    """Writes the ticks of a logarithmic x-axis as plain numbers, few enough to stand beside each other."""
    low, high = axes.get_xlim()
    between = (1.0, 2.0, 5.0) if base == 10 and high / low < _FEW_DECADES else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(base, subs=between))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _both_backends(analysis: Analysis) -> bool:
    return len({analysis.setting(key)["backend"] for key in analysis.drawn} - {"none"}) > 1


def _interval(analysis: Analysis) -> str:
    return analysis.resampling.words
