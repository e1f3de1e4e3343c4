"""The main table in LaTeX has what a paper shows, and fits its page."""

import pytest

from saliency_bench.report.analysis import analyse
from saliency_bench.report.build import build_report
from saliency_bench.report.formats import to_latex
from saliency_bench.report.paper import for_paper
from saliency_bench.report.study_tables import headline

METHODS = ("vanilla", "smoothgrad", "integrated_gradients", "random", "leave_one_out")


@pytest.fixture
def analysis(make_run, make_settings):
    return analyse(make_run(make_settings(*METHODS, backends=["native"]), n_examples=120))


def test_it_has_the_endpoint_with_interval_and_letters_three_more_means_and_the_gradients(analysis):
    table, whole = for_paper(analysis), headline(analysis)
    assert [column.key for column in table.columns] == [
        *("method", "srg", "group", "comprehensiveness", "sufficiency", "deletion_auc"),
        "n_gradients",
    ]
    lines = to_latex(table).splitlines()
    rows = [line for line in lines if line.startswith(tuple(row[0] for row in table.rows))]
    assert len(rows) == len(METHODS) == len(whole.rows)
    assert {line.count("[") for line in rows} == {1}  # one interval
    for ours, theirs in zip(table.rows, whole.rows, strict=True):
        of = dict(zip([column.key for column in whole.columns], theirs, strict=True))
        for column, cell in zip(table.columns, ours, strict=True):
            same = getattr(of[column.key], "mean", of[column.key])
            assert getattr(cell, "mean", cell) == same


def test_its_caption_explains_what_it_has_and_nothing_else(analysis):
    caption, whole = for_paper(analysis).caption, headline(analysis).caption
    assert "share a letter" in caption and "headline.csv" in caption
    assert "mean rank" in whole and "mean rank" not in caption
    assert "Insertion AUC" in whole and "Insertion AUC" not in caption


def test_the_files_of_a_run_are_the_papers_table_and_the_whole_one(
    make_run, make_settings, no_figures
):
    run = make_run(make_settings(*METHODS, backends=["native"]))
    build_report(run)
    tables = run.folder / "tables"
    assert (tables / "headline.tex").read_text("utf-8") == to_latex(for_paper(analyse(run)))
    heads = (tables / "headline.csv").read_text("utf-8").splitlines()[0].split(",")
    assert {"sufficiency_low", "insertion_auc", "seconds"} <= {*heads}


def test_a_run_without_metrics_keeps_its_table(make_run, make_settings):
    analysis = analyse(make_run(make_settings("vanilla"), metrics=()))
    assert for_paper(analysis) == headline(analysis)
