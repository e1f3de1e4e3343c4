"""What results/ shows follows from the rows that are kept there."""

import shutil
from pathlib import Path

import pytest

from saliency_bench.report.build import build_report
from saliency_bench.store.run import read_run

RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.usefixtures("no_figures")
def test_the_tables_of_the_headline_run_are_made_again_to_the_byte(tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(RESULTS / "method_comparison", folder)
    kept = {path.name: path.read_bytes() for path in (folder / "tables").iterdir()}
    assert "headline.md" in kept
    shutil.rmtree(folder / "tables")
    build_report(read_run(folder))
    assert {name: (folder / "tables" / name).read_bytes() for name in kept} == kept


def test_the_readme_quotes_the_headline_table():
    headline = (RESULTS / "method_comparison" / "tables" / "headline.md").read_text("utf-8")
    readme = (RESULTS.parent / "README.md").read_text("utf-8")
    quoted = [line.split(" | ")[2:] for line in readme.splitlines() if line.count(" | ") == 7]
    found = headline.replace("\\", "")
    numbers = [cell.strip(" |") for row in quoted for cell in row if "[" in cell]
    assert len(numbers) == 6 * 6
    assert [one for one in numbers if one not in found] == []
