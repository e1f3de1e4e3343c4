"""Kills writers of a store and goes on after them; prints how often, and what was lost. Run by test_kills.py.

A process of its own, which forks: a trial then takes milliseconds, since the libraries are loaded once.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from saliency_bench.store.parts import PartStore

N_BLOCKS, N_ROWS = 12, 5
PLAN = [f"b{number:02d}" for number in range(N_BLOCKS)]
#: Calls of the operating system at which a writer is killed, before they are made.
STEPS = ("mkdir", "open", "write", "fsync", "rename", "replace", "rmdir")


def rows(block: str) -> dict[str, list[dict[str, object]]]:
    """The rows of one block."""
    return {
        "rows": [
            {
                "cell_id": "c",
                "setting_id": "s",
                "example_id": f"{block}-{number}",
                "metric": "srg",
                "removal": "mask",
                "value": random.Random(f"{block} {number}").random(),
                "unit": "probability",
                "higher_is_better": True,
                "status": "ok",
            }
            for number in range(N_ROWS)
        ]
    }


def work(folder: Path) -> None:
    """What a run does with its store: the blocks that are missing, then the tables."""
    store = PartStore(folder)
    done = store.finished()
    for name in PLAN:
        if name not in done:
            store.write(name, rows(name))
    store.seal(PLAN)


def forked(folder: Path, step: str | None = None, nth: int = 0) -> int:
    """A writer in a process of its own, which kills itself before the nth call of a step."""
    pid = os.fork()
    if pid == 0:
        try:
            if step is not None:
                _kill_at(step, nth)
            work(folder)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return pid


def _kill_at(step: str, nth: int) -> None:
    own, calls = getattr(os, step), 0

    def counted(*arguments: object, **options: object) -> object:
        nonlocal calls
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        calls += 1
        return own(*arguments, **options)

    setattr(os, step, counted)


def contents(folder: Path) -> dict[str, bytes]:
    """What a finished run must have."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def lost_and_repeated(folder: Path) -> tuple[int, int]:
    """Rows that are missing from the finished table, and rows that are there twice."""
    ids = pq.read_table(folder / "rows.parquet").column("example_id").to_pylist()
    return N_BLOCKS * N_ROWS - len(set(ids)), len(ids) - len(set(ids))


def main(n_random: int, n_of_each: int, seed: int) -> None:
    """Both kinds of kills, and the counts as JSON."""
    stream = random.Random(seed)
    memory = Path("/dev/shm")  # where a sync costs nothing, so that there is time for many trials
    place = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    whole = place / "whole"
    whole.mkdir()
    work(
        whole
    )  # here, so that what libraries load at their first use is there for all that are forked
    timed = place / "timed"
    timed.mkdir()
    started = time.perf_counter()
    os.waitpid(forked(timed), 0)
    seconds = time.perf_counter() - started
    expected = contents(whole)
    counts = {"random": 0, "at_steps": 0, "lost": 0, "repeated": 0, "other_bytes": 0, "failed": 0}

    def finish(folder: Path) -> None:
        _, status = os.waitpid(forked(folder), 0)
        counts["failed"] += status != 0
        if status == 0:
            lost, repeated = lost_and_repeated(folder)
            counts["lost"] += lost
            counts["repeated"] += repeated
            counts["other_bytes"] += contents(folder) != expected
        shutil.rmtree(folder)

    while counts["random"] < n_random:
        folder = Path(tempfile.mkdtemp(dir=place))
        for _ in range(3):  # again and again, until it gets through
            pid = forked(folder)
            time.sleep(stream.uniform(0, seconds))
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            counts["random"] += os.WIFSIGNALED(status)
        finish(folder)
    for step in STEPS:
        for nth in range(n_of_each):
            folder = Path(tempfile.mkdtemp(dir=place))
            _, status = os.waitpid(forked(folder, step, stream.randrange(3 * N_BLOCKS)), 0)
            counts["at_steps"] += os.WIFSIGNALED(status)
            finish(folder)
            del nth
    shutil.rmtree(place)
    print(json.dumps(counts))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
