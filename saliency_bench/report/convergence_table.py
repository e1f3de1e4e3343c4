"""The convergence of approximate settings: the share of converged maps, and their errors."""

from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np
import pandas as pd

from saliency_bench.report.table import Cell, Column, Field, number
from saliency_bench.store.run import Run

REFERENCE = "reference"

#: The maps that maps are compared with, in words. Runs of older versions have twice the steps, or half of the nodes.
COMPARED = {
    "limit": "the limit extrapolated from half of the nodes",
    "halved": "the map with half of the nodes",
    "doubled": "the map with twice the steps",
    REFERENCE: "the reference",
}
KEY = ["cell_id", "setting_id", "example_id"]

#: The columns of maps about their convergence.
_OF_MAPS = (
    *("completeness_gap", "output_difference", "converged"),
    *("error", "standard_errors", "split_half_tau"),
)

#: A row is marked if less than this share of the checked texts converged.
ENOUGH = 0.95
MARK = "✗"

#: The largest reference error of a good approximation; the share of texts within it has a column.
SMALL = 0.01

#: The limits of a run whose configuration has none.
LIMITS = {"largest_gap": 0.05, "smallest_tau": 0.95}


def limits(run: Run) -> Mapping[str, float]:
    """Returns the limits at which maps of a run count as converged."""
    configured = (run.manifest.get("config") or {}).get("convergence") or {}
    return {key: configured.get(key, default) for key, default in LIMITS.items()}


def gates(run: Run) -> pd.DataFrame:
    """Returns the numbers of `_COLUMNS` by setting id, as fractions; NaN if the run does not have them.

    A map has converged if its relative completeness gap and its rank correlation with the map of `COMPARED` are within the
    limits. For methods that stop by themselves, the map says whether it has converged. A number that a map does not have
    (the method claims no completeness, or there is a single token) counts as within the limit.
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
    """Returns the settings of which too few texts converged."""
    return set(table.index[table["converged"] < ENOUGH])


def marked(labels: Mapping[str, str], unsure: Collection[str]) -> dict[str, str]:
    """Returns labels of settings, with a mark on those in `unsure`."""
    return {key: f"{label} {MARK}" if key in unsure else label for key, label in labels.items()}


def mark_words(labels: Iterable[str], run: Run) -> str:
    """Returns a sentence that says what the mark means; empty if no label has it."""
    if not any(label.endswith(MARK) for label in labels):
        return ""
    bound = limits(run)
    return (
        f"{MARK} not converged: fewer than {100 * ENOUGH:g} % of its maps are within the limits (completeness gap "
        f"{100 * bound['largest_gap']:g} %, τ-b {bound['smallest_tau']:g}). It may need more steps."
    )


def percent(value: float) -> str:
    """Returns a fraction in percent with two significant digits."""
    if 0 < value < 1e-6:
        return "< 0.0001 %"
    return f"{100 * value:.0f} %" if value >= 0.1 else f"{100 * value:.2g} %"


def whole_percent(value: float) -> str:
    """Returns a fraction in whole percent."""
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
    """Returns the explanation of the columns of the convergence table."""
    return (
        "Error: to the reference, the largest difference of a token's scores over the text's largest score. τ-b: to "
        f"{_compared(run)}. Completeness gap: relative to F(x) - F(x'). Standard errors are those of the mean "
        "over random draws, as norms over a text's tokens; split-half: the rank correlation of the scores from two halves "
        "of the draws."
    )


def _compared(run: Run) -> str:
    """Returns the words for the maps that maps of a run are compared with."""
    kinds = set(run.tables["convergence"]["against"])
    words = [words for kind, words in COMPARED.items() if kind in kinds]
    return " or ".join(words) or COMPARED["limit"]


def fields(table: pd.DataFrame) -> list[Field]:
    """Returns the columns of the convergence of a setting, by id; columns that no setting has are left out."""
    return [
        (column, number(table[column.key], write))
        for column, write in _COLUMNS
        if table[column.key].notna().any()
    ]


def gate_words(run: Run, table: pd.DataFrame) -> str:
    """Returns the explanation of the column `converged`, for a caption; empty if no setting has it."""
    if table["converged"].isna().all():
        return ""
    bound = limits(run)
    return (
        f" Converged: maps whose completeness gap is at most {100 * bound['largest_gap']:g} % of F(x) - F(x') and whose "
        f"token order keeps τ-b ≥ {bound['smallest_tau']:g} with {_compared(run)}, or where a method that stops by "
        f"itself says so; {MARK} where fewer than {100 * ENOUGH:g} % did."
    )
