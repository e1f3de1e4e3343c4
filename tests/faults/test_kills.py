"""However a command is killed, going on gives the bytes of one that was not: no row is lost, and none is there twice."""

import json
import os
import random
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest
from commands import BENCH, REAL, command, run, tables, texts

KILLED = "faults: kill -9 of the real command and its two workers"


def killed_and_resumed(folder, tmp_path, n, seed):
    """Real commands with two workers, killed with all their processes at random times; the number that were."""
    texts(tmp_path)
    started = time.monotonic()
    done = run(command(folder, tmp_path, "whole", start=REAL))
    assert done.returncode == 0, done.stderr
    seconds, kills = time.monotonic() - started, 0
    stream = random.Random(seed)
    for trial in range(n):
        name = f"trial{trial}"
        words = command(folder, tmp_path, name, "runtime=processes", start=REAL)
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(stream.uniform(0.3, 1.6) * seconds)
        _kill_family(process.pid)
        kills += process.wait() < 0
        held = tmp_path / name / "config.json"
        again = ["resume", str(tmp_path / name)] if held.is_file() else words[len(REAL) :]
        done = run([*REAL, *again])
        assert done.returncode == 0, done.stderr
        assert tables(tmp_path / name) == tables(tmp_path / "whole")
    return kills


def _kill_family(pid):
    """SIGKILL for a process and all that it has started, in sessions of their own too."""
    children = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        waiting += children.get(one, [])
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            continue


def killed_again_and_again(folder, tmp_path, n, seed):
    """One study of the real command with two workers, killed so many times and gone on with each time.

    Every fifth process is killed once it has finished another block, which tells how long that takes here and now; those
    between at random times around that, so that most of what is waited for is their start. Where a study ends all the
    same, the next one begins, and the time is measured again. The number of kills, and of blocks that were there at one.
    """
    texts(tmp_path)
    more = ["method.smoothgrad.n_samples=100"]
    done = run(command(folder, tmp_path, "whole", *more))
    assert done.returncode == 0, done.stderr
    whole, stream = tables(tmp_path / "whole"), random.Random(seed)
    kills, studies, seconds, seen, late = 0, 0, 0.0, [], False
    while kills < n:
        out = tmp_path / f"study{studies}"
        words = command(folder, tmp_path, out.name, *more, "runtime=processes")
        if (out / "config.json").is_file():
            words = [*BENCH, "resume", str(out)]
        began = time.monotonic()
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        if kills % 5 == 0 or late:
            before = blocks_in(out)
            while blocks_in(out) <= before and process.poll() is None:
                time.sleep(0.02)
            seconds = time.monotonic() - began
        else:
            time.sleep(stream.uniform(0.4, 1.2) * seconds)
        _kill_family(process.pid)
        late = process.wait() >= 0  # the machine is faster than when the delay was measured
        if not late:
            kills += 1
            seen.append(blocks_in(out))
        else:
            assert process.returncode == 0
            assert tables(out) == whole
            studies += 1
    again = ["resume", str(out)] if (out / "config.json").is_file() else words[len(BENCH) :]
    done = run([*BENCH, *again])
    assert done.returncode == 0, done.stderr
    assert tables(out) == whole
    return kills, seen


def blocks_in(folder):
    """How many blocks a study has finished and not yet put together."""
    return len(list((folder / "parts").glob("[0-9]*")))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_command_that_is_killed_with_its_workers_goes_on_to_the_same_bytes(
    folder, tmp_path, record_property
):
    kills, seen = killed_again_and_again(folder, tmp_path, 8, 0)
    assert max(seen) >= 1
    record_property(KILLED, kills)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_many_commands_that_are_killed_go_on_to_the_same_bytes(folder, tmp_path, record_property):
    (tmp_path / "again").mkdir()
    kills, _ = killed_again_and_again(folder, tmp_path / "again", 15, 2)
    record_property(KILLED, kills + killed_and_resumed(folder, tmp_path, 15, 1))


