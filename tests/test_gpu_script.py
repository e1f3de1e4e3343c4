"""benchmarks/gpu.py, as far as a machine without a GPU goes: what it brings, and that a study ends in time."""

import os
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import gpu, gpu_cost
from saliency_bench.attribution import calibration
from saliency_bench.experiments.throughput.floor import gradient_flops
from saliency_bench.models.loading import load_model
from saliency_bench.models.references import References

#: Ends at once, when it is asked to with what it has, with another code, or never.
STUDIES = {
    "ends": "raise SystemExit(3)",
    "cut": "signal.signal(signal.SIGTERM, lambda *_: sys.exit(130)); time.sleep(60)",
    "breaks": "signal.signal(signal.SIGTERM, lambda *_: sys.exit(1)); time.sleep(60)",
    "hangs": "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
}


@pytest.mark.parametrize(("study", "code"), [("ends", 3), ("cut", 0), ("breaks", 1), ("hangs", 1)])
def test_a_study_ends_in_time_and_one_that_leaves_what_it_has_is_no_failure(
    study, code, monkeypatch
):
    monkeypatch.setattr(gpu, "GRACE_SECONDS", 1.0)
    words = [sys.executable, "-c", f"import signal, sys, time\n{STUDIES[study]}"]
    assert gpu.limited(words, os.environ, 2.0) == code


def test_only_what_this_python_lacks_is_unpacked(tmp_path):
    for name, more in (("torch", "numpy"), ("surely_not_here", "torch")):
        with zipfile.ZipFile(tmp_path / f"{name}.whl", "w") as archive:
            archive.writestr(f"{name}/__init__.py", "")
            archive.writestr(f"{more}/part.py", "")  # OmegaConf brings plugins of another package
            archive.writestr(f"{name}-1.0.dist-info/METADATA", "")
        gpu.unpack_missing(tmp_path / f"{name}.whl", tmp_path / "site")
    found = sorted(path.name for path in (tmp_path / "site").iterdir())
    assert found == ["surely_not_here", "surely_not_here-1.0.dist-info", "torch"]


def test_both_parts_are_run_and_the_study_is_taken_by_the_verb(tmp_path, monkeypatch):
    from saliency_bench.experiments.scaffold import experiment

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu, "save_bert_base", lambda *_: None)
    commands = []

    def limited(command, environment, seconds):
        commands.append((command[2:], seconds))
        return 0

    monkeypatch.setattr(gpu, "limited", limited)
    assert gpu.run(tmp_path, tmp_path / "out", ["n_repeats=3"]) == 1  # nothing was written
    (cost, first), (study, second) = commands
    assert cost[:2] == ["benchmarks.gpu_cost", str(tmp_path / "bert_base")]
    assert first > gpu_cost.SECONDS and first + second + 2 * gpu.GRACE_SECONDS <= 8 * 60
    assert study[:2] == ["saliency_bench", "throughput"]
    chosen = experiment("throughput").options(study[2:])
    assert (chosen.config["runtime"]["device"], chosen.config["n_repeats"]) == ("cuda", 3)
    for name in gpu.SECONDS:
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "manifest.json").write_text("{}")
    assert gpu.run(tmp_path, tmp_path / "out", []) == 0


