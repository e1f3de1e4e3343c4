"""Writes tables as CSV, Markdown and LaTeX: the same table gives the same bytes, and no cell is ever code."""

import csv
import io
import math
import re
import unicodedata
from collections.abc import Sequence

from saliency_bench.report.table import Cell, Column, Estimate, Printed, Table, printed

#: The beginning of a text that a spreadsheet would run as a formula; it drops invisible characters before it.
_FORMULA = re.compile(r"[\t\r]|[\x00-\x20\u200b\ufeff]*[=+\-@]")
_MARKDOWN = re.compile(r"([\\`*_\[\]|~])")
_SCIENTIFIC = re.compile(r"e([+-])0*(\d+)")
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "×": r"$\times$",
    "→": r"$\to$",
    "−": r"$-$",
    "–": "--",
    "✓": r"$\surd$",
    "✗": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "α": r"$\alpha$",
    "±": r"$\pm$",
    "²": r"$^2$",
    "…": r"\ldots{}",
    "τ": r"$\tau$",
    "σ": r"$\sigma$",
    "Σ": r"$\Sigma$",
}


def to_csv(table: Table) -> str:
    """Returns CSV with plain numbers and the ends of intervals in two columns; formulas are escaped by an apostrophe."""
    header: list[str] = []
    columns: list[Sequence[Cell]] = []
    for index, column in enumerate(table.columns):
        cells = [row[index] for row in table.rows]
        header.append(column.key)
        if any(isinstance(cell, Estimate) for cell in cells):
            header += [f"{column.key}_low", f"{column.key}_high"]
            triples = (cell if isinstance(cell, Estimate) else (cell, None, None) for cell in cells)
            columns += zip(*triples, strict=True)
        else:
            columns.append(cells)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(map(_plain, header))
    writer.writerows(map(_plain, row) for row in zip(*columns, strict=True))
    return stream.getvalue()


def _plain(cell: Cell) -> str:
    if isinstance(cell, str):
        # The writer quotes "\n" but leaves "\r" bare, which would end the line.
        text = cell.replace("\r\n", "\n").replace("\r", "\n")
        runs = _FORMULA.match(unicodedata.normalize("NFKC", cell))  # full-width signs too
        return f"'{text}" if runs else text
    if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
        return ""
    # Twelve digits: beyond them a mean depends on the order of a sum.
    return f"{cell:.12g}" if isinstance(cell, float) else str(cell)


def to_markdown(table: Table) -> str:
    """Returns Markdown: a heading, a pipe table with the best values bold, and the caption."""
    head = [_markdown(column.heading) for column in table.columns]
    cells = printed(table)
    rule = ["---:" if _numeric(cells, i) else "---" for i in range(len(head))]
    lines = [head, rule, *([_markdown_cell(cell) for cell in row] for row in cells)]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"## {_markdown(table.title)}\n\n{body}\n\n{_markdown(table.caption)}\n"


def _markdown(text: str) -> str:
    safe = _one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", safe)


def _markdown_cell(cell: Printed) -> str:
    text = f"**{cell.text}**" if cell.best else _markdown(cell.text)
    return f"{text} {_markdown(cell.interval)}" if cell.interval else text


def to_latex(table: Table) -> str:
    """Returns a LaTeX `table` with escaped text and the best values bold, for the packages booktabs and graphicx.

    A table that is wider than the text is shrunk to its width.
    """
    cells = printed(table)
    alignment = "".join("r" if _numeric(cells, i) else "l" for i in range(len(table.columns)))
    lines = [
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{_latex(table.title)}. {_latex(table.caption)}}}",
        rf"\label{{tab:{table.name}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{@{{}}{alignment}@{{}}}}",
        r"\toprule",
        _latex_row(list(map(_latex_heading, table.columns, alignment))),
        r"\midrule",
        *(_latex_row([_latex_cell(cell) for cell in row]) for row in cells),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    # After a row end, "[" would start its optional argument.
    return " & ".join(f"{{}}{cell}" if cell.startswith("[") else cell for cell in cells) + r" \\"


def _latex_heading(column: Column, side: str) -> str:
    """Returns a heading in lines: a label of several words in two, and the unit below."""
    words = column.label.split()
    half = (len(words) + 1) // 2
    lines = [" ".join(part) for part in (words[:half], words[half:]) if part]
    lines[-1] += column.arrow
    lines += [f"({column.unit})"] if column.unit else []
    stacked = r" \\ ".join(map(_latex, lines))
    return rf"\shortstack[{side}]{{{stacked}}}" if len(lines) > 1 else stacked


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in _one_line(text))


def _latex_cell(cell: Printed) -> str:
    if not cell.numeric or cell.text == "–":
        return _latex(cell.text)
    number, interval = _latex_number(cell.text), _latex_number(cell.interval)
    text = rf"$\mathbf{{{number}}}$" if cell.best else f"${number}$"
    return f"{text} ${interval}$" if interval else text


def _latex_number(text: str) -> str:
    return _SCIENTIFIC.sub(lambda e: rf"\times10^{{{e[1].replace('+', '')}{e[2]}}}", text)


def _numeric(cells: Sequence[Sequence[Printed]], index: int) -> bool:
    return bool(cells) and all(row[index].numeric for row in cells)


def _one_line(text: str) -> str:
    """Replaces control characters by spaces: they would end a cell, or hide its content."""
    return "".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") else c for c in text)
