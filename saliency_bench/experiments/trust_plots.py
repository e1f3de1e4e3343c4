"""Heat maps of metrics against removal operators."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure

from saliency_bench.core.errors import counted
from saliency_bench.core.labels import metric_label, ordered_metrics
from saliency_bench.experiments.trust_report import SUMMARY, shares, words_of
from saliency_bench.report.charts import matrix, two_decimals
from saliency_bench.report.gates import KINDS
from saliency_bench.report.stats import Resampling
from saliency_bench.report.style import WIDTH, literal, note

_ROW, _MARGIN = 0.27, 1.9  # inches
BLIND = 0.5


def figures(rows: pd.DataFrame, resampling: Resampling) -> dict[str, Figure]:
    """A heat map over all kinds of shortcut, and one for each kind where there are several."""
    kinds = list(dict.fromkeys(rows["kind"]))
    made = {SUMMARY: heat_map(rows, words_of(kinds).capitalize(), resampling)}
    if len(kinds) > 1:
        for kind in kinds:
            of_kind = rows[rows["kind"] == kind]
            made[f"{SUMMARY}_{kind}"] = heat_map(of_kind, KINDS.get(kind, kind), resampling)
    return made


def heat_map(rows: pd.DataFrame, title: str, resampling: Resampling) -> Figure:
    """Metrics against removal operators: the share of texts in which the known ranking is preferred."""
    metrics, removals = ordered_metrics(rows["metric"]), list(dict.fromkeys(rows["removal"]))
    preferred = shares(rows, ["metric", "removal"], resampling).set_index(["metric", "removal"])
    grid = preferred.reindex(pd.MultiIndex.from_product([metrics, removals]))
    shape = (len(metrics), len(removals))
    share, low, high = (
        grid[name].to_numpy(dtype=float).reshape(shape) for name in ("share", "low", "high")
    )
    figure = Figure(
        figsize=(min(WIDTH, 2.9 + 0.6 * len(removals)), _MARGIN + _ROW * len(metrics)),
        layout="constrained",
    )
    axes = figure.subplots()
    blind = (low <= BLIND) & (high >= BLIND)
    matrix(
        axes,
        share,
        [list(map(_text, *pair)) for pair in zip(share.tolist(), blind.tolist(), strict=True)],
        rows=[literal(metric_label(metric)) for metric in metrics],
        columns=[literal(removal) for removal in removals],
        label="Known ranking preferred",
        **_scale(share),
    )
    axes.set_xlabel("Removal operator")
    axes.set_title(literal(title), loc="left")
    words = (
        "Share of comparisons in which the metric prefers the known ranking to a spoilt one, a tie counted half; "
        f"{BLIND} is what a metric gets that sees nothing."
    )
    over = f"{100 * resampling.confidence:g} % interval over {counted(rows['example_id'].nunique(), 'text')}"
    note(figure, f"{words} In brackets: its {over} holds {BLIND}." if blind.any() else words)
    return figure


def _scale(share: Float[np.ndarray, "M R"]) -> dict[str, Any]:
    """Colours and limits: from 0.5, which a blind metric gets, if no metric gets less; else from 0 to 1."""
    if np.nanmin(share) >= BLIND:
        return {"cmap": "cividis", "vmin": BLIND, "vmax": 1.0}
    return {"cmap": "RdBu", "vmin": 0.0, "vmax": 1.0}


def _text(value: float, blind: bool) -> str:
    return f"({two_decimals(value)})" if blind else two_decimals(value)
