"""The table and maps on a terminal, and in a pipe."""

import io
import re
from html import unescape

import pytest
from rich.console import Console

from saliency_bench.api.study import StudyResult
from saliency_bench.core.verdicts import Verdict
from saliency_bench.report.analysis import analyse
from saliency_bench.report.study_tables import headline
from saliency_bench.report.table import printed
from saliency_bench.report.terminal import fitting, main_table, show
from saliency_bench.report.token_maps import show_verdicts


def shown(run, **options):
    stream = io.StringIO()
    show(run, Console(file=stream, **options))
    return stream.getvalue()


def test_a_pipe_gets_plain_text_with_the_table_and_the_place_of_the_report(run):
    text = shown(run, width=160)
    assert "\x1b" not in text
    assert "Leave-one-out" in text and "SRG ↑" in text
    assert text.endswith(f"Report: {run.folder / 'report.html'}\n")


@pytest.mark.parametrize("width", [60, 80, 120, 200, 400])
def test_no_number_is_cut_on_a_terminal_of_any_width(run, width):
    table = fitting(main_table(analyse(run)), width)
    text = shown(run, width=width)
    for row in printed(table):
        (line,) = [line for line in text.splitlines() if line.strip().startswith(row[0].text)]
        for cell in row[1:]:
            assert f"{cell.text} {cell.interval}".strip() in line


@pytest.mark.parametrize(("n", "warned"), [(9, True), (10, False)])
def test_a_terminal_warns_of_intervals_over_fewer_than_ten_texts(
    make_run, make_settings, n, warned
):
    run = make_run(make_settings("vanilla", "smoothgrad"), n_examples=n)
    text = shown(run, width=160)
    assert ("Warning: n = 9." in text) == warned
    assert ("Warning" in text) == warned


def test_a_narrow_terminal_keeps_the_method_and_the_first_metrics(run):
    table = headline(analyse(run))
    assert [column.key for column in fitting(table, 60).columns] == ["method", "srg"]
    assert fitting(table, 1000) == table
    assert "columns did not fit" in shown(run, width=70)
    assert "columns did not fit" not in shown(run, width=1000)


def test_colours_are_for_terminals_that_have_them(make_run, run):
    text = shown(run, force_terminal=True, color_system="truecolor", width=120)
    assert "\x1b[" in text
    assert "Leave-one-out" in re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_names_cannot_send_codes_to_the_terminal(run):
    manifest = run.manifest | {"name": "\x1b]0;owned\x07"}
    text = shown(type(run)(run.folder, manifest, run.settings, run.tables), width=160)
    assert "\x1b" not in text and "\x07" not in text and "␛]0;owned␇" in text


@pytest.mark.parametrize("width", [60, 160])
def test_the_table_of_verdicts_is_no_wider_than_a_page(width):
    why = (
        "sum of scores and change of the output differ by 0.45 % (limit 5 %); and so on, and so on"
    )
    stream = io.StringIO()
    said = Verdict("Integrated Gradients", True, why, None)
    show_verdicts([said], "Trust it.", Console(file=stream, width=width))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= min(width, 100)
    words = " ".join(line[len("Integrated Gradients") :] for line in lines).split()
    assert set(why.split()) <= set(words)


@pytest.mark.parametrize("n_unsure", [1, 2])
def test_the_mark_is_explained_in_one_line_wherever_it_is_shown_and_nowhere_else(
    make_run, make_settings, n_unsure
):
    settings = make_settings("integrated_gradients", "vanilla")
    run = make_run(settings, n_examples=20, n_unsure=n_unsure)
    result = StudyResult(run.folder)
    vars(result)["run"] = run
    for text in (shown(run, width=200), repr(result), unescape(result._repr_html_())):
        # 18 of 20 are fewer than 95 %; 19 of 20 are not.
        assert ("✗" in text) == (n_unsure == 2)
        assert text.count("not converged: fewer than 95 % of its maps") == (n_unsure == 2)
        assert "Converged: maps" not in text
