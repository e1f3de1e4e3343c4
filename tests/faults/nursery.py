"""Children that write a small study and are killed: run as a program, so that it may fork; prints what it counted.

    python nursery.py random FOLDER SEED KILLS      at random times
    python nursery.py steps FOLDER                  before and after every call that reaches the disk
    python nursery.py torn FOLDER                   in the middle of every file
    python nursery.py shards FOLDER                 1, 2, 3, 5 and 8 processes at once, in five orders each

Any law that is broken ends the program with an AssertionError.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from saliency_bench.store import durable, parts
from saliency_bench.store.parts import PartStore

#: What reaches the disk, by the name in `os` under which pathlib and shutil call it too.
CALLS = ("fsync", "rename", "replace", "mkdir", "rmdir", "unlink")
N_ROWS = 20

Tables = dict[str, list[dict[str, Any]]]


def tables_of(block: str) -> Tables:
    """Rows and warnings, a function of the name of the block alone."""
    rows = [
        {
            "cell_id": "c",
            "setting_id": f"s{row % 3}",
            "example_id": f"{block}-{row:03d}",
            "metric": "srg",
            "removal": "mask",
            "value": random.Random(f"{block}{row}").random(),
            "unit": "probability",
            "higher_is_better": True,
            "status": "ok",
        }
        for row in range(N_ROWS)
    ]
    warning = {"cell_id": "c", "example_id": f"{block}-000", "source": "data", "message": "é\n"}
    return {"rows": rows, "warnings": [warning]}


def plan_of(n_blocks: int) -> list[str]:
    """Names of blocks."""
    return [f"b{index:02d}" for index in range(n_blocks)]


def write_all(folder: Path, plan: list[str]) -> None:
    """What a run does with its store: what is not finished is written, then all is sealed."""
    store = PartStore(folder)
    finished = store.finished()
    for block in plan:
        if block not in finished:
            store.write(block, tables_of(block))
    store.seal(plan)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file that a run leaves."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def child(work: Callable[[], None]) -> int:
    """Forks a process that does the work; its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        work()
        code = 0
    except BaseException as error:
        print(repr(error), file=sys.stderr)
    os._exit(code)  # nothing of the parent's is flushed or cleaned up twice


def died_by(pid: int) -> int | None:
    """Waits; the signal that ended the child, None where it ended well."""
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    assert os.WEXITSTATUS(status) == 0, "a child failed"
    return None


def reference(folder: Path, plan: list[str]) -> dict[str, bytes]:
    """The files of an undisturbed run."""
    write_all(folder / "undisturbed", plan)
    return snapshot(folder / "undisturbed")


def killed_at_random(folder: Path, seed: int, n_kills: int) -> dict[str, int]:
    """Studies whose process is killed again and again, at any time of the run, until enough were."""
    draw, plan = random.Random(seed), plan_of(12)
    expected = reference(folder, plan)
    started = time.perf_counter()
    assert died_by(child(lambda: write_all(folder / "timed", plan))) is None
    whole = time.perf_counter() - started
    kills = studies = 0
    while kills < n_kills:
        one = folder / f"study{studies}"
        while True:
            pid = child(lambda one=one: write_all(one, plan))  # type: ignore[misc]
            time.sleep(draw.uniform(0, whole))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            if died_by(pid) is None:
                break
            kills += 1
            assert not (one / "parts" / ".set_aside").exists(), "a block was torn"
        assert snapshot(one) == expected, "other bytes than an undisturbed run"
        shutil.rmtree(one)
        studies += 1
    return {"kills": kills, "studies": studies}


def killed_at_steps(folder: Path) -> dict[str, int]:
    """A study killed before, and then one killed after, every single call that reaches the disk."""
    plan = plan_of(3)
    expected = reference(folder, plan)
    kills = 0
    for call in CALLS:
        for after in (False, True):
            nth = 0
            while True:
                one = folder / f"{call}-{after}-{nth}"
                pid = child(
                    lambda one=one, nth=nth: _killed(one, plan, call, nth, after)  # type: ignore[misc]  # noqa: B023
                )
                if died_by(pid) is None:
                    break  # there was no nth call any more
                kills += 1
                assert PartStore(one).finished() <= set(plan)
                assert not (one / "parts" / ".set_aside").exists(), "a block was torn"
                write_all(one, plan)
                assert snapshot(one) == expected, (call, after, nth)
                shutil.rmtree(one)
                nth += 1
    return {"kills": kills}


def _killed(folder: Path, plan: list[str], call: str, nth: int, after: bool) -> None:
    real, seen = getattr(os, call), []

    def counted(*args: Any, **kwargs: Any) -> Any:
        seen.append(call)
        if len(seen) == nth + 1:
            if after:
                real(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(os, call, counted)
    write_all(folder, plan)


def killed_within_files(folder: Path) -> dict[str, int]:
    """A study killed when half of a file was written, for every file of it."""
    plan = plan_of(3)
    expected = reference(folder, plan)
    kills = 0
    while True:
        one = folder / f"torn{kills}"
        pid = child(lambda one=one, nth=kills: _torn(one, plan, nth))  # type: ignore[misc]
        if died_by(pid) is None:
            return {"kills": kills}
        kills += 1
        write_all(one, plan)
        assert snapshot(one) == expected, kills


def _torn(folder: Path, plan: list[str], nth: int) -> None:
    whole, seen = durable.write_new, []

    def half(path: Path, data: bytes) -> None:
        seen.append(path)
        if len(seen) == nth + 1:
            path.write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        whole(path, data)

    durable.write_new = parts.write_new = half  # type: ignore[attr-defined]
    write_all(folder, plan)


def in_shards(folder: Path) -> dict[str, int]:
    """Blocks dealt in any order to processes that write at the same time."""
    plan = plan_of(16)
    expected = reference(folder, plan)
    merges = 0
    for n_shards in (1, 2, 3, 5, 8):
        for order in range(5):
            one = folder / f"{n_shards}-{order}"
            for pid in list(_writers(one, plan, n_shards, order)):
                assert died_by(pid) is None
            PartStore(one).seal(plan)
            assert snapshot(one) == expected, (n_shards, order)
            merges += 1
    return {"merges": merges}


def _writers(folder: Path, plan: list[str], n_shards: int, order: int) -> Iterator[int]:
    blocks = random.Random(order).sample(plan, len(plan))
    for shard in range(n_shards):
        yield child(lambda own=blocks[shard::n_shards]: _write(folder, own))  # type: ignore[misc]


def _write(folder: Path, blocks: list[str]) -> None:
    for block in blocks:
        PartStore(folder).write(block, tables_of(block))


if __name__ == "__main__":
    verb, where, *rest = sys.argv[1:]
    found = {
        "random": killed_at_random,
        "steps": killed_at_steps,
        "torn": killed_within_files,
        "shards": in_shards,
    }[verb](Path(where), *map(int, rest))
    print(json.dumps(found))
