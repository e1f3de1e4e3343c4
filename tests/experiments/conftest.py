"""What tests of experiments share."""

import gc

import pytest

from saliency_bench.cli import main as cli


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty folder as working directory, and the environment as it was afterwards."""
    for key in cli.QUIET:
        monkeypatch.setenv(key, cli.QUIET[key])
    monkeypatch.delenv("SALIENCY_BENCH_TRACEBACK", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def little_garbage():
    """Garbage is collected between timed runs, but not among all that was imported since the tests were collected."""
    gc.collect()
    gc.freeze()
