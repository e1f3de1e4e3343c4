"""Figures of the sanity checks, a function for each section that has one."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from saliency_bench.attribution.describe import named
from saliency_bench.core.errors import counted
from saliency_bench.experiments.sanity.report import (
    CASES,
    MEASURES,
    SEED_SECTIONS,
    TAU,
    label,
    means,
    special_labels,
)
from saliency_bench.report.charts import ends, lines, points
from saliency_bench.report.stats import Resampling
from saliency_bench.report.style import HALO, WIDTH, color, legend, literal, note, shared_legend

#: A colour and a marker for each operator of the package; operators from elsewhere take those of `_OTHERS` in turn.
_OPERATORS = {
    "mask": ("#0072B2", "o"),
    "pad": ("#D55E00", "s"),
    "unk": ("#CC79A7", "^"),
    "zero": ("#000000", "D"),
    "mean": ("#8A8A8A", "v"),
    "attention": ("#009E73", "P"),
    "delete": ("#E69F00", "X"),
}
_OTHERS = (("#56B4E9", "<"), ("#7A5195", ">"), ("#8C6D31", "p"), ("#A6761D", "*"))
_DODGE = 0.013  # of all tokens, by which the lines of operators stand beside each other
_TOKENS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#8A8A8A")
_ALL = "all special tokens"
_SEEDS = {
    "noise seeds": ("#0072B2", "o"),
    "training seeds": ("#E69F00", "s"),
    "random labels": ("#000000", "D"),
}


def figures(rows: pd.DataFrame, resampling: Resampling) -> dict[str, Figure]:
    """One for each section that was asked for and has something to show."""
    draw: Mapping[str, tuple[Sequence[str], Callable[[pd.DataFrame, Resampling], Figure]]] = {
        "randomisation": (["randomisation"], randomisation),
        "seeds": (SEED_SECTIONS, seeds),
        "removal": (["removal"], removal),
        "special_tokens": (["special_tokens"], special_tokens),
    }
    made = {}
    for name, (sections, draw_section) in draw.items():
        of_sections = rows[rows["section"].isin(sections)].dropna(subset=["value"])
        if len(of_sections):
            made[name] = draw_section(of_sections, resampling)
    return made


def randomisation(rows: pd.DataFrame, resampling: Resampling) -> Figure:
    """Agreement with the trained model's maps against the parts made random, a panel for each order and measure."""
    orders, measures = list(dict.fromkeys(rows["case"])), list(dict.fromkeys(rows["measure"]))
    figure = Figure(figsize=(WIDTH, 0.9 + 2.3 * len(measures)), layout="constrained")
    grid = figure.subplots(len(measures), len(orders), squeeze=False, sharex="col", sharey=True)
    for (row, column), axes in np.ndenumerate(grid):
        of_panel = rows[(rows["case"] == orders[column]) & (rows["measure"] == measures[row])]
        _against_parts(axes, of_panel, resampling)
        if row == 0:
            axes.set_title(f"Weights made random {CASES[orders[column]]}", loc="left")
        if column == 0:
            axes.set_ylabel(f"{TAU} of {MEASURES[measures[row]]}")
    shared_legend(figure)
    note(
        figure,
        "Agreement of maps with those of the trained model, for the class that it predicts. A method that never looks "
        f"at the model stays at 1. {_over(rows, resampling)}",
    )
    return figure


def _against_parts(axes: Axes, rows: pd.DataFrame, resampling: Resampling) -> None:
    parts = list(dict.fromkeys(rows["level"]))
    averages = means(rows, ["method", "level"], resampling)
    looks = {label(method): (color(named(method)), "o") for method in averages["method"].unique()}
    averages["method"] = averages["method"].map(label)
    averages["level"] = averages["level"].map(parts.index)
    lines(axes, ends(averages, ["level", "method"]), looks, x="level", by="method", band=True)
    axes.axhline(0, color="#888888", linewidth=0.7)
    axes.set_xticks(range(len(parts)), [literal(part) for part in parts], rotation=45, ha="right")
    axes.grid(axis="y")


def seeds(rows: pd.DataFrame, resampling: Resampling) -> Figure:
    """Agreement between noise seeds, training seeds, and with a model that learnt random labels, by method."""
    methods = list(dict.fromkeys(rows["method"]))
    cases = [case for case in _SEEDS if case in set(rows["case"])]
    figure = Figure(figsize=(WIDTH, 1.5 + 0.34 * len(methods)), layout="constrained")
    panels = list(dict.fromkeys(rows["measure"]))
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, measure in zip(grid, panels, strict=True):
        of_measure = rows[rows["measure"] == measure]
        averages = means(of_measure, ["method", "case"], resampling)
        looks = {label(case): _SEEDS[case] for case in cases}
        averages["case"] = averages["case"].map(label)
        spread = 0.22 * (len(cases) - 1)
        points(axes, averages.drop(columns="n"), looks, y="method", order=methods, spread=spread)
        axes.set_yticks(range(len(methods)), [literal(label(method)) for method in methods])
        axes.axvline(0, color="#888888", linewidth=0.7)
        axes.set_xlabel(f"{TAU} of {MEASURES[measure]}")
        axes.grid(axis="x")
    shared_legend(figure)
    note(figure, f"Agreement of the maps of one text. {_over(rows, resampling)}")
    return figure


