"""A table before it has a format: typed cells, and what of them is printed."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd


class Estimate(NamedTuple):
    """A mean with the ends of its interval; NaN where there is none."""

    mean: float
    low: float
    high: float


Cell = str | int | float | Estimate | None


@dataclass(frozen=True)
class Column:
    """`key` heads a CSV file, `label` what people read. `higher_is_better` is None where nothing is best."""

    key: str
    label: str
    unit: str = ""
    higher_is_better: bool | None = None

    @property
    def heading(self) -> str:
        """The label with the direction of better and the unit."""
        direction = {True: " ↑", False: " ↓", None: ""}[self.higher_is_better]
        return f"{self.label}{direction}" + (f" ({self.unit})" if self.unit else "")


@dataclass(frozen=True)
class Table:
    """`name` is that of its files; `caption` says how its numbers were made."""

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marks_best: bool = True


#: A column and what it says of an item, which has a row.
Field = tuple[Column, Callable[[Any], Cell]]


def filled(
    name: str,
    title: str,
    caption: str,
    fields: Sequence[Field],
    items: Iterable[Any],
    marks_best: bool = True,
) -> Table:
    """A table with a column for each field and a row for each item."""
    rows = tuple(tuple(cell(item) for _, cell in fields) for item in items)
    return Table(name, title, caption, tuple(column for column, _ in fields), rows, marks_best)


def number(
    values: "pd.Series[float]", write: Callable[[float], Cell] = float
) -> Callable[[Any], Cell]:
    """The number of an item as it is written; nothing where it is NaN."""
    return lambda item: None if math.isnan(values[item]) else write(float(values[item]))


def whole(number: float) -> Cell:
    """An integer where the number is one."""
    return int(number) if number.is_integer() else number


class Printed(NamedTuple):
    """What of a cell is printed; `interval` is empty where there is none."""

    text: str
    interval: str = ""
    best: bool = False
    numeric: bool = False


def printed(table: Table) -> list[list[Printed]]:
    """The cells of a table as text, the digits of each column alike; the best mean of a column is marked."""
    columns = [_print_column(table, index) for index in range(len(table.columns))]
    return [list(row) for row in zip(*columns, strict=True)] if table.rows else []


def _print_column(table: Table, index: int) -> list[Printed]:
    cells = [row[index] for row in table.rows]
    digits = _digits(cells)
    best = _best(cells, table.columns[index].higher_is_better) if table.marks_best else math.nan
    return [_print(cell, digits, best) for cell in cells]


def _print(cell: Cell, digits: str, best: float) -> Printed:
    if isinstance(cell, str):
        return Printed(cell)
    mean = cell.mean if isinstance(cell, Estimate) else cell
    if mean is None or math.isnan(mean):
        return Printed("–", numeric=True)
    if isinstance(cell, int):
        return Printed(str(cell), numeric=True)
    ends = cell[1:] if isinstance(cell, Estimate) and not math.isnan(cell.low) else ()
    interval = f"[{', '.join(_written(end, digits) for end in ends)}]" if ends else ""
    return Printed(_written(mean, digits), interval, mean == best, numeric=True)


def _written(number: float, digits: str) -> str:
    """A number with these digits; zero is short, and has no sign."""
    if digits.endswith("e"):
        return "0" if number == 0 else format(number, digits)
    text = format(number, digits)
    return text.removeprefix("-") if float(text) == 0 else text


def _digits(cells: Sequence[Cell]) -> str:
    """The format of all numbers of a column, the ends of intervals too."""
    floats = [
        number
        for cell in cells
        for number in (cell if isinstance(cell, Estimate) else [cell])
        if isinstance(number, float) and math.isfinite(number)
    ]
    sizes = np.abs(floats)
    # A column without negative numbers that spans orders of magnitude, such as gaps and p-values.
    if sizes.any() and sizes[sizes > 0].min() < 5e-4 and min(floats) >= 0:
        return ".1e"
    largest = sizes.max(initial=0.0)
    return ".3f" if largest < 10 else ".2f" if largest < 100 else ".1f" if largest < 1000 else ".0f"


def _best(cells: Sequence[Cell], higher_is_better: bool | None) -> float:
    means = [cell.mean if isinstance(cell, Estimate) else cell for cell in cells]
    finite = [mean for mean in means if isinstance(mean, float) and math.isfinite(mean)]
    if higher_is_better is None or len(finite) < 2:
        return math.nan
    return max(finite) if higher_is_better else min(finite)