@pytest.mark.slow
def test_workers_end_with_a_driver_that_is_killed_alone_and_the_run_goes_on(
    folder, tmp_path, undisturbed
):
    words = command(folder, undisturbed.place, tmp_path / "run", "runtime=processes")
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    parts = tmp_path / "run" / "parts"
    while process.poll() is None and not [*parts.glob("[!.]*")]:
        time.sleep(0.02)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while (left := _workers_of(tmp_path / "run")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    done = run([*BENCH, "resume", str(tmp_path / "run")])
    assert done.returncode == 0, done.stderr
    assert tables(tmp_path / "run") == undisturbed.tables


@pytest.mark.slow
def test_workers_that_still_load_libraries_end_with_a_driver_that_is_killed(
    folder, tmp_path, undisturbed
):
    words = command(folder, undisturbed.place, tmp_path / "run", "runtime=processes")
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and len(_workers_of(tmp_path / "run")) < 2:
        time.sleep(0.01)
    process.kill()
    process.wait()
    # They ask for their driver before they load torch, which takes a second or more; the deadline is for busy machines.
    deadline = time.monotonic() + 30
    while (left := _workers_of(tmp_path / "run")) and time.monotonic() < deadline:
        assert not any("libtorch" in _mapped(worker) for worker in left)
        time.sleep(0.01)
    assert left == []


@pytest.mark.slow
def test_neither_hashes_nor_time_zone_nor_language_change_a_byte(folder, tmp_path):
    texts(tmp_path, 4)
    found = []
    for name, changed in {
        "one": {"PYTHONHASHSEED": "1", "TZ": "UTC", "LC_ALL": "C.UTF-8"},
        "two": {"PYTHONHASHSEED": "2", "TZ": "Pacific/Auckland", "LC_ALL": "C", "LANG": "C"},
    }.items():
        words, env = command(folder, tmp_path, name), os.environ | changed
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
        assert done.returncode == 0, done.stderr
        found.append(
            tables(tmp_path / name)
            | {
                one: (tmp_path / name / one).read_bytes()
                for one in ("identity.json", "settings.json", "digests.json")
            }
        )
    assert found[0] == found[1]


def _mapped(process):
    """The files that a process has mapped; empty once it has ended."""
    try:
        return Path(f"/proc/{process}/maps").read_text("utf-8")
    except OSError:
        return ""


def _workers_of(folder):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"work" in words and str(folder).encode() in words:
            found.append(int(path.parent.name))
    return found


def interrupted(folder, place, tmp_path, number):
    """A real command that was sent this signal at its first event, and its log."""
    words = command(folder, place, tmp_path / "run", "method.smoothgrad.n_samples=2000")
    # Where the tests run in the background, an interrupt is ignored by all that they start.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    log = tmp_path / "run" / "events.jsonl"
    while not log.is_file() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    return process, log


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_in_order_and_says_how_to_go_on(folder, tmp_path, undisturbed, number):
    process, log = interrupted(folder, undisturbed.place, tmp_path, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"saliency-bench resume {tmp_path / 'run'}" in err
    assert "Traceback" not in err
    events = [json.loads(line)["event"] for line in log.read_text("utf-8").splitlines()]
    assert events[0] == "start"
    assert events[-1] == "interrupted"


@pytest.mark.slow
def test_a_second_interrupt_costs_nothing_that_the_first_would_have_kept(
    folder, tmp_path, undisturbed
):
    process, log = interrupted(folder, undisturbed.place, tmp_path, signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT), err
    done = run([*BENCH, "merge", str(log.parent)])
    assert done.returncode == 4 and "Traceback" not in done.stderr, done.stderr
    assert " lacks " in done.stderr


@pytest.mark.slow
def test_of_three_that_go_on_at_once_none_does_harm(folder, tmp_path, undisturbed, record_property):
    begun = command(folder, undisturbed.place, tmp_path / "run")
    process = subprocess.Popen(begun, stderr=subprocess.DEVNULL)
    held = tmp_path / "run" / "config.json"
    while not held.is_file() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    words = [*BENCH, "resume", str(tmp_path / "run")]
    three = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [one.communicate(timeout=300)[1] for one in three]
    codes = sorted(one.returncode for one in three)
    # Who comes while another works is refused; who comes when it is done finds a finished run.
    assert codes[0] == 0 and set(codes) <= {0, 4}, said
    for one, err in zip(three, said, strict=True):
        assert one.returncode == 0 or "another process works on this run" in err
    assert tables(tmp_path / "run") == undisturbed.tables
    record_property("faults: three that go on at once", 1)
