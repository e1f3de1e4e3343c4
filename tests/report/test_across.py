"""Several runs side by side: what is paired, what is pooled, and what is not claimed."""

import io
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from saliency_bench.core.errors import InputError
from saliency_bench.core.rows import Setting
from saliency_bench.report.across import across, cells_table, differences, tables, variance
from saliency_bench.report.across_plots import forest, look
from saliency_bench.report.build import build_across
from saliency_bench.report.style import HEIGHT, styled
from saliency_bench.report.terminal import print_fitting

METHODS = ("vanilla", "integrated_gradients", "random")


@pytest.fixture
def cells(make_run, make_settings):
    """Runs that differ in their training seed and, by a known amount, in all values."""
    settings = make_settings(*METHODS, backends=("native",))
    run = make_run(settings, n_examples=12, metrics=("srg",))

    def cell(number, shift=0.0, **manifest):
        rows = run.tables["rows"].assign(cell_id=f"cell{number}")
        rows["value"] += shift
        model = run.manifest["model"] | {"training_seed": number}
        own = run.manifest | {"id": f"run{number}", "cell_id": f"cell{number}", "model": model}
        return replace(
            run,
            folder=run.folder / str(number),
            manifest=own | manifest,
            tables=run.tables | {"rows": rows},
        )

    return cell


def test_the_mean_over_cells_is_taken_example_by_example(cells):
    found = across([cells(0), cells(1, 0.3)])
    table = cells_table(found)
    for place, key in enumerate(found.keys):
        one = table.rows[place]
        a, b = (cell.values[key] for cell in found.cells)
        assert one[1].mean == pytest.approx(a.mean())
        assert one[2].mean == pytest.approx(a.mean() + 0.3)
        assert one[3].mean == pytest.approx(((a + b) / 2).mean())
    # A shift of a whole cell widens no interval: cells are not resampled.
    assert table.rows[0][3].high - table.rows[0][3].low == pytest.approx(
        table.rows[0][1].high - table.rows[0][1].low
    )
    assert "make no claim" in table.caption
    assert found.friedman is None


def test_best_methods_stand_first_and_ranks_are_over_cells(cells):
    found = across([cells(number) for number in range(3)])
    means = found.means.mean(0)
    assert (np.diff(means) <= 0).all()
    assert [row[5] for row in cells_table(found).rows] == [1.0, 2.0, 3.0]


def test_differences_are_paired_within_each_cell(cells):
    found = across([cells(0), cells(1, 5.0)])
    for row in differences(found).rows:
        # What moves a whole cell moves no difference within it.
        assert row[1].mean == pytest.approx(row[2].mean)
        assert row[1].low == pytest.approx(row[2].low)


def test_sources_of_variance_stand_apart(cells):
    runs = [cells(0), cells(1, 0.3), cells(2, 0.6)]
    table = variance(across(runs))
    assert [column.label for column in table.columns][3:] == ["SD over training seeds"]
    for row, key in zip(table.rows, across(runs).keys, strict=True):
        values = across(runs).cells[0].values[key]
        assert row[1] == pytest.approx(values.std(ddof=1))
        assert row[2] == pytest.approx(values.std(ddof=1) / np.sqrt(12))
        assert row[3] == pytest.approx(0.3)


def test_from_six_cells_on_there_is_a_test_and_a_diagram(cells, tmp_path):
    found = across([cells(number, 0.01 * number) for number in range(6)])
    assert found.friedman.n_cells == 6
    assert "Friedman" in cells_table(found).caption
    runs = [cells(number, 0.01 * number) for number in range(6)]
    build_across(found, runs, tmp_path, "saliency-bench across")
    written = {path.name for path in tmp_path.rglob("*.*")}
    assert {
        "cells.md",
        "differences.csv",
        "variance.tex",
        "forest.png",
        "critical_difference.pdf",
    } <= written
    assert {"across.md", "manifest.json"} <= written


def test_with_fewer_a_diagram_of_an_earlier_report_goes(cells, tmp_path):
    runs = [cells(0), cells(1)]
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "critical_difference.png").write_bytes(b"old")
    build_across(across(runs), runs, tmp_path, "saliency-bench across")
    assert not (tmp_path / "figures" / "critical_difference.png").exists()


def test_noise_seeds_are_the_same_setting_in_another_cell(cells):
    first = cells(0)
    settings = [
        one | {"seed": 7, "setting_id": f"other-{one['setting_id']}"} for one in first.settings
    ]
    rows = first.tables["rows"]
    rows = rows.assign(setting_id="other-" + rows["setting_id"])
    config = first.manifest["config"] | {"seed": 7}
    other = replace(
        first,
        settings=settings,
        tables=first.tables | {"rows": rows},
        manifest=first.manifest | {"config": config},
    )
    found = across([first, other])
    assert found.varying == ["noise_seed"]
    assert np.ptp(found.means, axis=0) == pytest.approx(0)


def test_other_examples_are_not_pooled(cells):
    first, other = cells(0), cells(1)
    rows = other.tables["rows"]
    fewer = other.tables | {"rows": rows[rows["example_id"] != "e000"]}
    found = across([first, replace(other, tables=fewer)])
    assert found.same_examples is None
    assert isinstance(cells_table(found).rows[0][3], float)
    assert len(tables(found)) == 3


