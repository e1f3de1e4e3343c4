"""Cells as text: digits, marks, and nothing that a reader's program would run."""

import csv
import io
import math
import unicodedata

import pytest

from saliency_bench.report.formats import _LATEX, to_csv, to_latex, to_markdown
from saliency_bench.report.table import Column, Estimate, Table, printed

METHOD = Column("method", "Method")
SCORE = Column("srg", "SRG", "probability", higher_is_better=True)
LOSS = Column("loss", "Loss", higher_is_better=False)


def table(*rows, columns=(METHOD, SCORE, LOSS), marks_best=True):
    return Table("t", "Title", "Caption.", columns, rows, marks_best)


SMALL = table(("a", Estimate(0.25, 0.1, 0.4), 2.0), ("b", Estimate(0.5, 0.25, 0.75), 1.0))


def test_a_csv_has_plain_numbers_and_two_columns_for_an_interval():
    assert to_csv(SMALL) == (
        "method,srg,srg_low,srg_high,loss\na,0.25,0.1,0.4,2\nb,0.5,0.25,0.75,1\n"
    )


def test_numbers_survive_a_csv_to_twelve_digits():
    value = 1 / 3e7
    cell = next(csv.DictReader(io.StringIO(to_csv(table(("a", value, -value))))))
    # Twelve significant digits are off by at most half a unit of the twelfth.
    assert float(cell["srg"]) == pytest.approx(value, rel=5e-12)
    assert float(cell["loss"]) == pytest.approx(-value, rel=5e-12)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_text_that_a_spreadsheet_would_run_gets_an_apostrophe(start):
    text = f"{start}cmd|' /C calc'!A0"
    rows = list(csv.reader(io.StringIO(to_csv(table((text, 1.0, 2.0))))))
    assert len(rows) == 2
    assert rows[1][0] == "'" + text.replace("\r", "\n")


#: What programs are known to drop from the start of a cell.
IGNORED = "".join(map(chr, range(33))) + "\u200b\ufeff"
FORMULAS = [
    f"{before}{start}{body}"
    for before in ("", " ", "\n", "\u00a0", "\ufeff", "\u200b", "\x00", "'", '"')
    for start in ("=", "+", "-", "@", "\t=", "\r=", "＝", "－")
    for body in ("1+1", "cmd|' /C calc'!A0", 'HYPERLINK("http://x","y")', "SUM(A1:A9)*9")
]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_of_text_is_a_formula_to_a_spreadsheet_that_trims_it(text):
    (row,) = list(csv.reader(io.StringIO(to_csv(table((text, 1.0, 2.0))))))[1:]
    assert len(row) == 3
    shown = unicodedata.normalize("NFKC", row[0]).lstrip(IGNORED)
    assert not shown.startswith(("=", "+", "-", "@")), row[0]


def test_a_negative_number_is_a_number():
    assert to_csv(table(("a", -1.5, -2))).splitlines()[1] == "a,-1.5,-2"


def test_what_is_missing_is_empty_in_csv_and_a_dash_in_print():
    gaps = table(("a", None, math.nan), ("b", Estimate(0.1, math.nan, math.nan), 1.0))
    assert to_csv(gaps).splitlines()[1:] == ["a,,,,", "b,0.1,,,1"]
    cells = printed(gaps)
    assert [cell.text for cell in cells[0]] == ["a", "–", "–"]
    assert cells[1][1].interval == ""


def test_the_best_mean_is_marked_in_the_direction_of_the_metric():
    marks = [[cell.best for cell in row] for row in printed(SMALL)]
    assert marks == [[False, False, False], [False, True, True]]


def test_ties_are_both_best_and_one_row_alone_is_not():
    tied = printed(table(("a", 0.5, 1.0), ("b", 0.5, 2.0)))
    assert [row[1].best for row in tied] == [True, True]
    assert not any(cell.best for cell in printed(table(("a", 0.5, 1.0)))[0])


def test_a_table_that_makes_no_claim_marks_nothing():
    quiet = table(*SMALL.rows, marks_best=False)
    assert not any(cell.best for row in printed(quiet) for cell in row)


def test_a_rounded_zero_has_no_sign():
    assert printed(table(("a", -0.0001, -0.5)))[0][1].text == "0.000"


