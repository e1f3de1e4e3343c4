"""`saliency-bench throughput`: from the command line to rows, tables and figures, and how it refuses."""

import csv
import io
import json

import pandas as pd
import pytest

from saliency_bench.cli import main as cli
from saliency_bench.core import conf as conf_files
from saliency_bench.core.rows import THROUGHPUT
from saliency_bench.experiments.throughput.contestants import CONTESTANTS, Contestant, ours
from saliency_bench.experiments.throughput.run import EXPERIMENT
from saliency_bench.experiments.throughput.sections import SECTIONS

SMALL = (
    "n_examples=3",
    "n_steps=3",
    "n_repeats=2",
    "max_warmups=2",
    "product_seconds=0.0001",
    "options.captum_sorted.batch_sizes=[2]",
    "options.captum_sorted.tokens_at_once=[256]",
    "options.captum_sorted.interfaces=[inputs]",
)

pytestmark = pytest.mark.usefixtures("elsewhere", "little_garbage")


@pytest.mark.slow
def test_the_verb_runs_to_the_end_and_writes_everything(folder, capsys, elsewhere):
    words = ["sections=[contestants,length,sweep]", "length.lengths=[6,12]", "length.n_examples=2"]
    words += ["sweep.n_examples=1", "sweep.n_steps=[4,8]", "sweep.n_samples=[4,8]"]
    # In float64: a tiny random model's scores are small differences, to which float32 rounding is large.
    words += ["runtime.dtype=float64"]
    assert cli.main(["throughput", f"model={folder}", "out=here", *SMALL, *words]) == 0
    out, err = capsys.readouterr()
    assert "contestants: 1 of 1" in err
    assert "\x1b" not in out  # no colours in a file
    for name in ("Ours", "Captum, sorted and tuned", "Bare loop (100 %)", "Written to here"):
        assert name in out
    found = {
        str(path.relative_to(elsewhere / "here")) for path in (elsewhere / "here").rglob("*.*")
    }
    tables = {
        f"tables/{name}.{end}" for name in ("throughput", "sweep") for end in ("csv", "md", "tex")
    }
    figures = {
        f"figures/{name}.{end}"
        for name in ("ratios", "scaling", "sweeps")
        for end in ("png", "pdf")
    }
    assert found == {"rows.csv", "throughput.md", "manifest.json"} | tables | figures
    rows = list(csv.DictReader(io.StringIO((elsewhere / "here" / "rows.csv").read_text("utf-8"))))
    assert tuple(rows[0]) == THROUGHPUT
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["section"] for row in rows} == {"contestants", "length", "sweep"}
    text = (elsewhere / "here" / "manifest.json").read_text("utf-8")
    manifest = json.loads(text)
    assert str(elsewhere) not in text
    assert manifest["config"]["model"] == folder.name
    assert manifest["config"]["n_steps"] == 3
    assert len(manifest["lengths"]) == 3
    assert not manifest["interrupted"]
    assert manifest["contestants"]["captum_sorted"].startswith("Captum sorted by length")


def test_an_interrupt_leaves_what_has_been_measured(folder, capsys, elsewhere, monkeypatch):
    def stopped(bench):
        raise KeyboardInterrupt("terminated")
        yield

    monkeypatch.setitem(SECTIONS, "sweep", stopped)
    words = ["runtime.dtype=float64", "runtime.token_budget=256", "contestants=[ours]"]
    first = ["sections=[contestants,sweep]", "out=first"]
    assert cli.main(["throughput", f"model={folder}", *SMALL, *words, *first]) == 130
    out, err = capsys.readouterr()
    assert "Interrupted: not all that was asked for was measured." in out
    assert "saliency-bench: interrupted" in err
    rows = list(csv.DictReader((elsewhere / "first/rows.csv").read_text("utf-8").splitlines()))
    assert {row["section"] for row in rows} == {"contestants"}
    assert {row["token_budget"] for row in rows} == {"256"}
    manifest = json.loads((elsewhere / "first/manifest.json").read_text("utf-8"))
    assert manifest["interrupted"]
    before = ["sections=[sweep,contestants]", "out=second"]
    assert cli.main(["throughput", f"model={folder}", *SMALL, *words, *before]) == 130
    assert not (elsewhere / "second").exists()


def test_a_contestant_that_disagrees_ends_with_exit_code_3_and_is_written_down(
    folder, capsys, monkeypatch, elsewhere
):
    def wrong(problem):
        return Contestant("captum_single", "", lambda: [2 * one for one in ours(problem).run()])

    monkeypatch.setitem(CONTESTANTS._functions, "captum_single", wrong)
    words = ["sections=contestants", "contestants=[ours,captum_single]", "out=here"]
    assert cli.main(["throughput", f"model={folder}", *SMALL, *words]) == 3
    out, err = capsys.readouterr()
    assert err.splitlines()[-1].startswith("saliency-bench: captum_single was not timed")
    assert "differs from ours by 1 of its largest score" in err
    assert "Not timed" in out
    rows = pd.read_csv(elsewhere / "here" / "rows.csv")
    own = rows[rows["contestant"] == "captum_single"]
    assert own["status"].tolist() == ["disagrees"]
    assert own["seconds"].isna().all()


def test_overrides_come_after_the_profile_and_change_nothing_else():
    quick, full = (EXPERIMENT.options(words).config for words in ([], ["profile=full"]))
    assert full["n_examples"] == 96
    assert full["memory"]["token_budget"] == quick["memory"]["token_budget"]
    assert set(full["sections"]) == set(SECTIONS)
    own = EXPERIMENT.options(
        ["profile=full", "sweep.n_steps=[4,8]", "contestants=ours", "tolerance.float32=1"]
    ).config
    assert own["sweep"] == full["sweep"] | {"n_steps": [4, 8]}
    assert own["contestants"] == ["ours"]
    assert own["tolerance"]["float32"] == 1.0
    assert EXPERIMENT.options([]).config == quick


def test_the_configuration_names_what_there_is():
    config = conf_files.read("", "throughput")
    for profile in config["profiles"].values():
        for key, value in profile.items():
            assert key in config
            assert not isinstance(value, dict) or set(value) <= set(config[key])
    assert set(config["options"]) <= set(CONTESTANTS.names())
    for name, given in config["options"].items():
        CONTESTANTS.check(name, given, name)
    # Captum at its best must have had at least five sizes to choose from.
    assert len(config["options"]["captum_sorted"]["batch_sizes"]) >= 5