def test_an_example_without_a_value_in_one_cell_has_none_over_all(cells):
    first, other = cells(0), cells(1)
    rows = other.tables["rows"].copy()
    missing = (rows["example_id"] == "e000") & (
        rows["setting_id"] == first.settings[0]["setting_id"]
    )
    rows.loc[missing, ["value", "status"]] = [np.nan, "failed"]
    found = across([first, replace(other, tables=other.tables | {"rows": rows})])
    assert int(pd.isna(found.same_examples).to_numpy().sum()) == 1


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda cell: [cell(0)], "at least two"),
        (lambda cell: [cell(0), cell(0)], "same model, data and seeds"),
        (
            lambda cell: [cell(0), replace(cell(1), settings=cell(1).settings[:2])],
            "do not have the same settings",
        ),
    ],
)
def test_what_cannot_stand_side_by_side_is_refused(cells, make, says):
    with pytest.raises(InputError, match=says):
        across(make(cells))


def test_a_metric_without_direction_is_refused(cells):
    with pytest.raises(InputError, match="no metric deletion"):
        across([cells(0), cells(1)], "deletion")


def test_cells_are_named_by_no_more_than_tells_them_apart(cells):
    def of(number, kind):
        one = cells(0)
        model = one.manifest["model"] | {"name": f"shortcut-{kind}"}
        data = one.manifest["data"] | {"sha256": str(number) * 64}
        return replace(one, manifest=one.manifest | {"model": model, "data": data})

    found = across([of(0, "pair"), of(1, "single")])
    assert found.varying == ["data", "model"]
    assert found.names == ["shortcut-pair", "shortcut-single"]
    # No two cells differ in one of them alone: nothing is known of either.
    assert [column.key for column in variance(found).columns] == ["method", "examples", "error"]
    assert "another source" not in variance(found).caption


def test_what_was_made_for_an_experiment_is_called_by_its_kind_where_that_tells_it_apart(cells):
    def of(number, kind, seed=0):
        one = cells(0)
        facts = {"name": f"shortcuts-{kind}-seed{seed}", "kind": kind, "training_seed": seed}
        data = one.manifest["data"] | {"sha256": str(number) * 64, "kind": kind}
        manifest = {"model": one.manifest["model"] | facts, "data": data}
        return replace(one, manifest=one.manifest | manifest)

    found = across([of(0, "token_in_context"), of(1, "ordered_pair")])
    assert found.names == ["token in context", "ordered pair"]
    seeds = across([of(0, "ordered_pair"), of(0, "ordered_pair", 1)])
    assert seeds.names == ["training seed 0", "training seed 1"]
    alike = across([of(0, "ordered_pair"), of(1, "ordered_pair")])
    assert len(set(alike.names)) == 2


def test_a_setting_that_did_not_converge_in_one_cell_is_marked_in_all_tables_and_the_forest(cells):
    first, other = cells(0), cells(1)
    assert not any("✗" in label for label in across([first, other]).labels.values())
    doubted = other.tables["convergence"].assign(tau=0.5)
    other = replace(other, tables=other.tables | {"convergence": doubted})
    found = across([first, other])
    marked = [label for label in found.labels.values() if label.endswith(" ✗")]
    assert marked == ["Integrated Gradients ✗"]
    for table in tables(found):
        assert sum("✗" in str(row[0]) for row in table.rows) == 1
        assert "✗: in one cell or more" in table.caption
    with styled():
        figure = forest(found)
    assert "✗: in one cell or more" in figure.get_supxlabel()
    assert "✗" in "".join(one.get_text() for one in figure.axes[0].get_yticklabels())


def test_no_two_of_many_cells_look_alike():
    assert len({look(number) for number in range(64)}) == 64


def test_a_cell_whose_model_did_not_pass_its_gate_is_marked_and_the_reason_stands_below(cells):
    gate = {"passed": False, "reason": "right on 81% of the incomplete ones"}
    runs = [cells(0), cells(1), cells(2)]
    runs[1].manifest["model"]["gate"] = gate
    runs[2].manifest["model"]["gate"] = {"passed": True, "reason": ""}
    found = across(runs)
    assert found.names == ["training seed 0", "training seed 1 †", "training seed 2"]
    assert gate["reason"] in cells_table(found).caption
    assert "†" not in cells_table(across([runs[0], runs[2]])).caption


def test_a_terminal_shows_what_is_said_over_all_cells_first_and_where_the_rest_is(cells, tmp_path):
    table = cells_table(across([cells(number) for number in range(9)]))
    stream = io.StringIO()
    print_fitting(Console(file=stream, width=80), table, tmp_path / "across.md")
    text = stream.getvalue()
    words = " ".join(text.split())
    assert "Mean" in words and "rank" in words and not {"…", "␊"} & {*text}
    assert re.search(r"[5-9] columns did not fit: see", words) and "across.md" in text.replace(
        "\n", ""
    )
    assert max(map(len, text.splitlines()[:10])) <= 80


def test_a_forest_of_many_settings_in_many_cells_fits_a_page(make_run):
    paths = [
        Setting(
            "integrated_gradients",
            "integrated_gradients",
            "native",
            reduction,
            "predicted",
            "logit",
            0,
            hyper,
        )
        for reduction in ("sum", "l2")
        for baseline in ("mask", "max_entropy")
        for n in (8, 16, 32)
        for rule in ("left", "midpoint")
        for hyper in [{"baseline": baseline, "n_steps": n, "quadrature": rule}]
    ]
    run = make_run(paths, n_examples=4, metrics=("srg",))
    models = [run.manifest["model"] | {"training_seed": number} for number in range(3)]
    runs = [replace(run, manifest=run.manifest | {"model": model}) for model in models]
    with styled():
        figure = forest(across(runs))
        figure.savefig(io.BytesIO(), dpi="figure")
    assert figure.get_figheight() <= HEIGHT
    names = [one.get_window_extent() for one in figure.axes[0].get_yticklabels()]
    assert all(low.y1 <= high.y0 for high, low in pairwise(names))
