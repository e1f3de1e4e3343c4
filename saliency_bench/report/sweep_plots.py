"""Figures of sweeps: convergence of Integrated Gradients, and SmoothGrad's noise."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter

from saliency_bench.core.errors import counted
from saliency_bench.core.labels import PRIMARY, metric_label, value_label, varying
from saliency_bench.report.analysis import Analysis
from saliency_bench.report.charts import ends, lines, matrix
from saliency_bench.report.style import WIDTH, literal, note, shared_legend
from saliency_bench.report.table import Estimate

GAP = "completeness_gap_relative"
#: A colour and a marker per rule, in order of name.
_RULES = {
    "left": ("#E69F00", "<"),
    "right": ("#D55E00", ">"),
    "midpoint": ("#009E73", "o"),
    "trapezoid": ("#56B4E9", "s"),
    "captum_riemann_trapezoid": ("#8A8A8A", "X"),
    "gauss_legendre": ("#0072B2", "D"),
    "clenshaw_curtis": ("#7A5195", "P"),
    "calibrated": ("#000000", "*"),
}
_OTHERS = (("#CC79A7", "v"), ("#8C6D31", "^"), ("#D55E00", "h"), ("#009E73", "p"), ("#0072B2", "d"))
Settings = Sequence[Mapping[str, Any]]


def convergence(analysis: Analysis) -> Figure | None:
    """Draws the relative completeness gap against steps, a line per quadrature and a panel per baseline."""
    swept = [
        setting
        for setting in analysis.settings
        if "n_steps" in varying(analysis.settings, setting["name"])
        and setting["backend"] == "native"
        and analysis.estimate(setting["setting_id"], GAP)
    ]
    if not swept:
        return None
    baselines = _distinct(swept, "baseline")
    figure = Figure(figsize=(min(WIDTH, 2.2 + 2.2 * len(baselines)), 3.0), layout="constrained")
    panels = figure.subplots(1, len(baselines), sharey=True, squeeze=False)[0]
    for axes, baseline in zip(panels, baselines, strict=True):
        of_panel = [setting for setting in swept if setting.get("baseline") == baseline]
        _convergence_panel(axes, analysis, of_panel)
        axes.set_title(literal(f"Baseline: {value_label(baseline)}"), loc="left")
        axes.set_xlabel("Steps")
    panels[0].set_yscale("log")  # after all of them are drawn: they share it
    panels[0].set_ylabel("Relative completeness gap ↓")
    shared_legend(figure)
    confidence = f"{100 * analysis.resampling.confidence:g} %"
    note(
        figure,
        f"Median over examples; whiskers: its {confidence} intervals between order statistics.",
    )
    return figure


def _convergence_panel(axes: Axes, analysis: Analysis, swept: Settings) -> None:
    gaps = [(setting, analysis.estimate(setting["setting_id"], GAP)) for setting in swept]
    points = [
        (int(setting["n_steps"]), setting.get("quadrature"), *gap)
        for setting, gap in gaps
        if gap is not None and gap.mean > 0
    ]
    table = pd.DataFrame(points, columns=["steps", "rule", *Estimate._fields])
    order = [*_RULES, *table["rule"]]
    looks = {
        literal(rule_label(str(rule))): rule_stroke(rule)
        for rule in sorted(table["rule"].unique(), key=order.index)
    }
    table["rule"] = [literal(rule_label(str(rule))) for rule in table["rule"]]
    lines(axes, ends(table, ["steps", "rule"]), looks, x="steps", by="rule")
    ticks = sorted(_distinct(swept, "n_steps"))
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.08)
    axes.grid(axis="y")


def rule_stroke(rule: Any, place: int = 0) -> tuple[str, str]:
    """Returns the colour and the marker of a rule; for other lines, those at a place in a list."""
    return _RULES.get(rule, _OTHERS[place % len(_OTHERS)])


def rule_label(rule: str) -> str:
    """Returns a quadrature rule as it is written in text."""
    names = {"gauss_legendre": "Gauss–Legendre", "clenshaw_curtis": "Clenshaw–Curtis"}
    return names.get(rule, rule.replace("_", " "))


def noise_map(analysis: Analysis) -> Figure | None:
    """Draws the primary metric by noise and number of samples, a panel per entry."""
    entries: dict[str, list[Mapping[str, Any]]] = {}
    for setting in analysis.settings:
        swept = {"noise_std", "n_samples"} <= set(varying(analysis.settings, setting["name"]))
        measured = analysis.estimate(setting["setting_id"], PRIMARY) is not None
        if swept and measured and setting["backend"] == "native":
            entries.setdefault(setting["name"], []).append(setting)
    if not entries:
        return None
    figure = Figure(figsize=(min(WIDTH, 0.6 + 3.8 * len(entries)), 3.2), layout="constrained")
    panels = figure.subplots(1, len(entries), squeeze=False)[0]
    for axes, (name, settings) in zip(panels, entries.items(), strict=True):
        _noise_panel(axes, analysis, settings)
        axes.set_title(literal(name) if len(entries) > 1 else "")
    choice = analysis.run.manifest.get("chosen")
    framed = f" Framed: chosen on {choice['split']}." if choice else ""
    note(
        figure,
        f"Mean over {counted(analysis.n_examples, 'example')}; ± half the width of the interval.{framed}",
    )
    return figure


def _noise_panel(axes: Axes, analysis: Analysis, settings: Settings) -> None:
    estimates = [analysis.estimates[setting["setting_id"], PRIMARY] for setting in settings]
    table = pd.DataFrame(estimates, columns=Estimate._fields)
    table["noise"] = [setting["noise_std"] for setting in settings]
    table["samples"] = [setting["n_samples"] for setting in settings]
    grid = table.pivot(index="samples", columns="noise")
    means, halves = grid["mean"], (grid["high"] - grid["low"]) / 2
    matrix(
        axes,
        means.to_numpy(),
        [
            [
                "" if np.isnan(mean) else f"{mean:z.3f}\n±{half:.3f}"
                for mean, half in zip(*row, strict=True)
            ]
            for row in zip(means.to_numpy(), halves.to_numpy(), strict=True)
        ],
        rows=[str(n) for n in means.index],
        columns=[value_label(noise) for noise in means],
        label=f"{metric_label(PRIMARY)} ↑",
        size=7.0,
        cmap="cividis",
    )
    for setting in settings:
        if setting["setting_id"] == analysis.best.get(setting["name"]):
            column, row = (
                means.columns.get_loc(setting["noise_std"]),
                means.index.get_loc(setting["n_samples"]),
            )
            corner = (column + 0.04, row + 0.05)
            frame = Rectangle(corner, 0.92, 0.9, fill=False, edgecolor="#D55E00", lw=1.8, zorder=3)
            axes.add_patch(frame)
    axes.invert_yaxis()  # more samples above
    axes.set(xlabel="Noise (standard deviations of the embedding matrix)", ylabel="Samples")


def _distinct(settings: Settings, key: str) -> list[Any]:
    return list(dict.fromkeys(setting.get(key) for setting in settings))
