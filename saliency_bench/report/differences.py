"""Compares two runs field by field: their configuration, code and machine, their settings and their rows."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import starmap
from typing import Any

import numpy as np
import pandas as pd

from saliency_bench.core.errors import counted
from saliency_bench.core.method_facts import FACTS
from saliency_bench.core.rows import SORT_KEYS, TABLES
from saliency_bench.report.table import Cell, Column, Table
from saliency_bench.store.run import Run

#: The fields of a manifest that are compared; dates, places and costs always differ.
FIELDS = ("config", "model", "data", "identity", "preflight", "chosen")

#: Columns that name the run of a row.
_NAMES = ("cell_id",)


def differences(a: Run, b: Run) -> list[Table]:
    """Returns tables of the differences of two runs: in their manifests, their settings and their rows."""
    return [_fields(a, b), _settings(a, b), _rows(a, b)]


def _fields(a: Run, b: Run) -> Table:
    rows = [
        (key, _shown(first), _shown(second))
        for field in FIELDS
        for key, first, second in changed(a.manifest.get(field), b.manifest.get(field), field)
    ]
    return Table(
        name="fields",
        title="What differs in how the runs were made",
        caption="Configuration, model, data, code, versions and machine; what is not listed is equal."
        if rows
        else "Nothing: configuration, model, data, code, versions and machine are equal.",
        columns=(Column("field", "Field"), Column("a", "First run"), Column("b", "Second run")),
        rows=tuple(rows),
        marks_best=False,
    )


def changed(a: Any, b: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    """Yields the dotted keys at which two JSON values differ, with both values; None if one has no such key."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for name in sorted({*a, *b}):
            yield from changed(a.get(name), b.get(name), f"{key}.{name}")
    elif a != b:
        yield key, a, b


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _settings(a: Run, b: Run) -> Table:
    of = [{setting["setting_id"]: setting for setting in run.settings} for run in (a, b)]
    rows: list[tuple[Cell, ...]] = []
    for settings, other, which in ((of[0], of[1], "first"), (of[1], of[0], "second")):
        for key, setting in settings.items():
            if key not in other:
                rows.append((key, setting["name"], which, _nearest(setting, [*other.values()])))
    return Table(
        name="settings",
        title="Settings that only one of them has",
        caption=f"Both have {counted(len(of[0].keys() & of[1].keys()), 'setting')}.",
        columns=(
            Column("setting_id", "Setting"),
            Column("name", "Entry"),
            Column("run", "Run"),
            Column("nearest", "Differs from the nearest of its name in"),
        ),
        rows=tuple(rows),
        marks_best=False,
    )


def _plain(setting: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in setting.items() if key not in ("setting_id", FACTS)}


def _nearest(setting: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    """Returns the keys in which a setting differs from the most similar one of the same entry."""
    differing = [
        [name for name, _, _ in changed(_plain(setting), _plain(other), "")]
        for other in others
        if other["name"] == setting["name"]
    ]
    if not differing:
        return "–"
    return ", ".join(name.removeprefix(".") for name in min(differing, key=len))


def _rows(a: Run, b: Run) -> Table:
    rows = [_of_table(name, a.tables[name], b.tables[name]) for name in TABLES]
    return Table(
        name="rows",
        title="What differs in their rows",
        caption="Rows are matched by what they are about, apart from the run they belong to. Largest: of the absolute "
        "differences of numbers in rows that both have. Times differ always.",
        columns=(
            Column("table", "Table"),
            Column("both", "Rows in both"),
            Column("first", "Only in the first"),
            Column("second", "Only in the second"),
            Column("differing", "Differing"),
            Column("largest", "Largest"),
            Column("where", "Where"),
        ),
        rows=tuple(row for row in rows if any(isinstance(cell, int) and cell for cell in row)),
        marks_best=False,
    )


def _of_table(name: str, a: pd.DataFrame, b: pd.DataFrame) -> tuple[Cell, ...]:
    keys = [key for key in SORT_KEYS[name] if key not in _NAMES]
    left, right = (_keyed(table, keys) for table in (a, b))
    common = left.index.intersection(right.index)
    counts = len(common), len(left) - len(common), len(right) - len(common)
    if not len(common):
        return (name, *counts, 0, None, "")
    left, right = left.loc[common], right.loc[common]
    pairs = {column: zip(left[column], right[column], strict=True) for column in left}
    distances = pd.DataFrame(
        {column: list(starmap(_distance, pair)) for column, pair in pairs.items()}, index=common
    )
    differing = int((distances > 0).any(axis=1).sum())
    finite = distances.replace(np.inf, np.nan)
    largest = finite.max().max()
    if not differing or not largest > 0:
        return (name, *counts, differing, None, "")
    column = str(finite.max().idxmax())
    place = finite[column].idxmax()
    words = place if isinstance(place, tuple) else (place,)
    where = f"{column} of {' '.join(str(word) for word in words if word != '')}"
    return (name, *counts, differing, float(largest), where)


def _keyed(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Returns a table indexed by the keys and the number of earlier rows with the same keys, so that the index is unique."""
    rows = table.drop(columns=[key for key in _NAMES if key in table])
    rows = rows.assign(**{key: rows[key].fillna("") for key in keys})
    n_before = rows.groupby(list(keys)).cumcount()
    return (
        rows.set_index([*keys, n_before.rename("again")]) if len(rows) else rows.set_index([*keys])
    )


def _distance(first: Any, second: Any) -> float:
    """Returns 0 for equal values, the difference of numbers, the largest one of lists, and infinity for other kinds."""
    if isinstance(first, np.ndarray | list) and isinstance(second, np.ndarray | list):
        if len(first) != len(second):
            return float("inf")
        return max(map(_distance, first, second), default=0.0)
    missing = [value is None or value is pd.NA or value != value for value in (first, second)]
    if any(missing):
        return 0.0 if all(missing) else float("inf")
    if all(
        isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in (first, second)
    ):
        return float(abs(first - second))
    return 0.0 if first == second else float("inf")
