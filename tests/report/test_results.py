"""What results/ shows follows from the rows that are kept there."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from docs import families
from saliency_bench.report import across, study_tables
from saliency_bench.report.analysis import analyse
from saliency_bench.report.build import build_report
from saliency_bench.report.formats import to_latex, to_markdown
from saliency_bench.report.stats import Resampling, intervals
from saliency_bench.store.run import IDENTITY, read_run

RESULTS = Path(__file__).parents[2] / "results"


#: The runs that keep tables, from which pages quote, and the maps that costs are read from.
SHOWN = sorted(
    str(path.parent.relative_to(RESULTS))
    for path in RESULTS.rglob("tables")
    if (path.parent / IDENTITY).is_file() and (path.parent / "maps.parquet").is_file()
)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("name", SHOWN)
def test_the_tables_of_a_run_are_made_again_to_the_byte(name, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(RESULTS / name, folder)
    kept = {path.name: path.read_bytes() for path in (folder / "tables").iterdir()}
    assert "headline.md" in kept
    shutil.rmtree(folder / "tables")
    build_report(read_run(folder))
    assert {name: (folder / "tables" / name).read_bytes() for name in kept} == kept


@pytest.mark.parametrize("name", ["across", "across_attention"])
def test_the_tables_over_training_seeds_are_made_again_to_the_byte(name):
    folder = RESULTS / "full_comparison"
    manifest = json.loads((folder / name / "manifest.json").read_text("utf-8"))
    runs = [read_run(folder / cell["folder"]) for cell in manifest["cells"]]
    made = across.tables(across.across(runs, manifest["metric"]))
    kept = (folder / name / "across.md").read_text("utf-8")
    assert len(runs) == 3
    assert "\n".join(map(to_markdown, made)) == kept


def test_tables_of_a_run_are_latex_of_ascii_alone():
    made = study_tables.tables(analyse(read_run(RESULTS / "method_comparison")))
    assert {"headline", "comparison"} <= {*made}
    assert [name for name, table in made.items() if not to_latex(table).isascii()] == []


def test_the_readme_quotes_the_families_of_models():
    table = pd.read_csv(RESULTS / "families" / "methods.csv")
    table = table[(table["metric"] == "srg_on_grid") & (table["removal"] == "mask")]
    cells = table.set_index(["method", "family"])[["mean", "low", "high", "doubtful"]]
    readme = (RESULTS.parent / "README.md").read_text("utf-8").splitlines()
    head = next(at for at, line in enumerate(readme) if line.startswith("| Method |"))
    _, _, *families = _cells(readme[head])
    assert set(families) == set(table["family"])
    body = readme[head + 2 : readme.index("", head)]
    assert len(body) == 8
    for name, _, *quoted in map(_cells, body):
        for family, cell in zip(families, quoted, strict=True):
            mean, low, high, doubtful = cells.loc[name.split(", ")[0], family]
            assert cell == f"{mean:.3f} [{low:.3f}, {high:.3f}]" + " †" * bool(doubtful)


def _cells(line):
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_the_page_of_findings_in_short_quotes_the_headline_table():
    headline = (RESULTS / "method_comparison" / "tables" / "headline.md").read_text("utf-8")
    page = (RESULTS.parent / "docs" / "in_short.md").read_text("utf-8")
    quoted = [line.split(" | ")[2:] for line in page.splitlines() if line.count(" | ") == 7]
    found = headline.replace("\\", "")
    numbers = [cell.strip(" |") for row in quoted for cell in row if "[" in cell]
    assert len(numbers) == 7 * 6
    assert [one for one in numbers if one not in found] == []


def test_the_intervals_of_the_effects_are_todays_of_the_rows_beside_them():
    """As `docs/effects.py redraw` writes and draws them."""
    what = ["effect", "variant", "measure"]
    rows = pd.read_csv(RESULTS / "effects" / "effects.csv").groupby(what)["value"]
    summary = pd.read_csv(RESULTS / "effects" / "summary.csv").set_index(what)
    assert set(summary.index) == set(rows.groups)
    for key, values in rows:
        ends = intervals(values.to_numpy()[:, None], Resampling(0.95, 9999, 0))
        expected = [values.mean(), *(float(end[0]) for end in ends)]
        # Written with four digits: off by half a unit of the last, 1/2000 of a number at most.
        assert summary.loc[key, ["mean", "low", "high"]].tolist() == pytest.approx(
            expected, rel=1 / 2000
        )


def test_the_findings_quote_how_smoothing_did_against_what_is_known_to_matter():
    """Each pair's difference in plausibility stands on the page, with its interval, for each training seed."""
    pairs = pd.read_csv(RESULTS / "smoothing" / "truth" / "pairs.csv")
    page = (RESULTS.parent / "docs" / "findings.md").read_text("utf-8")
    table = pairs[pairs["truth"] == "plausibility"].set_index(["method", "training_seed"])
    assert sorted(table.index.unique("training_seed")) == [0, 1, 2]
    for _, cells in table.groupby("method"):
        numbers = zip(cells["difference"], cells["low"], cells["high"], strict=True)
        shown = [f"{mean:.3f} [{low:.3f}, {high:.3f}]" for mean, low, high in numbers]
        assert " | ".join(shown) in page


def test_what_holds_between_families_follows_from_the_rows_beside_it_and_stands_on_the_page():
    folder = RESULTS / "families"
    rows = pd.read_csv(folder / "rows.csv.gz", keep_default_na=False)
    kept = pd.read_csv(folder / "conclusions.csv")
    made = {
        "orders.csv": families.orders(rows, ["Random"]),
        "conclusions.csv": families.conclusions(rows),
    }
    for name, table in made.items():
        pd.testing.assert_frame_equal(
            table, pd.read_csv(folder / name), check_dtype=False, rtol=1e-4, atol=1e-6
        )
    means = pd.read_csv(folder / "methods.csv")
    found = rows.groupby(["family", "removal", "metric", "method", "example_id"])["value"].mean()
    expected = found.groupby(level=[0, 1, 2, 3]).mean()
    quoted = means.assign(removal=means["removal"].fillna(""))
    index = pd.MultiIndex.from_frame(quoted[["family", "removal", "metric", "method"]])
    np.testing.assert_allclose(quoted["mean"], expected[index], rtol=1e-4, atol=1e-6)
    page = (RESULTS.parent / "docs" / "findings.md").read_text(encoding="utf-8")
    for line in families.in_words(kept):
        assert line in page


def test_the_findings_quote_how_steps_did_on_a_causal_model():
    rows = pd.read_csv(RESULTS / "decoder_steps" / "rows.csv")
    means = rows[rows["metric"] == "srg_on_grid"].groupby(["method", "n_steps"], dropna=False)
    srg = means["value"].mean()["integrated_gradients"].round(3).tolist()
    gaps = rows[rows["metric"] == "completeness_gap_relative"].groupby("n_steps")["value"].median()
    page = (RESULTS.parent / "docs" / "findings.md").read_text(encoding="utf-8").replace("−", "-")
    assert f"SRG is {srg[0]}, {srg[1]}, {srg[2]} and {srg[3]}" in page
    assert f"falls from {100 * gaps[17]:.0f} to {100 * gaps[129]:.0f} %" in page
