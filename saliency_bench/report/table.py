"""A table before it has a format: typed cells, and what of them is printed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


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
    write = _writer(cells)
    best = _best(cells, table.columns[index].higher_is_better) if table.marks_best else math.nan
    return [_print(cell, write, best) for cell in cells]


def _print(cell: Cell, write: "_Writer", best: float) -> Printed:
    match cell:
        case None:
            return Printed("–", numeric=True)
        case str():
            return Printed(cell)
        case Estimate(mean, low, high):
            if math.isnan(mean):
                return Printed("–", numeric=True)
            interval = "" if math.isnan(low) else f"[{write(low)}, {write(high)}]"
            return Printed(write(mean), interval, mean == best, numeric=True)
        case int():
            return Printed(str(cell), numeric=True)
        case float():
            return Printed(
                "–" if math.isnan(cell) else write(cell), best=cell == best, numeric=True
            )


def _numbers(cells: Sequence[Cell]) -> list[float]:
    """All finite numbers in cells, the ends of intervals too."""
    found: list[float] = []
    for cell in cells:
        if isinstance(cell, Estimate):
            found += cell
        elif isinstance(cell, float):
            found.append(cell)
    return [number for number in found if math.isfinite(number)]


def _best(cells: Sequence[Cell], higher_is_better: bool | None) -> float:
    means = [cell.mean if isinstance(cell, Estimate) else cell for cell in cells]
    known = [mean for mean in means if isinstance(mean, float) and math.isfinite(mean)]
    if higher_is_better is None or len(known) < 2:
        return math.nan
    return max(known) if higher_is_better else min(known)


@dataclass(frozen=True)
class _Writer:
    decimals: int
    scientific: bool

    def __call__(self, number: float) -> str:
        if self.scientific:
            return "0" if number == 0 else f"{number:.1e}"
        text = f"{number:.{self.decimals}f}"
        return text.removeprefix("-") if float(text) == 0 else text


def _writer(cells: Sequence[Cell]) -> _Writer:
    numbers = np.abs(_numbers(cells))
    largest = float(numbers.max(initial=0.0))
    positive = numbers[numbers > 0]
    # A column without negative numbers that spans orders of magnitude, such as gaps and p-values.
    small = positive.size > 0 and positive.min() < 5e-4 and min(_numbers(cells)) >= 0
    decimals = 3 if largest < 10 else 2 if largest < 100 else 1 if largest < 1000 else 0
    return _Writer(decimals, scientific=bool(small))
