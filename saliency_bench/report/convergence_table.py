"""How sure the scores of approximate settings are: the gate that every path method's row carries, and the errors."""

from collections.abc import Callable, Collection, Mapping

import numpy as np
import pandas as pd

from saliency_bench.report.table import Cell, Column, Field, number
from saliency_bench.store.run import Run

REFERENCE = "reference"

#: What maps are compared with, in the words of a caption. Runs of older versions have twice the steps, or half of the nodes.
COMPARED = {
    "limit": "the limit extrapolated from half of the nodes",
    "halved": "the map with half of the nodes",
    "doubled": "the map with twice the steps",
    REFERENCE: "the reference",
}
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


def limits(run: Run) -> Mapping[str, float]:
    """What a map of this run is held to."""
    configured = (run.manifest.get("config") or {}).get("convergence") or {}
    return {key: configured.get(key, default) for key, default in LIMITS.items()}


def gates(run: Run) -> pd.DataFrame:
    """Per setting id: the numbers of `_COLUMNS` as fractions, NaN where the run does not know them.

    A map has converged where its relative completeness gap and its rank correlation with what it is compared with
    (`COMPARED`) keep the limits; where a method stops by itself, where it says so. What cannot be said of a map (no
    completeness claimed, a single token) is no reason to doubt it.
    """
    maps = run.columns("maps", [*KEY, *_OF_MAPS]).set_index(KEY)
    gap = (maps["completeness_gap"] / maps["output_difference"].replace(0.0, np.nan)).abs()
    convergence = run.tables["convergence"].set_index(KEY)
    tau = convergence["tau"]
    errors = convergence.loc[convergence["against"] == REFERENCE, "error"].groupby("setting_id")
    bound = limits(run)
    steps = {setting["setting_id"] for setting in run.settings if "n_steps" in setting}
    checked = maps.index.intersection(tau.index)
    checked = checked[checked.isin(steps, level="setting_id")]
    passed = (gap.reindex(checked).fillna(0) <= bound["largest_gap"]) & (
        tau.reindex(checked).fillna(1) >= bound["smallest_tau"]
    )
    reported = maps["converged"].dropna().astype(bool)
    passed = pd.concat([passed[~passed.index.isin(reported.index)], reported]).groupby("setting_id")
    noise = maps["error"].where(maps["standard_errors"].notna())
    columns = {
        "checked": passed.size(),
        "converged": passed.mean(),
        "gap": gap.groupby("setting_id").median(),
        "gap_95": gap.groupby("setting_id").quantile(0.95),
        "tau": tau.groupby("setting_id").median(),
        "error": errors.median(),
        "error_90": errors.quantile(0.9),
        "error_95": errors.quantile(0.95),
        "within": errors.agg(lambda error: (error <= SMALL).mean()),
        "noise": noise.groupby("setting_id").mean(),
        "split_half": maps["split_half_tau"].groupby("setting_id").mean(),
    }
    return pd.DataFrame(columns, index=[setting["setting_id"] for setting in run.settings]).astype(
        float
    )


def doubtful(table: pd.DataFrame) -> set[str]:
    """The settings of which too few texts converged."""
    return set(table.index[table["converged"] < ENOUGH])


def marked(labels: Mapping[str, str], unsure: Collection[str]) -> dict[str, str]:
    """Labels of settings, with a mark on those that are doubtful: it goes wherever the label goes."""
    return {key: f"{label} {MARK}" if key in unsure else label for key, label in labels.items()}


def percent(value: float) -> str:
    """A fraction in percent with two significant digits."""
    if 0 < value < 1e-6:
        return "< 0.0001 %"
    return f"{100 * value:.0f} %" if value >= 0.1 else f"{100 * value:.2g} %"


def whole_percent(value: float) -> str:
    """A fraction in whole percent."""
    return f"{100 * value:.0f} %"


_COLUMNS: tuple[tuple[Column, Callable[[float], Cell]], ...] = (
    (Column("checked", "Maps checked"), int),
    (Column("converged", "Converged"), whole_percent),
    (Column("gap", "Completeness gap, median"), percent),
    (Column("gap_95", "Completeness gap, 95th percentile"), percent),
    (Column("tau", "τ-b, median"), float),
    (Column("error", "Error, median", higher_is_better=False), percent),
    (Column("error_90", "Error, 90th percentile"), percent),
    (Column("error_95", "Error, 95th percentile", higher_is_better=False), percent),
    (Column("within", f"Error within {100 * SMALL:g} %", higher_is_better=True), percent),
    (Column("noise", "Standard error of draws (rel.)", higher_is_better=False), percent),
    (Column("split_half", "Split-half τ-b", higher_is_better=True), float),
)


def caption(run: Run) -> str:
    """What the columns of the convergence table are."""
    return (
        "Error: to the reference, the largest difference of a token's scores over the text's largest score. τ-b: to "
        f"{_compared(run)}. Completeness gap: relative to F(x) - F(x'). Standard errors are those of the mean "
        "over random draws, as norms over a text's tokens; split-half: the rank correlation of the scores from two halves "
        "of the draws."
    )


def _compared(run: Run) -> str:
    """What the maps of a run are compared with."""
    kinds = set(run.tables["convergence"]["against"])
    words = [words for kind, words in COMPARED.items() if kind in kinds]
    return " or ".join(words) or COMPARED["limit"]


def fields(table: pd.DataFrame) -> list[Field]:
    """What a table says of the convergence of a setting, by id; columns that no setting has are left out."""
    return [
        (column, number(table[column.key], write))
        for column, write in _COLUMNS
        if table[column.key].notna().any()
    ]


def gate_words(run: Run, table: pd.DataFrame) -> str:
    """What the column `converged` says, for a caption; nothing where no setting has it."""
    if table["converged"].isna().all():
        return ""
    bound = limits(run)
    return (
        f" Converged: maps whose completeness gap is at most {100 * bound['largest_gap']:g} % of F(x) - F(x') and whose "
        f"token order keeps τ-b ≥ {bound['smallest_tau']:g} with {_compared(run)}, or where a method that stops by "
        f"itself says so; {MARK} where fewer than {100 * ENOUGH:g} % did."
    )
