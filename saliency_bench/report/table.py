"""Tables of typed cells, without a format, and the texts of their cells."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd


class Estimate(NamedTuple):
    """A mean with the ends of its interval, which are NaN if there is none."""

    mean: float
    low: float
    high: float


Cell = str | int | float | Estimate | None


@dataclass(frozen=True)
class Column:
    """A column: `key` is its heading in CSV files, `label` in all others. `higher_is_better` is None if nothing is best."""

    key: str
    label: str
    unit: str = ""
    higher_is_better: bool | None = None

    @property
    def arrow(self) -> str:
        """A space and an arrow in the direction of better values; an empty text if there is none."""
        return {True: " ↑", False: " ↓", None: ""}[self.higher_is_better]

    @property
    def heading(self) -> str:
        """The label with its arrow and the unit."""
        return f"{self.label}{self.arrow}" + (f" ({self.unit})" if self.unit else "")


@dataclass(frozen=True)
class Table:
    """A table: `name` is that of its files, `caption` explains its numbers, `marks_best` marks the best of each column."""

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marks_best: bool = True


#: A column, and a function from the item of a row to its cell.
Field = tuple[Column, Callable[[Any], Cell]]


def filled(
    name: str,
    title: str,
    caption: str,
    fields: Sequence[Field],
    items: Iterable[Any],
    marks_best: bool = True,
) -> Table:
    """Returns a table with a column for each field and a row for each item."""
    rows = tuple(tuple(cell(item) for _, cell in fields) for item in items)
    return Table(name, title, caption, tuple(column for column, _ in fields), rows, marks_best)


def number(
    values: "pd.Series[float]", write: Callable[[float], Cell] = float
) -> Callable[[Any], Cell]:
    """Returns a function from an item to its number; None for NaN."""
    return lambda item: None if math.isnan(values[item]) else write(float(values[item]))


def whole(number: float) -> Cell:
    """Returns a whole number as an integer, another as it is."""
    return int(number) if number.is_integer() else number


class Printed(NamedTuple):
    """A printed cell; `interval` is empty if there is none."""

    text: str
    interval: str = ""
    best: bool = False
    numeric: bool = False


def printed(table: Table) -> list[list[Printed]]:
    """Returns the cells of a table as text, with equal digits in a column; the best mean of a column is marked."""
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
    """Returns a number with these digits; zero is short and has no sign."""
    if digits.endswith("e"):
        return "0" if number == 0 else format(number, digits)
    text = format(number, digits)
    return text.removeprefix("-") if float(text) == 0 else text


def _digits(cells: Sequence[Cell]) -> str:
    """Returns the format of all numbers of a column and of the ends of its intervals."""
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
