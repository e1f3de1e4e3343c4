"""Figures of sweeps: convergence of Integrated Gradients, and SmoothGrad's noise."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter

from saliency_bench.core.labels import PRIMARY, metric_label, value_label, varying
from saliency_bench.report.analysis import Analysis
from saliency_bench.report.style import WIDTH, ink_on, legend, literal, note
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
    """Relative completeness gap against steps, a line per quadrature and a panel per baseline."""
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
        own = [setting for setting in swept if setting.get("baseline") == baseline]
        _convergence_panel(axes, analysis, own)
        axes.set_title(literal(f"Baseline: {value_label(baseline)}"), loc="left")
        axes.set_xlabel("Steps")
    panels[0].set_ylabel("Relative completeness gap ↓")
    lines = {
        label: line
        for axes in panels
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    legend(figure, list(lines.values()), list(lines))
    confidence = f"{100 * analysis.resampling.confidence:g} %"
    note(
        figure,
        f"Median over examples; whiskers: its {confidence} intervals between order statistics.",
    )
    return figure


def _convergence_panel(axes: Axes, analysis: Analysis, swept: Settings) -> None:
    for rule in sorted(
        _distinct(swept, "quadrature"),
        key=lambda rule: list(_RULES).index(rule) if rule in _RULES else 99,
    ):
        points = []
        for setting in sorted(swept, key=lambda one: int(one["n_steps"])):
            one = analysis.estimate(setting["setting_id"], GAP)
            if setting.get("quadrature") == rule and one is not None and one.mean > 0:
                points.append((setting["n_steps"], *one))
        if points:
            _convergence_line(axes, str(rule), np.array(points, dtype=float))
    ticks = sorted(_distinct(swept, "n_steps"))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.08)
    axes.grid(axis="y")


def _convergence_line(axes: Axes, rule: str, points: np.ndarray) -> None:
    shade, sign = rule_stroke(rule)
    steps, means, lows, highs = points.T
    axes.vlines(steps, lows, highs, color=shade, lw=1.0)
    axes.plot(steps, means, color=shade, marker=sign, ms=4, label=literal(rule_label(rule)))


def rule_stroke(rule: Any, place: int = 0) -> tuple[str, str]:
    """The colour and the marker of a rule, or of the line at a place where no rule names it."""
    return _RULES.get(rule, _OTHERS[place % len(_OTHERS)])


def rule_label(rule: str) -> str:
    """A quadrature rule as it is written in text."""
    known = {"gauss_legendre": "Gauss–Legendre", "clenshaw_curtis": "Clenshaw–Curtis"}
    return known.get(rule, rule.replace("_", " "))


def noise_map(analysis: Analysis) -> Figure | None:
    """The primary metric by noise and number of samples, a panel per entry."""
    entries: dict[str, Settings] = {}
    for name in dict.fromkeys(setting["name"] for setting in analysis.settings):
        own: Settings = [
            one for one in analysis.settings if one["name"] == name and one["backend"] == "native"
        ]
        if {"noise_std", "n_samples"} <= set(varying(own, name)):
            entries[name] = [one for one in own if analysis.estimate(one["setting_id"], PRIMARY)]
    entries = {name: own for name, own in entries.items() if own}
    if not entries:
        return None
    figure = Figure(figsize=(min(WIDTH, 0.6 + 3.8 * len(entries)), 3.2), layout="constrained")
    panels = figure.subplots(1, len(entries), squeeze=False)[0]
    for axes, (name, own) in zip(panels, entries.items(), strict=True):
        image = _noise_panel(axes, analysis, own)
        axes.set_title(literal(name) if len(entries) > 1 else "")
        figure.colorbar(image, ax=axes, label=f"{metric_label(PRIMARY)} ↑", shrink=0.9, aspect=25)
    note(
        figure,
        f"Mean over {analysis.n_examples} examples; ± half the width of the interval.{_frame_words(analysis)}",
    )
    return figure


def _noise_panel(axes: Axes, analysis: Analysis, own: Settings) -> Any:
    noises, samples = sorted(_distinct(own, "noise_std")), sorted(_distinct(own, "n_samples"))
    cells: dict[tuple[int, int], Estimate] = {}
    for one in own:
        place = samples.index(one["n_samples"]), noises.index(one["noise_std"])
        estimate = analysis.estimate(one["setting_id"], PRIMARY)
        if estimate is not None:
            cells[place] = estimate
        if one["setting_id"] == _chosen(analysis, one["name"]):
            corner = (place[1] - 0.46, place[0] - 0.45)
            axes.add_patch(Rectangle(corner, 0.92, 0.9, fill=False, edgecolor="#D55E00", lw=1.8))
    values = np.full((len(samples), len(noises)), np.nan)
    for place, estimate in cells.items():
        values[place] = estimate.mean
    image = axes.imshow(values, cmap="cividis", origin="lower", aspect="auto")
    for (row, column), estimate in cells.items():
        text = f"{estimate.mean:.3f}\n±{(estimate.high - estimate.low) / 2:.3f}"
        axes.text(
            column, row, text, ha="center", va="center", size=7, color=ink_on(image, estimate.mean)
        )
    axes.set_xticks(range(len(noises)), [value_label(noise) for noise in noises])
    axes.set_yticks(range(len(samples)), [str(n) for n in samples])
    axes.set(xlabel="Noise (standard deviations of the embedding matrix)", ylabel="Samples")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return image


def _chosen(analysis: Analysis, name: str) -> str | None:
    best = (analysis.run.manifest.get("chosen") or {}).get("best", {})
    found: str | None = best.get(name, {}).get("setting_id")
    return found


def _frame_words(analysis: Analysis) -> str:
    choice = analysis.run.manifest.get("chosen")
    return f" Framed: chosen on {choice['split']}." if choice else ""


def _distinct(settings: Settings, key: str) -> list[Any]:
    return list(dict.fromkeys(setting.get(key) for setting in settings))
