"""Charts drawn with seaborn, with whiskers and bands at intervals that are computed elsewhere.

Every function draws into its axes and does not use pyplot.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes

from saliency_bench.report.style import HALO, ink_on

#: Options by which seaborn draws the three numbers of `ends`: the middle one, and whiskers to the others.
FROM_ENDS: dict[str, Any] = {"estimator": "median", "errorbar": ("pi", 100)}
Looks = Mapping[str, tuple[Any, str]]  # a colour and a marker for each name


def ends(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Returns the columns low, mean and high as three lines with one `value` each."""
    return table.melt(list(by), ["low", "mean", "high"])


def lines(
    axes: Axes,
    values: pd.DataFrame,
    looks: Looks,
    *,
    x: str,
    by: str,
    band: bool = False,
    **options: Any,
) -> None:
    """Draws a line for each name in a column, through the median of `value` at every x, with its range."""
    sns.lineplot(
        values,
        x=x,
        y="value",
        hue=by,
        style=by,
        hue_order=list(looks),
        style_order=list(looks),
        palette={name: color for name, (color, _) in looks.items()},
        markers={name: marker for name, (_, marker) in looks.items()},
        dashes=False,
        markersize=4,
        markeredgecolor="auto",
        err_style="band" if band else "bars",
        err_kws={"alpha": 0.15, "lw": 0} if band else {"elinewidth": 1.0},
        ax=axes,
        **FROM_ENDS,
        **options,
    )
    axes.set(xlabel="", ylabel="")


def points(
    axes: Axes, table: pd.DataFrame, looks: Looks, *, y: str, order: Sequence[str], spread: float
) -> None:
    """Draws means with whiskers in a row for each of `order`; in a row, the names of `looks` are below each other."""
    (by,) = set(table.columns) - {y, "low", "mean", "high"}
    sns.pointplot(
        ends(table, [y, by]),
        x="value",
        y=y,
        order=order,
        hue=by,
        hue_order=list(looks),
        palette=[color for color, _ in looks.values()],
        markers=[marker for _, marker in looks.values()],
        linestyles="none",
        dodge=spread if len(looks) > 1 else False,
        markersize=4,
        markeredgewidth=0.5,
        err_kws={"linewidth": 1.2},
        ax=axes,
        **FROM_ENDS,
    )
    axes.set(xlabel="", ylabel="")


def bars(
    axes: Axes, table: pd.DataFrame, colors: Mapping[str, str], *, y: str, **options: Any
) -> None:
    """Draws bars to means with whiskers, in a row for each name in `colors`."""
    sns.barplot(
        ends(table, [y]),
        x="value",
        y=y,
        order=list(colors),
        hue=y,
        hue_order=list(colors),
        palette=dict(colors),
        saturation=1,
        edgecolor="white",
        linewidth=0,
        legend=False,
        err_kws={"color": "#222222", "linewidth": 1.0, "path_effects": HALO},
        ax=axes,
        **FROM_ENDS,
        **options,
    )
    axes.set(xlabel="", ylabel="")


def matrix(
    axes: Axes,
    values: Float[np.ndarray, "R C"],
    texts: Sequence[Sequence[str]] | None = None,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    size: float = 7.5,
    **scale: Any,
) -> None:
    """Draws a heat map with a labelled colour bar and a text in each cell: its number, unless there are `texts`."""
    bar = {"label": label, "aspect": 30}
    sns.heatmap(values, xticklabels=columns, yticklabels=rows, cbar_kws=bar, ax=axes, **scale)
    # seaborn's own texts leave out cells without a number, and are hard to read on middle tones.
    for (row, column), value in np.ndenumerate(values):
        text = texts[row][column] if texts else two_decimals(value)
        ink = ink_on(axes.collections[0], value)
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", size=size, color=ink)
    axes.tick_params(length=0, rotation=0)


def two_decimals(value: float) -> str:
    """Returns a number as a cell shows it: with a true minus, without minus zero, and a dash for NaN."""
    return "–" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
