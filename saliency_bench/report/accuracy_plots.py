"""The figure of error against cost, for settings that approximate."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from saliency_bench.core.labels import value_label
from saliency_bench.core.method_facts import facts_of
from saliency_bench.report.analysis import Analysis
from saliency_bench.report.charts import ends, lines
from saliency_bench.report.convergence_table import SMALL
from saliency_bench.report.style import WIDTH, literal, note, shared_legend
from saliency_bench.report.sweep_plots import rule_label, rule_stroke

Settings = Sequence[Mapping[str, Any]]


def accuracy(analysis: Analysis) -> Figure | None:
    """Draws error against gradients: a panel per baseline or noise, a line per rule or sampler."""
    measured = analysis.gates["error"].dropna().index
    settings = [
        setting
        for setting in analysis.settings
        if setting["setting_id"] in measured and setting["backend"] == "native"
    ]
    if len(settings) < 2:
        return None
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for setting in settings:
        panels.setdefault(_panel(setting), []).append(setting)
    figure = Figure(figsize=(min(WIDTH, 1.6 + 2.7 * len(panels)), 3.2), layout="constrained")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, of_panel) in zip(grid, sorted(panels.items()), strict=True):
        _draw(axes, analysis, of_panel)
        axes.set_title(literal(title), loc="left")
        axes.set_xlabel("Gradients per example")
    grid[0].set_ylabel("Error to the reference ↓")
    grid[0].set_yscale("log")  # after all panels are drawn: they share it
    grid[0].yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g} %"))
    grid[0].yaxis.set_minor_formatter(NullFormatter())
    shared_legend(figure)
    note(
        figure,
        "Largest error of a token over the text's largest score: medians over texts, whiskers to the 95th "
        f"percentile. Dotted: {100 * SMALL:g} %.",
    )
    return figure


def _panel(setting: Mapping[str, Any]) -> str:
    if "baseline" in setting:
        return f"Baseline: {value_label(setting['baseline'])}"
    units = ("noise_std", "noise_range", "noise_absolute")
    unit = next((name for name in units if setting.get(name) is not None), None)
    return "" if unit is None else f"σ = {value_label(setting[unit])} {unit.removeprefix('noise_')}"


def _line(setting: Mapping[str, Any]) -> str:
    """Returns the line that a setting belongs to: that of its rule, its sampler, or its method."""
    if "quadrature" in setting:
        return rule_label(setting["quadrature"])
    name = facts_of(setting).label
    return f"{name}, {setting['sampler']}" if "sampler" in setting else name


def _draw(axes: Axes, analysis: Analysis, settings: Settings) -> None:
    rules = {literal(_line(setting)): setting.get("quadrature") for setting in settings}
    looks = {name: rule_stroke(rules[name], place) for place, name in enumerate(sorted(rules))}
    keys = [setting["setting_id"] for setting in settings]
    errors = analysis.gates.loc[keys]
    table = pd.DataFrame(
        {
            "line": [literal(_line(setting)) for setting in settings],
            "cost": analysis.costs.loc[keys, "n_gradients"].to_numpy(),
            "low": errors["error"].to_numpy(),
            "mean": errors["error"].to_numpy(),
            "high": errors["error_95"].to_numpy(),
        }
    )
    lines(axes, ends(table, ["cost", "line"]), looks, x="cost", by="line")
    axes.axhline(SMALL, color="#444444", lw=0.8, ls=":")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.grid(axis="y")
