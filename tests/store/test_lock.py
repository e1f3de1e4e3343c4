"""One process works on a run folder at a time, and a lock outlives no process."""

import subprocess
import sys

import pytest

from saliency_bench.core.errors import StorageError
from saliency_bench.store.lock import locked

HOLD = """
import sys, time
from pathlib import Path
from saliency_bench.store.lock import locked
with locked(Path(sys.argv[1])):
    Path(sys.argv[1], "began").touch()
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_at_once_and_let_in_when_the_first_was_killed(holder, tmp_path):
    with pytest.raises(StorageError, match="another process works on this run"):
        locked(tmp_path / "run").__enter__()
    holder.kill()
    holder.wait()
    with locked(tmp_path / "run"):
        pass


def test_the_lock_ends_with_the_block(tmp_path):
    for _ in range(2):
        with locked(tmp_path / "run"):
            (tmp_path / "run" / "file").touch()


def test_a_folder_into_which_nothing_came_is_taken_away(tmp_path):
    with locked(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_a_system_that_knows_no_locks_is_worked_on_without(tmp_path, monkeypatch):
    import errno
    import fcntl

    def unknown(*_):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with locked(tmp_path / "run"), locked(tmp_path / "run"):
        pass