def removal(rows: pd.DataFrame, resampling: Resampling) -> Figure:
    """Accuracy and confidence that are left against the share of tokens removed, a line for each operator."""
    if "accuracy" in set(rows["measure"]):
        rows = rows[rows["measure"] != "kept_class"]
    measures, models = list(dict.fromkeys(rows["measure"])), list(dict.fromkeys(rows["model"]))
    figure = Figure(figsize=(WIDTH, 1.0 + 2.0 * len(measures)), layout="constrained")
    grid = figure.subplots(len(measures), len(models), squeeze=False, sharex=True, sharey="row")
    for (row, column), axes in np.ndenumerate(grid):
        of_panel = rows[(rows["measure"] == measures[row]) & (rows["model"] == models[column])]
        _by_operator(axes, means(of_panel, ["case", "level"], resampling))
        if row == 0:
            axes.set_title(literal(models[column]), loc="left")
        if column == 0:
            axes.set_ylabel(MEASURES[measures[row]])
        if row == len(measures) - 1:
            axes.set_xlabel("Tokens removed at random")
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="y")
    shared_legend(figure)
    note(
        figure,
        f"No ranking chose what is removed. {_over(rows, resampling)} Operators stand beside each other at every share.",
    )
    return figure


def _by_operator(axes: Axes, averages: pd.DataFrame) -> None:
    """Thin lines with whiskers, moved apart: bands of seven operators would lie on each other."""
    operators = list(dict.fromkeys(averages["case"]))
    aside = averages["case"].map(operators.index) - (len(operators) - 1) / 2
    averages["level"] = averages["level"].astype(float) + _DODGE * aside
    others = cycle(_OTHERS)
    looks = {literal(name): _OPERATORS.get(name) or next(others) for name in operators}
    averages["case"] = averages["case"].map(literal)
    lines(axes, ends(averages, ["level", "case"]), looks, x="level", by="case", linewidth=0.7)


def special_tokens(rows: pd.DataFrame, resampling: Resampling) -> Figure:
    """The share of each map on every kind of special token, one beside the other."""
    named = rows.assign(method=special_labels(rows))
    by_token = named[named["level"] != _ALL]
    shares = means(by_token, ["method", "level"], resampling)
    methods, tokens = (list(dict.fromkeys(shares[key])) for key in ("method", "level"))
    together = means(named[named["level"] == _ALL], ["method"], resampling)
    together = together.set_index("method").reindex(methods)
    figure = Figure(figsize=(WIDTH, 1.2 + 0.3 * len(methods)), layout="constrained")
    axes = figure.subplots()
    shares["method"] = pd.Categorical(shares["method"], methods)
    sns.histplot(
        shares,
        y="method",
        weights="mean",
        hue="level",
        hue_order=tokens[::-1],  # the first of them is next to the axis
        palette={token: _TOKENS[n % len(_TOKENS)] for n, token in enumerate(tokens)},
        multiple="stack",
        shrink=0.8,
        alpha=1,
        ax=axes,
    )
    drawn = axes.get_legend()
    assert drawn is not None  # `hue` makes one
    legend(figure, drawn.legend_handles[::-1], [literal(token) for token in tokens])
    drawn.remove()
    whiskers: dict[str, Any] = {"color": "#222222", "lw": 1.0, "path_effects": HALO}
    axes.hlines(methods, together["low"], together["high"], **whiskers)
    total = shares.groupby("method", observed=True)["mean"].sum()
    for method, high in together["high"].fillna(total).items():
        axes.annotate(
            f"{total[method]:.1%}",
            (high, method),
            (4, 0),
            textcoords="offset points",
            va="center",
            size=7.5,
        )
    axes.set_yticks(range(len(methods)), [literal(method) for method in methods])
    axes.set_ylabel("")
    axes.set_xlabel("Share of the sum of magnitudes")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.margins(x=0.12)
    note(figure, f"{_over(by_token, resampling)} Whiskers: of all special tokens together.")
    return figure


def _over(rows: pd.DataFrame, resampling: Resampling) -> str:
    return f"Means over {counted(rows['example_id'].nunique(), 'text')} with {resampling.words}."