@pytest.fixture
def tiny_sizes(monkeypatch):
    """Sizes that a CPU has time for."""
    sizes = {"N_TEXTS": 6, "N_FEW": 2, "N_POINTS": 4, "TOKEN_BUDGET": 64, "LARGE": 16}
    sizes |= {"DEVICE": "cpu", "DTYPES": ("bfloat16", "float32"), "SECONDS": 10**6}
    sizes |= {"LENGTHS": {"5 to 6 tokens": (5, 6)}}
    for name, value in sizes.items():
        monkeypatch.setattr(gpu_cost, name, value)
    monkeypatch.setattr(calibration, "N_TEXTS", 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # products this small are shared out for longer than they take
    yield
    torch.set_num_threads(threads)


KINDS = ["integrated_gradients", "smoothgrad", "curves", "method_comparison"]


def test_every_work_of_every_section_is_measured_in_every_type(
    folder, tmp_path, tiny_sizes, capsys, without_type_checks
):
    gpu_cost.main(folder, tmp_path / "out")
    rows = pd.read_csv(tmp_path / "out" / "rows.csv")
    assert (tmp_path / "out" / "manifest.json").is_file()
    products, cases = rows[:2], rows[2:]
    assert (products[["16^3", "product"]] > 0).all(axis=None)
    keys = cases[["section", "work", "dtype"]].itertuples(index=False, name=None)
    assert [*keys] == [
        (section, kind, dtype)
        for section in gpu_cost.LENGTHS
        for kind in KINDS
        for dtype in gpu_cost.DTYPES
    ]
    assert cases["left_out"].isna().all(), cases["left_out"].to_list()
    assert (cases["n"] == 6).all()
    assert (cases["tokens_per_pass"] <= 64).all() and (cases["texts_per_second"] > 0).all()
    errors = {
        dtype: of_type.set_index("work")["error"]
        for dtype, of_type in cases[cases["share"].notna()].groupby("dtype")
    }
    assert (errors["float32"] < 1e-3).all() and (errors["bfloat16"] < 1).all()
    assert (errors["float32"] < errors["bfloat16"]).all()
    shared = cases[cases["share"].notna()]
    assert [*shared["work"].unique()] == KINDS[:2]
    lengths = [*map(len, gpu_cost.random_texts(load_model(str(folder), device="cpu"), 5, 6))]
    useful = shared["share"] * shared["product"] * shared["seconds"] * 1e12
    np.testing.assert_allclose(useful, gradient_flops(2, 16, 32, lengths, 4))
    assert cases["idle"].isna().all()
    shown = capsys.readouterr().out
    assert shown.count("tokens_per_pass") == 1 and "–" in shown


def test_where_the_time_is_over_nothing_begins_and_every_row_says_so(
    folder, tmp_path, tiny_sizes, monkeypatch
):
    monkeypatch.setattr(gpu_cost, "SECONDS", -1.0)
    monkeypatch.setattr(gpu_cost, "measured", None)
    gpu_cost.main(folder, tmp_path)
    cases = pd.read_csv(tmp_path / "rows.csv")[2:]
    assert len(cases) == 8 and (cases["n"] == 0).all()
    assert cases["left_out"].str.contains("no time left").all()


def test_a_case_that_takes_too_long_ends_after_a_block_and_says_what_is_left(
    folder, tiny_sizes, monkeypatch
):
    monkeypatch.setattr(gpu_cost, "TOKEN_BUDGET", 12)
    monkeypatch.setattr(gpu_cost, "blocks_of", lambda _, texts: [texts[:4], texts[4:]])
    now = [0.0]
    monkeypatch.setattr(gpu_cost, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    model = load_model(str(folder), device="cpu")
    texts = gpu_cost.random_texts(model, 6, 6)

    def run(items):
        now[0] += 2.0 * len(items)
        model.ledger.note(len(items), 6, gradient=True)
        return [np.ones(6) for _ in items]

    few = [np.full(6, 2.0) for _ in texts[:2]]
    row = {}
    for part in gpu_cost.measured(model, gpu_cost.Work(run), texts, few, until=5.0):
        row |= part
    assert row["error"] == 0.5
    assert (row["n"], row["left_out"]) == (4, "2 texts: no time left")
    assert (row["seconds"], row["texts_per_second"], row["tokens_per_pass"]) == (8.0, 0.5, 24)
    assert "share" not in row


def test_a_case_that_fails_says_why_and_the_others_go_on(folder, tiny_sizes, monkeypatch):
    def broken(_):
        raise ArithmeticError("no  such\nluck")

    models = {
        dtype: References(load_model(str(folder), dtype=dtype, device="cpu"))
        for dtype in ("float32", "float64")
    }
    monkeypatch.setattr(gpu_cost, "DTYPES", ("float32",))
    whole = lambda items: [np.ones(1) for _ in items]  # noqa: E731
    made = {"broken": gpu_cost.Work(broken), "whole": gpu_cost.Work(whole)}
    monkeypatch.setattr(gpu_cost, "works", lambda *_: made)
    monkeypatch.setattr(gpu_cost, "measured", lambda *_: [{"n": 6}])
    broken_row, row = gpu_cost.section(models, "5 to 6 tokens", np.inf)
    assert broken_row["left_out"] == "all: ArithmeticError: no such luck"
    assert (row["n"], row["left_out"]) == (6, "")


def test_time_in_which_several_kernels_run_counts_once():
    assert gpu_cost.covered([(5, 6), (0, 2), (1, 3), (1, 2), (3, 4)]) == 5
    assert gpu_cost.covered([]) == 0
