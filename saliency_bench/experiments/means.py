"""Means over texts with their intervals, and the tables that trust and sanity make of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from saliency_bench.report.stats import Resampling, intervals
from saliency_bench.report.table import Cell, Column, Estimate, Table


def over_texts(
    rows: pd.DataFrame, value: str, by: Sequence[str], resampling: Resampling
) -> pd.DataFrame:
    """The mean of a value by some columns, each text counting once.

    Returns:
        By these columns: n (texts with a value), mean, low, high.
    """
    of_text = rows.groupby([*by, "example_id"], sort=False)[value].mean()
    table = of_text.unstack("example_id").astype(float)
    low, high = intervals(table.to_numpy().T, resampling)
    return pd.DataFrame(
        {"n": table.notna().sum(axis=1), "mean": table.mean(axis=1), "low": low, "high": high}
    )


def matrix(
    means: pd.DataFrame,
    name: str,
    title: str,
    caption: str,
    first: Column,
    rows: Mapping[str, str],
    columns: Mapping[str, str],
) -> Table:
    """Estimates by two columns, one of them down and one across.

    Args:
        means: n, mean, low and high by the two.
        name: of the table's files.
        title: of the table.
        caption: says how its numbers were made.
        first: heads the labels of the rows.
        rows: the keys that stand down, with their labels.
        columns: the keys that stand across, with their labels.
    """
    estimates = {
        key: _estimate(row)
        for key, row in zip(means.index, means.itertuples(index=False), strict=True)
        if row.n
    }
    return Table(
        name=name,
        title=title,
        caption=caption,
        columns=(first, *(Column(key, label) for key, label in columns.items())),
        rows=tuple(
            (label, *(estimates.get((row, column)) for column in columns))
            for row, label in rows.items()
        ),
        marks_best=False,
    )


def estimates(means: pd.DataFrame, columns: Mapping[str, str]) -> list[dict[str, Cell]]:
    """Every estimate, for `records`; `columns` have the name of each in `means` and in the file."""
    return [
        {
            name: _estimate(row) if key == "mean" else getattr(row, key)
            for key, name in columns.items()
        }
        for row in means.itertuples(index=False)
    ]


def records(name: str, title: str, rows: Sequence[Mapping[str, Any]], caption: str = "") -> Table:
    """A table for other programs: its columns are the keys of the rows, which all have the same."""
    heads = tuple(Column(key, key) for key in (rows[0] if rows else ()))
    return Table(name, title, caption, heads, tuple(tuple(row.values()) for row in rows), False)


def _estimate(row: Any) -> Estimate:
    return Estimate(float(row.mean), float(row.low), float(row.high))
