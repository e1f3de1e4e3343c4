"""Shares of texts on which metrics prefer the ranking that is known to be right, their tables and notes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from saliency_bench.core.errors import counted
from saliency_bench.core.labels import metric_label, ordered_metrics, same_evidence_words
from saliency_bench.core.rows import TRUST
from saliency_bench.data import shortcuts
from saliency_bench.experiments.means import estimates, matrix, over_texts, records
from saliency_bench.report.gates import KINDS, RATED, by_kind_and_seed, gates
from saliency_bench.report.stats import Resampling
from saliency_bench.report.table import Column, Table

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
    preferred = over_texts(rows, "preferred", by, resampling).rename(columns={"mean": "share"})
    groups = rows.groupby(list(by), sort=False)["preferred"]
    preferred.insert(1, "n_missing", groups.size() - groups.count())
    tied = rows["preferred"].eq(0.5).where(rows["preferred"].notna())
    preferred["ties"] = tied.astype(float).groupby([rows[key] for key in by], sort=False).mean()
    return preferred.reset_index()


def tables(
    rows: pd.DataFrame, models: Mapping[str, Mapping[str, Any]], resampling: Resampling
) -> list[Table]:
    """All kinds together, each kind, what each corruption does, and the gates that the models passed."""
    kinds = list(dict.fromkeys(rows["kind"]))
    what = words_of(kinds)
    made = [_matrix(rows, SUMMARY, f"{what} and corruptions", "removal", resampling)]
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
    gated = any("gate" in facts for facts in models.values())
    return [*made, gates(models)] if gated else made


def words_of(kinds: Sequence[str]) -> str:
    """What is known to matter in texts of these kinds, in words."""
    if {*kinds} <= {*shortcuts.KINDS}:
        return "all shortcuts"
    return ", ".join(KINDS.get(kind, kind).lower() for kind in kinds)


def _matrix(
    rows: pd.DataFrame, name: str, words: str, across: str, resampling: Resampling
) -> Table:
    """Metrics against the values of a column."""
    preferred = shares(rows, ["metric", across], resampling).rename(columns={"share": "mean"})
    return matrix(
        preferred.set_index(["metric", across]),
        name,
        f"How often a metric prefers the known ranking: {words}",
        _caption(rows, resampling),
        Column("metric", "Metric"),
        {metric: metric_label(metric) for metric in ordered_metrics(rows["metric"])},
        {value: CORRUPTIONS.get(value, value) for value in rows[across].unique()},
    )


def _caption(rows: pd.DataFrame, resampling: Resampling) -> str:
    return (
        f"Shares of comparisons, a tie counted half; 0.5 is what a metric gets that sees nothing. "
        f"{resampling.words} over {counted(rows['example_id'].nunique(), 'text')}, "
        "each averaged over training seeds and whatever else is pooled."
        + same_evidence_words(set(rows["metric"]), of_means=False)
    )


def long_table(rows: pd.DataFrame, resampling: Resampling) -> Table:
    """A row for every kind, corruption, metric and removal, for other programs."""
    by = ["kind", "corruption", "metric", "removal"]
    preferred = shares(rows, by, resampling).rename(columns={"share": "mean"})
    columns = [*by, "n", "n_missing", "mean", "ties"]
    heads = {key: "share" if key == "mean" else key for key in columns}
    return records("shares", "Every share", estimates(preferred, heads), _caption(rows, resampling))


def notes(rows: pd.DataFrame, models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Models that failed their gate, ties, and comparisons without a value."""
    lines = []
    for name, facts in by_kind_and_seed(models):
        if facts["kind"] in shortcuts.KINDS and not (facts.get("gate") or {}).get("passed"):
            lines.append(f"{name} did not pass its gate: its shortcut is no ground truth.")
    if RATED in set(rows["kind"]):
        lines.append(
            "Words that people rated are a weaker truth: a model need not use what they do."
        )
    ties = rows.groupby("metric")["preferred"].apply(lambda group: float((group == 0.5).mean()))
    tied = ties[ties > 0].sort_values(ascending=False)
    if len(tied):
        listed = ", ".join(f"{metric_label(name)} {share:.0%}" for name, share in tied.items())
        lines.append(f"Ties, counted half: {listed}.")
    for reason, group in rows[rows["preferred"].isna()].groupby("reason"):
        where = ", ".join(metric_label(name) for name in ordered_metrics(group["metric"]))
        lines.append(f"No value in {len(group)} comparisons ({where}): {reason}.")
    return [
        *lines,
        f"{counted(len(rows), 'comparison')} in all, {counted(np.unique(rows['example_id']).size, 'text')}.",
    ]
