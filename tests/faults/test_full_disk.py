"""A disk that is really full: exit code 4 and one sentence, and the same bytes once there is room."""

import os
import shutil
import subprocess
import sys

import pytest
from commands import command, run, tables

NO_MOUNT = "needs the right to mount a small disk (a tmpfs), which this process does not have"


def mount(*words):
    tool = shutil.which("mount")
    return bool(tool) and run([tool, *map(str, words)]).returncode == 0


@pytest.fixture
def disk(tmp_path):
    """A folder that is a disk of its own, and how it is given another size."""
    place = tmp_path / "disk"
    place.mkdir()
    if not (sys.platform == "linux" and mount("-t", "tmpfs", "-o", "size=32k", "none", place)):
        pytest.skip(NO_MOUNT)
    yield place, lambda size: mount("-o", f"remount,size={size}", place)
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.slow
def test_a_disk_that_is_full_ends_with_exit_code_4_and_going_on_has_the_same_bytes(
    folder, disk, undisturbed, record_property
):
    place, resize = disk
    words = command(folder, undisturbed.place, place / "run")
    full = run(words)
    assert full.returncode == 4, full.stderr
    lines = [line for line in full.stderr.splitlines() if line.startswith("saliency-bench: ")]
    assert len(lines) == 1 and os.strerror(28) in lines[0], full.stderr
    assert "Traceback" not in full.stderr
    assert not (place / "run" / "manifest.json").exists()
    assert resize("64m")
    again = run(words)
    assert again.returncode == 0, again.stderr
    assert tables(place / "run") == undisturbed.tables
    record_property("faults: a disk that is really full", 1)
