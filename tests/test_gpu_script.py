"""benchmarks/gpu.py, as far as a machine without a GPU goes: what it brings, and that a study ends in time."""

import os
import sys
import zipfile

import pytest

from benchmarks import gpu

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
    monkeypatch.setattr(gpu, "LONGEST_SECONDS", 2.0)
    monkeypatch.setattr(gpu, "GRACE_SECONDS", 1.0)
    words = [sys.executable, "-c", f"import signal, sys, time\n{STUDIES[study]}"]
    assert gpu.limited(words, os.environ) == code


def test_only_what_this_python_lacks_is_unpacked(tmp_path):
    for name, more in (("torch", "numpy"), ("surely_not_here", "torch")):
        with zipfile.ZipFile(tmp_path / f"{name}.whl", "w") as archive:
            archive.writestr(f"{name}/__init__.py", "")
            archive.writestr(f"{more}/part.py", "")  # OmegaConf brings plugins of another package
            archive.writestr(f"{name}-1.0.dist-info/METADATA", "")
        gpu.unpack_missing(tmp_path / f"{name}.whl", tmp_path / "site")
    found = sorted(path.name for path in (tmp_path / "site").iterdir())
    assert found == ["surely_not_here", "surely_not_here-1.0.dist-info", "torch"]


def test_its_studies_are_taken_by_the_verb(tmp_path, monkeypatch):
    from saliency_bench.experiments.scaffold import experiment

    monkeypatch.chdir(tmp_path)
    for name, words in gpu.STUDIES.items():
        chosen = experiment("throughput").options(
            [f"model={name}", "out=there", *words, "runtime.device=cuda"]
        )
        assert chosen.config["runtime"]["device"] == "cuda"
        assert chosen.config["sections"][0] == "contestants"