def test_gaps_over_orders_of_magnitude_are_scientific():
    cells = printed(table(("a", 3.4e-7, 1.0), ("b", 0.2, 1.0)))
    assert [row[1].text for row in cells] == ["3.4e-07", "2.0e-01"]


def test_a_column_with_negative_numbers_is_not_scientific():
    cells = printed(table(("a", 0.0002, 1.0), ("b", -0.2, 1.0)))
    assert [row[1].text for row in cells] == ["0.000", "-0.200"]


def test_markdown_is_a_pipe_table_that_text_cannot_break():
    nasty = table(("a|b\n<script>*x*_y_`z`[l](u)", 0.25, 1.0), ("c", 0.5, 2.0))
    lines = to_markdown(nasty).splitlines()
    assert lines[2] == "| Method | SRG ↑ (probability) | Loss ↓ |"
    assert lines[3] == "| --- | ---: | ---: |"
    assert lines[4] == (r"| a\|b &lt;script&gt;\*x\*\_y\_\`z\`\[l\](u) | 0.250 | **1.000** |")
    assert lines[6:] == ["", "Caption."]


def test_latex_is_a_booktabs_table_with_the_best_bold():
    text = to_latex(SMALL)
    assert r"\begin{tabular}{@{}lrr@{}}" in text
    assert (
        r"Method & \shortstack[r]{SRG $\uparrow$ \\ (probability)} & Loss $\downarrow$ \\" in text
    )
    assert r"a & $0.250$ $[0.100, 0.400]$ & $2.000$ \\" in text
    assert r"b & $\mathbf{0.500}$ $[0.250, 0.750]$ & $\mathbf{1.000}$ \\" in text


def test_latex_text_is_escaped():
    text = to_latex(table(("\\input{x} $a_b$ 5% #1 & ~^ <y>|\x07", 1.0, 2.0)))
    row = text.splitlines()[9]
    assert row == (
        r"\textbackslash{}input\{x\} \$a\_b\$ 5\% \#1 \& \textasciitilde{}\textasciicircum{} "
        r"\textless{}y\textgreater{}\textbar{}  & $1.000$ & $2.000$ \\"
    )


LATEX = [
    rf"{before}{command}{after}"
    for command in (
        r"\input{/etc/passwd}",
        r"\include{x}",
        r"\write18{id}",
        r"\immediate\write18{id}",
        r"\openin5=/etc/passwd",
        r"\def\a{\a}\a",
        r"\csname input\endcsname{x}",
        r"\catcode`\@=0 @input{x}",
        r"^^5cinput{x}",
        r"\end{tabular}\input{x}",
        r"\\[9999pt]",
        r"\verb|x|",
        r"%\n}",
        r"$\lambda$ & \hline",
        r"\url{http://x}",
        r"\special{ps: x}",
        r"\directlua{os.execute('id')}",
        r"#1{\expandafter}",
    )
    for before, after in (("", ""), ("a ", " b"), ("{", "}"), ("}", "{"), ("$", "$"))
]


@pytest.mark.parametrize("text", LATEX)
def test_no_text_is_a_command_to_latex(text):
    row = to_latex(table((text, 1.0, 2.0))).splitlines()[9]
    cell, *numbers = row.removesuffix(r" \\").rsplit(" & ", 2)
    assert numbers == ["$1.000$", "$2.000$"]
    # What remains beside our own words for signs has none of LaTeX's special characters.
    for own in sorted({*_LATEX.values()}, key=len, reverse=True):
        cell = cell.replace(own, "")
    assert not set(cell) & set("\\{}$&#%_~^"), cell


def test_a_latex_row_that_starts_with_a_bracket_is_no_argument():
    assert "\n{}[x] & " in to_latex(table(("[x]", 1.0, 2.0)))


def test_latex_writes_powers_of_ten():
    text = to_latex(table(("a", 3.4e-7, 1.0), ("b", 0.2, 1.0)))
    assert r"$3.4\times10^{-07}$" not in text and r"$3.4\times10^{-7}$" in text


@pytest.mark.parametrize("write", [to_csv, to_markdown, to_latex])
def test_an_empty_table_has_a_head(write):
    assert "SRG" in write(table()) or "srg" in write(table())
