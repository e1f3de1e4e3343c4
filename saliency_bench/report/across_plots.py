"""Figures of several cells: a forest plot of differences and a critical-difference diagram."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from saliency_bench.core.labels import arrow, metric_label
from saliency_bench.report.across import Across, differences_by_cell
from saliency_bench.report.charts import points
from saliency_bench.report.rank_statistics import cliques
from saliency_bench.report.style import HEIGHT, WIDTH, literal, note, shared_legend, wrapped

_LABEL = 38  # characters of a name in one line
_LEGEND = 0.6  # inches that are left for it
_SPREAD = 0.6  # the share of a method's lane in which its cells are drawn
_BAR = 0.018  # the distance of two bars, as a share of the axis of ranks
_TONES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#8A8A8A")
_MARKERS = "osDv^PX*"


def look(number: int) -> tuple[str, str]:
    """Returns the colour and the marker of a cell; no two of the first 64 share both."""
    turn, place = divmod(number, len(_TONES))
    return _TONES[place], _MARKERS[(place + turn) % len(_MARKERS)]


def forest(comparison: Across) -> Figure:
    """Draws every method's paired difference from the reference, a point per cell."""
    places = [place for place, key in enumerate(comparison.keys) if key != comparison.reference]
    names, n_lines = wrapped(
        (comparison.labels[comparison.keys[place]] for place in places), _LABEL
    )
    by_cell = differences_by_cell(comparison)
    height = 0.9 + len(places) * max(0.2, 0.15 * n_lines, 0.1 * len(comparison.cells))
    # The figure is scaled to one page, but names to no less than three quarters of their size.
    smaller = max(min(1.0, (HEIGHT - _LEGEND) / height), 0.75)
    figure = Figure(figsize=(WIDTH, smaller * height), layout="constrained")
    axes = figure.subplots()
    looks = {literal(name): look(number) for number, name in enumerate(comparison.names)}
    ends = pd.DataFrame(
        {"row": comparison.keys[place], "cell": name, **of_cell[place]._asdict()}
        for place in places
        for name, of_cell in zip(looks, by_cell, strict=True)
    )
    points(
        axes,
        ends,
        looks,
        y="row",
        order=[comparison.keys[place] for place in places],
        spread=_SPREAD,
    )
    axes.axvline(0, color="#444444", lw=0.8)
    axes.set_yticks(np.arange(len(places)), names, size=8 * smaller)
    reference = comparison.labels[comparison.reference]
    words = f"{metric_label(comparison.metric)}: difference from {reference}"
    axes.set_xlabel(f"{literal(words)} {arrow(comparison.higher_is_better)}")
    axes.grid(axis="x")
    shared_legend(figure)
    note(
        figure,
        "Mean paired differences in each cell; bars: intervals over its examples."
        f"{comparison.mark_words}",
    )
    return figure


def critical_difference(comparison: Across) -> Figure | None:
    """Draws mean ranks over cells; methods on one bar do not differ (Demšar 2006, figure 1). None if cells are too few."""
    test = comparison.friedman
    if test is None:
        return None
    order = np.argsort(test.mean_ranks, kind="stable")
    names, n_lines = wrapped(
        (comparison.labels[comparison.keys[method]] for method in order), _LABEL
    )
    height = 1.1 + max(0.19, 0.15 * n_lines) * len(order)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    ranks = np.array(test.mean_ranks)[order]
    keys = [comparison.keys[method] for method in order]
    sns.stripplot(x=ranks, y=keys, order=keys, jitter=False, color="#0072B2", size=5, ax=axes)
    axes.hlines(keys, 1, ranks, color="#E3E3E3", lw=0.8, zorder=0)
    groups = cliques(test.mean_ranks, test.critical_difference)
    place = {method: row for row, method in enumerate(order.tolist())}
    for number, group in enumerate(groups):
        rows = [place[method] for method in group]
        x = len(order) + 0.25 + _BAR * len(order) * number
        axes.vlines(x, min(rows) - 0.2, max(rows) + 0.2, color="#D55E00", lw=2.2)
    axes.set_yticks(np.arange(len(order)), names)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlim(0.8, len(order) * (1 + _BAR * max(1, len(groups))) + 0.5)
    axes.set_xlabel(f"Mean rank over {test.n_cells} cells (1 is best)")
    note(
        figure,
        f"Methods on one bar do not differ: their mean ranks are less than {test.critical_difference:.2f} apart (Nemenyi).",
    )
    return figure
