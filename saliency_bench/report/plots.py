"""Figures that compare methods: curves, metrics, agreement, cost."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from saliency_bench.core.labels import arrow, metric_label, same_evidence_words, unit_label
from saliency_bench.core.method_facts import facts_of, is_reference
from saliency_bench.core.rows import OK
from saliency_bench.core.texts import index_of, per_text
from saliency_bench.report.analysis import Analysis
from saliency_bench.report.charts import OWN_INTERVAL, bars, ends, matrix
from saliency_bench.report.stats import intervals
from saliency_bench.report.style import (
    HEIGHT,
    WIDTH,
    color,
    leads,
    literal,
    marker,
    note,
    shared_legend,
    signs,
    stroke,
    wrapped,
)
from saliency_bench.report.table import Estimate

_FRACTIONS = np.linspace(0, 1, 21)
_PANELS = 3  # beside each other
_ROWS = 3  # of panels, at most: the tables have every metric
_BESIDE = 3.2  # inches of names and of a colour bar beside a matrix
_FEW = 3  # bars that two rows of panels are enough for
_TITLE_CHARACTERS = 23
#: What a map costs: the base of its scale, and what it is called.
_COSTS = {"n_gradients": (2, "Gradients per example"), "seconds": (10, "Time per example (s)")}
_HOLLOW = "white"


def curves(analysis: Analysis) -> Figure | None:
    """Probability against the fraction of tokens dropped, and kept, with bands."""
    found = {}
    for key in analysis.drawn:  # one after the other: all curves of a large study fill a machine
        if len(own := analysis.curves(key)):
            found[key] = [_on_grid(own, name) for name in ("deletion", "insertion")]
    drawn = list(found)
    if not drawn:
        return None
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    marks = signs([analysis.setting(key) for key in drawn])
    for key in drawn:
        for axes, values in zip((left, right), found[key], strict=True):
            _curve(axes, analysis, key, values, marks[key])
    left.set(title="Deletion ↓", xlabel="Fraction of tokens removed, top first", xlim=(0, 1))
    right.set(title="Insertion ↑", xlabel="Fraction of tokens kept, top first", xlim=(0, 1))
    left.set_ylabel("Probability of the explained class")
    for axes in (left, right):
        axes.grid(axis="y")
    shared_legend(figure)
    bands = "bands" if all(map(leads, marks.values())) else "bands, one for each colour"
    words = f"Mean over {analysis.n_examples} examples; {bands}: {_interval(analysis)}."
    hidden = " Dashed: Captum; where it is not seen it lies on a solid line."
    note(figure, words + (hidden if _both_backends(analysis) else "") + analysis.drawn_words)
    return figure


def _curve(
    axes: Axes, analysis: Analysis, key: str, values: Float[np.ndarray, "N K"], sign: str
) -> None:
    setting = analysis.setting(key)
    is_random = facts_of(setting).role == "chance"
    found = pd.DataFrame({"at": _FRACTIONS, "mean": values.mean(0)})
    found["low"] = found["high"] = found["mean"]
    if banded := not is_reference(setting) and leads(sign):
        found["low"], found["high"] = intervals(values, analysis.resampling)
    sns.lineplot(
        ends(found, ["at"]),
        x="at",
        y="value",
        label=literal(analysis.labels[key]),
        legend=False,
        zorder=2 if is_random else 3,
        err_kws={"alpha": 0.28 if is_random else 0.12, "lw": 0},
        ax=axes,
        **OWN_INTERVAL | ({} if banded else {"errorbar": None}),
        **stroke(setting, sign),
    )


def _on_grid(own: pd.DataFrame, name: str) -> Float[np.ndarray, "N K"]:
    """The curve of every text at common fractions of its tokens, linear between its points."""
    keys = index_of(own)
    text = own.groupby(keys, sort=True).ngroup().to_numpy()
    order = np.lexsort((own["k"], text))
    starts = np.flatnonzero(np.diff(text[order], prepend=-1))
    last = np.append(starts[1:], len(order)) - 1
    at = (own["k"] / own["n_units"]).to_numpy()[order]
    value = own[name].to_numpy(float)[order]
    found = np.empty((len(starts), len(_FRACTIONS)))
    for column, fraction in enumerate(_FRACTIONS):
        before = starts + np.add.reduceat((at <= fraction).astype(int), starts) - 1
        low = np.clip(before, starts, last)
        high = np.clip(
            before + 1, starts, last
        )  # the same point before the first and after the last
        width = np.where(high > low, at[high] - at[low], 1.0)
        slope = (value[high] - value[low]) / width
        found[:, column] = slope * (fraction - at[low]) + value[low]
    index = pd.MultiIndex.from_frame(own[keys].iloc[order[starts]])
    return np.asarray(per_text(pd.DataFrame(found, index=index)))


def metric_bars(analysis: Analysis) -> Figure | None:
    """The mean of the first metrics for each method, with intervals, a panel each."""
    metrics = [one for one in analysis.metrics if _has_two_methods(analysis, one)]
    if not metrics:
        return None
    _, n_lines = wrapped(analysis.labels[key] for key in analysis.drawn)
    row = 0.75 + max(0.19, 0.15 * n_lines) * len(analysis.drawn)
    most = _ROWS if len(analysis.drawn) > _FEW else _ROWS - 1
    n_rows = max(1, min(most, -(-len(metrics) // _PANELS), int((HEIGHT - 0.4) // row)))
    n_metrics = len(metrics)
    metrics = metrics[: n_rows * _PANELS]
    figure = Figure(figsize=(WIDTH, n_rows * row + 0.4), layout="constrained")
    grid = figure.subplots(n_rows, min(_PANELS, len(metrics)), sharey=True, squeeze=False)
    panels = list(grid.flat)
    for axes, metric in zip(panels, metrics, strict=False):
        _bars(axes, analysis, metric)
    for axes in panels[len(metrics) :]:
        axes.remove()
    some = f" {len(metrics)} of {n_metrics} metrics." if len(metrics) < n_metrics else ""
    hatched = " Hatched: Captum." if _both_backends(analysis) else ""
    note(
        figure,
        f"Mean over {_over(analysis, metrics)}; whiskers: {_interval(analysis)}.{hatched}"
        f"{same_evidence_words(metrics)}{some}{analysis.drawn_words}",
    )
    return figure


def _over(analysis: Analysis, metrics: Sequence[str]) -> str:
    """How many examples means of metrics are over, in words: some metrics have no value for some texts."""
    summary = analysis.summary
    drawn = summary["setting_id"].isin(analysis.drawn) & summary["metric"].isin(metrics)
    counts = summary[drawn].groupby("metric")["n"].max()
    least, most = (int(end) for end in (counts.min(), counts.max()))
    if least == analysis.n_examples:
        return f"{analysis.n_examples} examples"
    if least == most:
        return f"the {most} of {analysis.n_examples} examples that have a value"
    return f"the {least} to {most} of {analysis.n_examples} examples that have a value, by metric"


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
    known = {key: one for key, one in estimates.items() if one}
    found = pd.DataFrame({"key": key, **one._asdict()} for key, one in known.items())
    shades = {key: color(analysis.setting(key)) for key in analysis.drawn}
    bars(axes, found, shades, y="key", width=0.72)
    for bar, key in zip(axes.patches, known, strict=True):
        if is_reference(analysis.setting(key)):
            bar.set_hatch("////")
    for place, one in enumerate(estimates.values()):
        if one is None:
            axes.text(0.02, place, "n/a", size=7, **beside)
    own = analysis.summary[analysis.summary["metric"] == metric].iloc[0]
    unit = unit_label(own["unit"] or "")
    # The arrow goes to the next line with the last word, not alone.
    title = f"{metric_label(metric)}\N{NO-BREAK SPACE}{arrow(analysis.higher_is_better(metric))}"
    lines = textwrap.fill(title, _TITLE_CHARACTERS).replace("\N{NO-BREAK SPACE}", " ")
    axes.set_title(lines.strip(), loc="left")
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
    width = min(WIDTH, _BESIDE + 0.55 * len(drawn))
    height = 0.8 + max(0.32, 0.15 * n_lines) * len(drawn)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    # Columns have the numbers of the rows: names of several lines would lie on each other.
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
    note(
        figure,
        f"Mean over {analysis.n_examples} examples of the rank correlation of token scores."
        f"{analysis.drawn_words}",
    )
    return figure


def _mean_tau(means: dict[tuple[str, str], float], a: str, b: str) -> float:
    return 1.0 if a == b else means.get((a, b), means.get((b, a), np.nan))


def cost(analysis: Analysis) -> Figure | None:
    """The primary metric against gradients, and against seconds, per example; None where neither varies."""
    metric = analysis.primary
    drawn = [key for key in analysis.drawn if metric and analysis.estimate(key, metric)]
    varying = [by for by in _COSTS if _n_costs(analysis, drawn, by) > 1]
    if metric is None or not varying:
        return None
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    panels = figure.subplots(1, len(varying), sharey=True, squeeze=False)[0]
    for axes, by in zip(panels, varying, strict=True):
        _cost_panel(axes, analysis, drawn, metric, by)
    panels[0].set_ylabel(
        f"{metric_label(metric)} {arrow(analysis.higher_is_better(metric))}".strip()
    )
    shared_legend(figure)
    points = [line.get_markerfacecolor() for axes in panels for line in axes.get_lines()]
    hollow = " Hollow: Captum." if _HOLLOW in points else ""
    note(
        figure,
        f"Whiskers: {_interval(analysis)}; bands: those of what takes no gradient. "
        f"Points of equal cost are moved apart.{hollow}{analysis.drawn_words}",
    )
    return figure


def _n_costs(analysis: Analysis, drawn: Sequence[str], by: str) -> int:
    """How many different costs there are; what costs nothing does not count."""
    costs = analysis.costs.loc[list(drawn), by]
    return int(costs[costs > 0].nunique())


def _cost_panel(axes: Axes, analysis: Analysis, drawn: Sequence[str], metric: str, by: str) -> None:
    costs = {key: float(analysis.costs.loc[key, by]) for key in drawn}
    marks = signs([analysis.setting(key) for key in drawn])
    for key, x in costs.items():
        one = analysis.estimate(key, metric)
        if one is None or np.isnan(x):
            continue
        if by == "n_gradients" and x == 0:
            shade = color(analysis.setting(key))
            axes.axhspan(one.low, one.high, color=shade, alpha=0.12, lw=0)
            name = literal(analysis.labels[key])
            axes.axhline(one.mean, color=shade, lw=1.0, ls=":", zorder=1, label=name)
            continue
        together = [other for other in drawn if costs[other] == x]
        aside = together.index(key) - (len(together) - 1) / 2
        _cost_point(axes, analysis, key, x * 2 ** (0.16 * aside), one, marks[key])
    base, label = _COSTS[by]
    axes.set_xscale("log", base=base)
    axes.set_xlabel(label)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.grid(axis="y")


def _cost_point(
    axes: Axes, analysis: Analysis, key: str, x: float, one: Estimate, sign: str
) -> None:
    setting = analysis.setting(key)
    shade = color(setting)
    face = _HOLLOW if is_reference(setting) else shade
    axes.plot([x, x], [one.low, one.high], color=shade, lw=1.2)
    label = literal(analysis.labels[key])
    point = marker(setting, sign)
    axes.plot(x, one.mean, point, ms=5, color=shade, mfc=face, mew=1.2, label=label)


def _both_backends(analysis: Analysis) -> bool:
    return len({analysis.setting(key)["backend"] for key in analysis.drawn} - {"none"}) > 1


def _interval(analysis: Analysis) -> str:
    return analysis.resampling.words
