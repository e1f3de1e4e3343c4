"""The page of architectures says what was measured, and what was measured is of the transformers that is pinned."""

import csv
import runpy
from pathlib import Path

import pytest
import transformers
from architectures import names
from causal import REASONS, causal_names
from finding import NOT_BUILT, PASSES, REFUSED
from tiny_heads import EVERY_HEAD

ROOT = Path(__file__).parents[2]


def rows(name="architectures"):
    with (ROOT / "results" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_page_is_what_the_data_gives():
    script = runpy.run_path(str(ROOT / "scripts" / "architectures.py"))
    page = (ROOT / "docs" / "architectures.md").read_text("utf-8")
    assert page == script["page"]() + "\n"


def test_every_architecture_of_this_transformers_was_measured():
    assert {row["transformers"] for row in rows()} == {transformers.__version__}
    assert [row["name"] for row in rows()] == names()


def test_every_head_of_the_other_tasks_was_measured_and_passes():
    found = rows("heads")
    assert {row["transformers"] for row in found} == {transformers.__version__}
    assert [(row["task"], row["name"]) for row in found] == EVERY_HEAD
    assert {row["status"] for row in found} == {PASSES}


@pytest.mark.skipif(
    not (ROOT / "results" / "causal.csv").exists(),
    reason="not measured yet: scripts/architectures.py --measure-causal",
)
def test_every_causal_language_model_was_measured_and_none_is_wrong():
    found = rows("causal")
    assert {row["transformers"] for row in found} == {transformers.__version__}
    assert [row["name"] for row in found] == causal_names()
    assert {row["status"] for row in found} <= {PASSES, REFUSED, NOT_BUILT}
    assert all((row["status"] == PASSES) == (not row["reason"]) for row in found)
    assert {row["name"] for row in found if row["status"] != PASSES} == {*REASONS}


def test_nine_tenths_of_what_can_be_built_pass_and_the_rest_says_why():
    built = [row for row in rows() if row["status"] != NOT_BUILT]
    assert sum(row["status"] == PASSES for row in built) >= 0.9 * len(built)
    assert {row["status"] for row in built} <= {PASSES, REFUSED}
    assert all((row["status"] == PASSES) == (not row["reason"]) for row in rows())
