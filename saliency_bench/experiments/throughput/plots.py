"""Figures of the throughput benchmark."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from saliency_bench.core.rows import MATMUL
from saliency_bench.experiments.throughput.report import LABELS, cases, ratio
from saliency_bench.report.charts import bars, lines
from saliency_bench.report.style import (
    WIDTH,
    contestant_stroke,
    literal,
    note,
    shared_legend,
    wrapped,
)
from saliency_bench.report.table import Estimate

#: Sections that are drawn as lines: the column on the axis, and its label.
_AXES = {
    "budget": ("token_budget", "Token budget"),
    "length": ("length", "Length of every text (tokens)"),
    "steps": ("n_steps", "Steps"),
}
_SWEEP = ("ours_sweep", "ours_largest", "captum_sweep")


def scaling(rows: pd.DataFrame) -> Figure | None:
    """Useful work per second over token budgets, lengths and steps, a panel each."""
    timed = rows[rows["seconds"].notna() & rows["useful_flop"].notna()]
    sections = [name for name in _AXES if timed[timed["section"] == name]["case"].nunique() > 1]
    if not sections:
        return None
    width = min(WIDTH, 1.2 + 2.6 * len(sections))
    figure = Figure(figsize=(width, 2.9), layout="constrained")
    panels = figure.subplots(1, len(sections), sharey=True, squeeze=False)[0]
    for axes, section in zip(panels, sections, strict=True):
        _lines(axes, timed[timed["section"] == section], *_AXES[section])
    panels[0].set_ylabel("Useful GFLOP/s ↑")
    panels[0].set_ylim(bottom=0)
    shared_legend(figure)
    note(
        figure,
        "Medians of interleaved repeats, whiskers: fastest and slowest. Arithmetic that the gradients of the texts "
        "need, padding not counted. Grey: matrix products alone, in the same repeats.",
    )
    return figure


def _lines(axes: Axes, rows: pd.DataFrame, key: str, label: str) -> None:
    names = {name: literal(LABELS.get(name, name)) for name in rows["contestant"].unique()}
    rates = pd.DataFrame(
        {
            "at": rows[key].astype(int),
            "value": 1e-9 * rows["useful_flop"].astype(float) / rows["seconds"].astype(float),
            "name": rows["contestant"].map(names),
        }
    )
    ceiling = rows["contestant"] == MATMUL
    for chosen, stroke in ((~ceiling, "-"), (ceiling, ":")):
        if chosen.any():
            chosen_names = rows.loc[chosen, "contestant"].unique()
            looks = {names[name]: contestant_stroke(name) for name in chosen_names}
            lines(axes, rates[chosen], looks, x="at", by="name", linestyle=stroke)
    ticks = sorted(rows[key].astype(int).unique())
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)
    axes.margins(x=0.08)
    axes.grid(axis="y")


def ratios(rows: pd.DataFrame) -> Figure | None:
    """Speed of all contestants over that of Captum sorted and tuned, on mixed lengths."""
    main = [timed for (section, _), timed in cases(rows) if section == "contestants"]
    if not main or not (main[0]["contestant"] == "captum_sorted").any():
        return None
    case = main[0]
    names = [name for name in case["contestant"].unique() if name != MATMUL]
    return _bar_figure(
        [("", [(name, ratio(case, "captum_sorted", name)) for name in names])],
        "Speed, Captum sorted and tuned = 1 ↑",
        f"{case['n_examples'].iloc[0]} texts of mixed lengths, {case['n_steps'].iloc[0]} steps: the time of Captum "
        f"over that of each. {_INTERVALS}",
    )


def sweeps(rows: pd.DataFrame) -> Figure | None:
    """The cost of a sweep in units of its largest setting, a panel for each sweep."""
    timed = [(case, of_case) for (section, case), of_case in cases(rows) if section == "sweep"]
    timed = [pair for pair in timed if (pair[1]["contestant"] == "ours_largest").any()]
    if not timed:
        return None
    return _bar_figure(
        [
            (case, [(name, ratio(of_case, name, "ours_largest")) for name in _SWEEP])
            for case, of_case in timed
        ],
        "Time, largest setting alone = 1 ↓",
        f"All settings named above a panel, against our largest one alone. {_INTERVALS}",
    )


_INTERVALS = (
    "Medians of interleaved repeats; whiskers cover the median with at least 95 % from 6 repeats on, else "
    "they are the range."
)


def _bar_figure(
    panels: Sequence[tuple[str, Sequence[tuple[str, Estimate | None]]]], label: str, words: str
) -> Figure:
    n_bars = max(len(timed) for _, timed in panels)
    figure = Figure(figsize=(WIDTH, 1.0 + 0.36 * n_bars), layout="constrained")
    grid: Sequence[Any] = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[
        0
    ]
    largest = max(
        (bar.high for _, timed in panels for _, bar in timed if bar is not None), default=1.0
    )
    for axes, (title, timed) in zip(grid, panels, strict=True):
        _bars(axes, timed, largest)
        axes.set_title(literal(title), loc="left")
        axes.set_xlabel(label)
    note(figure, words)
    return figure


def _bars(axes: Axes, timed: Sequence[tuple[str, Estimate | None]], largest: float) -> None:
    heights = [(name, *bar) for name, bar in timed if bar is not None]
    shades = {name: contestant_stroke(name)[0] for name, _ in timed}
    table = pd.DataFrame(heights, columns=["name", *Estimate._fields])
    bars(axes, table, shades, y="name", width=0.66)
    for place, (_, bar) in enumerate(timed):
        if bar is None:
            axes.text(0.02 * largest, place, "not timed", va="center", size=7, color="#777777")
        else:
            axes.text(bar.high + 0.02 * largest, place, f"{bar.mean:.2f}", va="center", size=7.5)
    axes.axvline(1.0, color="#444444", lw=0.8, ls=":")
    labels, _ = wrapped(LABELS.get(name, name) for name, _ in timed)
    axes.set_yticks(range(len(timed)), labels)
    axes.set_xlim(0, 1.2 * largest)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


FIGURES: dict[str, Callable[[pd.DataFrame], Figure | None]] = {
    "scaling": scaling,
    "ratios": ratios,
    "sweeps": sweeps,
}
