"""Reports of tasks with several questions about a text: the unit is the text, and they say so."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from saliency_bench.report.analysis import analyse
from saliency_bench.report.html import what_was_run
from saliency_bench.report.plots import _on_grid
from saliency_bench.report.removal_cost import removal_cost
from saliency_bench.report.study_tables import tables

TIMES = 2  # the mean of a number and itself is the number, to the last digit


@pytest.fixture
def plain(make_run, make_settings):
    return make_run(make_settings("vanilla", "smoothgrad", "random"), n_examples=6)


@pytest.fixture
def asked(plain):
    """The same run, with every text's numbers once for each of two questions about it."""

    def again(table):
        if "example_id" not in table:
            return table
        parts = [
            table.assign(example_id=table["example_id"] + f"@{place}") for place in range(TIMES)
        ]
        return pd.concat(parts, ignore_index=True)

    config = dict(plain.manifest["config"]) | {"model": {"task": "token-classification"}}
    manifest = plain.manifest | {"config": config}
    return replace(plain, manifest=manifest, tables={k: again(t) for k, t in plain.tables.items()})


def test_tables_of_questions_have_the_numbers_of_their_texts(plain, asked):
    ours, theirs = tables(analyse(asked)), tables(analyse(plain))
    assert ours.keys() == theirs.keys()
    for name in ("headline", "summary", "comparison", "agreement", "removal_cost"):
        if name not in ours:
            continue
        assert ours[name].rows == theirs[name].rows, name


def test_the_curves_of_questions_have_the_bands_of_their_texts(plain, asked):
    both = [analyse(run) for run in (asked, plain)]
    key = both[0].drawn[0]
    mine, other = (_on_grid(one.curves(key), "deletion") for one in both)
    np.testing.assert_array_equal(mine, other)
    assert removal_cost(both[0]).rows == removal_cost(both[1]).rows


def test_a_report_says_how_many_texts_and_questions_there_were(plain, asked):
    found = analyse(asked)
    assert (found.n_examples, found.n_questions) == (6, 6 * TIMES)
    assert "6 texts, 12 questions" in tables(found)["headline"].title
    assert "over texts, whose questions are averaged first" in tables(found)["headline"].caption
    assert "explained 6 texts" in what_was_run(found) and "12 questions" in what_was_run(found)
    before = analyse(plain)
    assert "6 examples" in tables(before)["headline"].title
    assert "question" not in what_was_run(before)
