"""Prints the main table of a run on a terminal, or as plain text in a file or pipe."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from saliency_bench.core.errors import counted
from saliency_bench.core.heatmap import visible
from saliency_bench.report.analysis import Analysis, analyse
from saliency_bench.report.build import PAGE
from saliency_bench.report.convergence_table import mark_words
from saliency_bench.report.html import caution
from saliency_bench.report.paper import sentences_about
from saliency_bench.report.parity import pairs, parities
from saliency_bench.report.stats import few_words
from saliency_bench.report.study_tables import headline
from saliency_bench.report.table import Printed, Table, printed
from saliency_bench.report.token_maps import console_for as console_for
from saliency_bench.report.verdict import agree, plain_label, twins, verdict
from saliency_bench.store.run import Run

_GAP = 3  # between columns


def show(run: Run, console: Console | None = None) -> None:
    """Prints the main table and the place of the report. Columns that do not fit are left out."""
    console = console or console_for()
    analysis = analyse(run)
    table = fitting(main_table(analysis), console.width)
    console.print(to_rich(table, console.is_terminal))
    if marks := mark_words((str(row[0]) for row in table.rows), run):
        _say(console, marks)
    _say(console, _words(analysis, table, console.is_terminal))
    console.print()
    for sentence in filter(None, (verdict(analysis), twins(analysis))):
        console.print(Text(visible(sentence), style="bold"), soft_wrap=True)
    _say(console, f"Report: {run.folder / PAGE}")


def main_table(analysis: Analysis) -> Table:
    """Returns the headline without Captum's rows that repeat ours, since `twins` tells the differences."""
    table = headline(analysis)
    hidden = {other for _, other, expected in pairs(analysis.settings) if not expected}
    if len(table.rows) != len(analysis.shown) or not hidden or not agree(parities(analysis.run)):
        return table
    kept = zip(analysis.shown, table.rows, strict=True)
    rows = ((plain_label(analysis, key), *row[1:]) for key, row in kept if key not in hidden)
    return replace(table, rows=tuple(rows))


def fitting(table: Table, width: int, order: Sequence[int] | None = None) -> Table:
    """Returns a table with the columns that fit a terminal of this width: at least the method and one more.

    `order` has the places of the columns, the most important first; None: the method, then metrics, then others.
    """
    widths = [width + _GAP for width in _widths(table)]
    kept: list[int] = []
    for index in _by_importance(table) if order is None else order:
        if len(kept) < 2 or sum(widths[i] for i in kept) + widths[index] <= width:
            kept.append(index)
    kept.sort()
    columns = tuple(table.columns[i] for i in kept)
    return replace(
        table, columns=columns, rows=tuple(tuple(row[i] for i in kept) for row in table.rows)
    )


def print_fitting(console: Console, table: Table, whole: Path) -> None:
    """Prints the columns that fit of a table with a column for each cell; columns over all cells come first."""
    of_cells = [
        i for i, column in enumerate(table.columns[1:], 1) if column.key.startswith("cell_")
    ]
    over_cells = [i for i in range(1, len(table.columns)) if i not in of_cells]
    shown = fitting(table, console.width, [0, *over_cells, *of_cells])
    console.print(to_rich(shown, console.is_terminal))
    n_hidden = len(table.columns) - len(shown.columns)
    if n_hidden:
        _say(console, f"{counted(n_hidden, 'column')} did not fit: see {whole}")
    console.print()


def print_whole(console: Console, table: Table) -> None:
    """Prints all columns of a table; a terminal that is too narrow breaks the lines."""
    needed = sum(width + _GAP for width in _widths(table))
    console.width = max(console.width, needed)
    console.print(to_rich(table, console.is_terminal))


def _by_importance(table: Table) -> list[int]:
    """Returns the places of columns: the method, then metrics in order, then columns without a direction of better."""
    metrics = [i for i, column in enumerate(table.columns) if column.higher_is_better is not None]
    return [0, *metrics, *(i for i in range(1, len(table.columns)) if i not in metrics)]


def _widths(table: Table) -> list[int]:
    """Returns the width of each column: headings wrap, cells do not."""
    cells = printed(table)
    return [
        max([len(max(column.heading.split(), key=len)), *(_cell_width(row[i]) for row in cells)])
        for i, column in enumerate(table.columns)
    ]


def _cell_width(cell: Printed) -> int:
    return len(cell.text) + cell.best + (len(cell.interval) + 1 if cell.interval else 0)


def to_rich(table: Table, colored: bool) -> RichTable:
    """Returns a table for a terminal; the best cells are bold, and have a star if there are no colours."""
    title = Text(visible(table.title), style="bold")
    shown = RichTable(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1)
    )
    cells = printed(table)
    for index, (column, width) in enumerate(zip(table.columns, _widths(table), strict=True)):
        numeric = bool(cells) and cells[0][index].numeric
        shown.add_column(
            Text(visible(column.heading)),
            justify="right" if numeric else "left",
            width=width,
        )
    for row in cells:
        shown.add_row(*(_cell(cell, colored) for cell in row))
    return shown


def _cell(cell: Printed, colored: bool) -> Text:
    mark = "" if colored or not cell.best else "*"
    text = Text(visible(cell.text) + mark, style="bold" if cell.best else "", no_wrap=cell.numeric)
    return text.append(f" {cell.interval}", style="dim") if cell.interval else text


def _words(analysis: Analysis, table: Table, colored: bool) -> str:
    n_hidden = len(headline(analysis).columns) - len(table.columns)
    caption = " ".join(one for one in sentences_about(table) if not one.startswith("Converged:"))
    caption = caption if colored else caption.replace("Bold:", "*:")
    hidden = f" {counted(n_hidden, 'column')} did not fit: see the report." if n_hidden else ""
    counts = analysis.summary["n"] if len(analysis.summary) else pd.Series(dtype=int)
    few = few_words(int(counts[counts > 0].min())) if (counts > 0).any() else ""
    return " ".join(part for part in (caption + hidden, few, caution(analysis)) if part)


def _say(console: Console, text: str) -> None:
    console.print(Text(visible(text)), soft_wrap=True)
