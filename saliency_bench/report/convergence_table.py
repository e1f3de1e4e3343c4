"""How sure the scores of approximate settings are: the gate that every path method's row carries, and the errors."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from saliency_bench.report.table import Cell, Column, Table
from saliency_bench.store.run import Run

REFERENCE = "reference"
KEY = ["cell_id", "setting_id", "example_id"]

#: What maps say of their convergence.
_OF_MAPS = (
    *("completeness_gap", "output_difference", "converged"),
    *("error", "standard_errors", "split_half_tau"),
)

#: Where at least this share of the checked texts converged, a row stands without a mark.
ENOUGH = 0.95

#: What such a row carries.
MARK = "✗"

#: What a reference error of a good approximation is at most; the share of texts within it has a column.
SMALL = 0.01

#: Of a run from before there was a gate, or without one in its configuration.
LIMITS = {"largest_gap": 0.05, "smallest_tau": 0.95}

_COLUMNS = (
    Column("method", "Method"),
    Column("n_gradients", "Gradients per example"),
    Column("checked", "Maps checked"),
    Column("converged", "Converged"),
    Column("gap", "Completeness gap, median"),
    Column("gap_95", "Completeness gap, 95th percentile"),
    Column("tau", "τ-b, median"),
    Column("error", "Error, median", higher_is_better=False),
    Column("error_90", "Error, 90th percentile"),
    Column("error_95", "Error, 95th percentile", higher_is_better=False),
    Column("within", f"Error within {100 * SMALL:g} %", higher_is_better=True),
    Column("noise", "Standard error of draws (rel.)", higher_is_better=False),
    Column("split_half", "Split-half τ-b", higher_is_better=True),
)


def limits(run: Run) -> Mapping[str, float]:
    """What a map of this run is held to."""
    found = (run.manifest.get("config") or {}).get("convergence") or {}
    return {key: found.get(key, default) for key, default in LIMITS.items()}


def gates(run: Run) -> pd.DataFrame:
    """Per setting id: the numbers of `_COLUMNS` as fractions, NaN where the run does not know them.

    A text has converged where its relative completeness gap and its rank correlation with the map at twice the
    steps, or with the reference, keep the limits; where a method stops by itself, where it says so. What cannot be said of a text (no
    completeness claimed, a single token) is no reason to doubt it.
    """
    maps = run.columns("maps", [*KEY, *_OF_MAPS]).set_index(KEY)
    gap = (maps["completeness_gap"] / maps["output_difference"].replace(0.0, np.nan)).abs()
    found = run.tables["convergence"]
    order = found.set_index(KEY)["tau"]
    dense = found[found["against"] == REFERENCE].set_index(KEY)["error"]
    bound = limits(run)
    steps = {one["setting_id"] for one in run.settings if "n_steps" in one}
    checked = maps.loc[maps.index.intersection(order.index)]
    checked = checked[checked.index.get_level_values("setting_id").isin(steps)]
    passed = (gap.reindex(checked.index).fillna(0) <= bound["largest_gap"]) & (
        order.reindex(checked.index).fillna(1) >= bound["smallest_tau"]
    )
    own = maps["converged"].dropna().astype(bool)
    passed = pd.concat([passed[~passed.index.isin(own.index)], own])
    by = "setting_id"
    table = pd.DataFrame(index=[setting[by] for setting in run.settings])
    table["checked"] = passed.groupby(by).size()
    table["converged"] = passed.groupby(by).mean()
    table["gap"] = gap.groupby(by).median()
    table["gap_95"] = gap.groupby(by).quantile(0.95)
    table["tau"] = order.groupby(by).median()
    for name, q in (("error", 0.5), ("error_90", 0.9), ("error_95", 0.95)):
        table[name] = dense.groupby(by).quantile(q)
    table["within"] = (dense <= SMALL).groupby(by).mean()
    table["noise"] = maps["error"].where(maps["standard_errors"].notna()).groupby(by).mean()
    table["split_half"] = maps["split_half_tau"].groupby(by).mean()
    return table.astype(float)


def share_cell(share: float) -> Cell:
    """The share of texts that converged; nothing where it is not known."""
    if np.isnan(share):
        return None
    return f"{100 * share:.0f} %"


def doubtful(found: pd.DataFrame) -> set[str]:
    """The settings of which too few texts converged."""
    return set(found.index[found["converged"] < ENOUGH])


def marked(labels: Mapping[str, str], unsure: Collection[str]) -> dict[str, str]:
    """Labels of settings, with a mark on those that are doubtful: it goes wherever the label goes."""
    return {key: f"{label} {MARK}" if key in unsure else label for key, label in labels.items()}


def gate_words(run: Run) -> str:
    """What the column says, for a caption."""
    bound = limits(run)
    return (
        f" Converged: maps whose completeness gap is at most {100 * bound['largest_gap']:g} % of F(x) - F(x') and whose "
        f"token order keeps τ-b ≥ {bound['smallest_tau']:g} at twice the steps, or where a method that stops by "
        f"itself says so; {MARK} where fewer than {100 * ENOUGH:g} % did."
    )


def table(
    run: Run, found: pd.DataFrame, labels: Mapping[str, str], costs: pd.DataFrame, order: Any
) -> Table:
    """Everything known of convergence, for settings that approximate something."""
    rows = tuple(
        (labels[key], _whole(float(costs.loc[key, "n_gradients"])), *_cells(found.loc[key]))
        for key in order
        if found.loc[key].notna().any()
    )
    kept = [
        index
        for index in range(len(_COLUMNS))
        if index < 2 or any(row[index] is not None for row in rows)
    ]
    caption = (
        "Error: to the reference, the largest difference of a token's scores over the text's largest score. τ-b: to twice the steps, or to the reference. Completeness gap: relative to F(x) - F(x'). Standard errors are "
        "those of the mean over random draws, as norms over a text's tokens; split-half: the rank correlation of "
        "the scores from two halves of the draws."
        + (gate_words(run) if found["converged"].notna().any() else "")
    )
    return Table(
        "convergence",
        "Convergence",
        caption,
        tuple(_COLUMNS[index] for index in kept),
        tuple(tuple(row[index] for index in kept) for row in rows),
        marks_best=False,
    )


def _cells(own: pd.Series) -> list[Cell]:
    """A setting's numbers; errors and gaps in percent."""
    cells: list[Cell] = []
    for column in _COLUMNS[2:]:
        value = float(own[column.key])
        if np.isnan(value):
            cells.append(None)
        elif column.key == "converged":
            cells.append(share_cell(value))
        elif column.key == "checked":
            cells.append(int(value))
        elif column.key in ("tau", "split_half"):
            cells.append(value)
        else:
            cells.append(percent(value))
    return cells


def _whole(value: float) -> Cell:
    return int(value) if value.is_integer() else value


def percent(value: float) -> str:
    """A fraction in percent with two significant digits."""
    if 0 < value < 1e-6:
        return "< 0.0001 %"
    return f"{100 * value:.0f} %" if value >= 0.1 else f"{100 * value:.2g} %"
