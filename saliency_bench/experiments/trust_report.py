"""Which metrics prefer the ranking that is known to be right: shares, their tables, and what they depend on."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from saliency_bench.core.labels import metric_label, ordered_metrics, same_evidence_words
from saliency_bench.core.rows import TRUST
from saliency_bench.report.gates import KINDS, _ordered, gates
from saliency_bench.report.stats import Resampling, intervals
from saliency_bench.report.table import Cell, Column, Estimate, Table

CORRUPTIONS = {
    "last": "Shortcut last",
    "random": "Shortcut at random places",
    "slight": "One word of it behind one other",
}
SUMMARY = "trust"


def frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows with every column of `rows.TRUST`."""
    return pd.DataFrame(list(rows), columns=list(TRUST)).astype({"preferred": float})


def shares(rows: pd.DataFrame, by: Sequence[str], resampling: Resampling) -> pd.DataFrame:
    """The share of comparisons in which the known ranking is preferred, a tie being half of one, by some columns.

    A text counts once: what it says under several seeds, kinds or corruptions is averaged first, and the interval is
    over texts.

    Returns:
        One line per group: the columns, n (texts), n_missing (comparisons without a value), share, low, high, ties.
    """
    of_text = rows.groupby([*by, "example_id"], sort=False)["preferred"].mean()
    table = of_text.unstack("example_id").astype(float)
    found = pd.DataFrame(index=table.index)
    groups = rows.groupby(list(by), sort=False)["preferred"]
    found["n"] = table.notna().sum(axis=1)
    found["n_missing"] = groups.size() - groups.count()
    found["share"] = table.mean(axis=1)
    found["low"], found["high"] = intervals(table.to_numpy().T, resampling)
    tied = rows["preferred"].eq(0.5).where(rows["preferred"].notna())
    found["ties"] = tied.astype(float).groupby([rows[key] for key in by], sort=False).mean()
    return found.reset_index()


def tables(
    rows: pd.DataFrame, models: Mapping[str, Mapping[str, Any]], resampling: Resampling
) -> list[Table]:
    """All kinds together, each kind, what each corruption does, and the gates that the models passed."""
    made = [_matrix(rows, SUMMARY, "all shortcuts and corruptions", "removal", resampling)]
    kinds = list(dict.fromkeys(rows["kind"]))
    if len(kinds) > 1:
        made += [
            _matrix(rows[rows["kind"] == kind], f"{SUMMARY}_{kind}", words, "removal", resampling)
            for kind in kinds
            for words in [KINDS.get(kind, kind).lower()]
        ]
    made.append(
        _matrix(
            rows, f"{SUMMARY}_corruptions", "by corruption, all operators", "corruption", resampling
        )
    )
    return [*made, gates(models)]


def _matrix(
    rows: pd.DataFrame, name: str, words: str, across: str, resampling: Resampling
) -> Table:
    """Metrics against the values of a column."""
    found = shares(rows, ["metric", across], resampling).set_index(["metric", across])
    values = list(dict.fromkeys(rows[across]))
    cells = tuple(
        (metric_label(metric), *(_estimate(found, (metric, value)) for value in values))
        for metric in ordered_metrics(rows["metric"])
    )
    return Table(
        name=name,
        title=f"How often a metric prefers the known ranking: {words}",
        caption=_caption(rows, resampling),
        columns=(
            Column("metric", "Metric"),
            *(Column(value, CORRUPTIONS.get(value, value)) for value in values),
        ),
        rows=cells,
        marks_best=False,
    )


def _estimate(found: pd.DataFrame, key: tuple[str, str]) -> Cell:
    if key not in found.index or not found.loc[key, "n"]:
        return None
    return Estimate(*(float(found.loc[key, name]) for name in ("share", "low", "high")))


def _caption(rows: pd.DataFrame, resampling: Resampling) -> str:
    return (
        f"Shares of comparisons, a tie counted half; 0.5 is what a metric gets that sees nothing. "
        f"{resampling.words} over {rows['example_id'].nunique()} texts, "
        "each averaged over training seeds and whatever else is pooled."
        + same_evidence_words(set(rows["metric"]), of_means=False)
    )


def long_table(rows: pd.DataFrame, resampling: Resampling) -> Table:
    """A row for every kind, corruption, metric and removal, for other programs."""
    by = ["kind", "corruption", "metric", "removal"]
    found = shares(rows, by, resampling)
    cells: tuple[tuple[Cell, ...], ...] = tuple(
        (
            *(str(getattr(row, key)) for key in by),
            int(row.n),
            int(row.n_missing),
            Estimate(float(row.share), float(row.low), float(row.high)),
            float(row.ties),
        )
        for row in found.itertuples(index=False)
    )
    columns = (*by, "n", "n_missing", "share", "ties")
    return Table(
        name="shares",
        title="Every share",
        caption=_caption(rows, resampling),
        columns=tuple(Column(key, key) for key in columns),
        rows=cells,
        marks_best=False,
    )


def notes(rows: pd.DataFrame, models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Models that failed their gate, ties, and comparisons without a value."""
    lines = []
    for name, facts in _ordered(models):
        if not (facts.get("gate") or {}).get("passed"):
            lines.append(f"{name} did not pass its gate: its shortcut is no ground truth.")
    ties = rows.groupby("metric")["preferred"].apply(lambda own: float((own == 0.5).mean()))
    tied = ties[ties > 0].sort_values(ascending=False)
    if len(tied):
        listed = ", ".join(f"{metric_label(name)} {share:.0%}" for name, share in tied.items())
        lines.append(f"Ties, counted half: {listed}.")
    for reason, own in rows[rows["preferred"].isna()].groupby("reason"):
        where = ", ".join(metric_label(name) for name in ordered_metrics(own["metric"]))
        lines.append(f"No value in {len(own)} comparisons ({where}): {reason}.")
    return [*lines, f"{len(rows)} comparisons in all, {np.unique(rows['example_id']).size} texts."]
