"""The sentence of result says what the paired intervals say, and never more."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from saliency_bench.report import study_tables
from saliency_bench.report.analysis import analyse
from saliency_bench.report.formats import to_csv, to_latex, to_markdown
from saliency_bench.report.html import page, question, what_was_run
from saliency_bench.report.plots import curves
from saliency_bench.report.stats import compare
from saliency_bench.report.terminal import main_table, show
from saliency_bench.report.verdict import twins, verdict


def with_gap(make_run, make_settings, gap, n=30, metric="srg"):
    """A run of three methods whose first is better by `gap` on average, with noise of 0.2 on every text."""
    run = make_run(
        make_settings("integrated_gradients", "vanilla", "random", backends=("native",)),
        n_examples=n,
        metrics=(metric,),
    )
    rows = run.tables["rows"]
    noise = np.random.default_rng(0).normal(0, 0.2, len(rows))
    first = run.settings[0]["setting_id"]
    better = 1 if metric == "srg" else -1
    rows["value"] = noise + better * gap * (rows["setting_id"].astype(str) == first)
    return run


@pytest.mark.parametrize("metric", ["srg", "deletion_auc"])
def test_ahead_is_said_where_the_interval_leaves_0_out(make_run, make_settings, metric):
    run = with_gap(make_run, make_settings, 0.5, metric=metric)
    analysis = analyse(run)
    best, vanilla = (one["setting_id"] for one in run.settings[:2])
    (row,) = compare(
        analysis.rows[analysis.rows["setting_id"].isin([best, vanilla])],
        vanilla,
        analysis.resampling,
    ).itertuples()
    low, high = sorted((abs(row.low), abs(row.high)))
    said = verdict(analysis)
    assert "Integrated Gradients is ahead of Vanilla gradient" in said
    assert f"(by {abs(row.difference):.3f} [{low:.3f}, {high:.3f}])" in said
    assert said.endswith("30 texts: a first look, no claim.") and "Random" not in said


def test_ahead_is_never_said_where_the_interval_holds_0(make_run, make_settings):
    for gap in np.linspace(-0.2, 0.2, 9):
        analysis = analyse(with_gap(make_run, make_settings, gap))
        best, *others = [key for key in analysis.shown if analysis.setting(key)["name"] != "random"]
        row = compare(
            analysis.rows[analysis.rows["setting_id"].isin([best, *others])],
            best,
            analysis.resampling,
        ).iloc[0]
        assert ("ahead" in verdict(analysis)) == (round(row["high"], 3) < 0)
        assert ("not told apart" in verdict(analysis)) == (round(row["high"], 3) >= 0)


def test_a_difference_that_rounds_to_0_has_no_sign(make_run, make_settings):
    run = with_gap(make_run, make_settings, 0)
    run.tables["rows"]["value"] *= 1e-4  # in both signs, below the last digit
    said = verdict(analyse(run))
    assert "(by 0.000 [0.000, 0.000])" in said


@pytest.mark.parametrize(("n", "scale"), [(5, 1.0), (30, 1e-4)])
def test_nothing_is_ahead_of_few_texts_or_by_less_than_the_last_digit(
    make_run, make_settings, n, scale
):
    run = with_gap(make_run, make_settings, 5.0, n=n)
    run.tables["rows"]["value"] *= scale
    said = verdict(analyse(run))
    assert "not told apart" in said and "ahead" not in said


def test_one_text_gives_numbers_without_an_interval_in_every_format(make_run, make_settings):
    run = with_gap(make_run, make_settings, 0.5, n=1)
    analysis, said = analyse(run), io.StringIO()
    assert "(by " in verdict(analysis) and "[" not in verdict(analysis)
    assert verdict(analysis).endswith("1 text, which gives no interval: a first look, no claim.")
    tables = study_tables.tables(analysis)
    show(run, Console(file=said, width=400))
    assert "One text gives no interval." in said.getvalue() and "can cover" not in said.getvalue()
    written = [
        write(table) for table in tables.values() for write in (to_latex, to_markdown, to_csv)
    ]
    shown = [said.getvalue(), page(analysis, tables, {}), *written]
    assert [text for text in shown if re.search(r"\bnan\b", text, re.IGNORECASE)] == []


def test_six_texts_that_all_say_the_same_are_enough(make_run, make_settings):
    assert "is ahead of" in verdict(analyse(with_gap(make_run, make_settings, 5.0, n=6)))


def test_a_study_that_makes_claims_needs_letters_too(make_run, make_settings, monkeypatch):
    analysis = analyse(with_gap(make_run, make_settings, 0.5, n=120))
    assert "ahead" in verdict(analysis) and verdict(analysis).endswith("120 texts.")
    shared = dict.fromkeys(analysis.groups, "a")
    monkeypatch.setitem(analysis.__dict__, "groups", shared)
    assert "ahead" not in verdict(analysis)


@pytest.mark.parametrize("n_near", [3, 4, 6])
def test_at_most_three_that_are_not_told_apart_are_named(make_run, make_settings, n_near):
    methods = ("attnlrp", "gim", "input_x_gradient", "leave_one_out", "smoothgrad", "vanilla")
    names = ("integrated_gradients", *methods[:n_near])
    run = make_run(make_settings(*names, backends=("native",)), n_examples=5, metrics=("srg",))
    said = verdict(analyse(run))
    assert said.count("(by ") == min(3, n_near)
    assert (f"and {n_near - 3} more." in said) == (n_near > 3)


def test_two_settings_of_one_method_are_told_apart_and_counted_as_one_method(
    make_run, make_settings
):
    plain, vanilla, chance = make_settings(
        "integrated_gradients", "vanilla", "random", backends=("native",)
    )
    own = replace(plain, name="integrated_gradients_18", hyper=plain.hyper | {"n_steps": 18})
    for fewer in (own, replace(own, name="integrated_gradients_fast")):
        analysis = analyse(make_run([plain, fewer, vanilla, chance], metrics=("srg",)))
        name = "fast, " * fewer.name.endswith("fast")
        labels = ["Integrated Gradients (n_steps=50)", f"Integrated Gradients ({name}n_steps=18)"]
        assert [analysis.labels[one.id] for one in (plain, fewer)] == labels
        assert all(label in verdict(analysis) for label in labels)
        legend = [text.get_text() for text in curves(analysis).legends[0].get_texts()]
        assert {*labels} <= {" ".join(text.split()) for text in legend}
        assert question(analysis).startswith("Which of 2 methods ")
        assert what_was_run(analysis).startswith(
            "2 methods in 3 settings and random rankings explained "
        )


def test_nothing_is_said_of_one_method(make_run, make_settings):
    assert (
        verdict(analyse(make_run(make_settings("vanilla", "random", backends=("native",))))) == ""
    )


def test_captums_twins_are_a_sentence(run):
    assert twins(analyse(run)).startswith("Captum gives ")


@pytest.mark.parametrize("tolerance", [1.0, 0.0])
def test_a_row_of_captums_is_hidden_only_where_it_agrees(run, tolerance):
    run.manifest["parity"] = {"relative_tolerance": tolerance}
    analysis = analyse(run)
    agrees = "the same scores" in twins(analysis)
    assert agrees == (tolerance > 0)
    labels = [row[0] for row in main_table(analysis).rows]
    assert len(labels) == len(analysis.shown) - 2 * agrees
    assert any("Captum" in label for label in labels) != agrees
