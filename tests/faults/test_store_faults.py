"""The store under kills, damage and disks that refuse: nothing lost, nothing twice, no other number. Counts are printed."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nursery
import pytest

from saliency_bench.core.errors import StorageError
from saliency_bench.store import parts as parts_module
from saliency_bench.store.parts import DIGESTS, PartStore, verify_sealed

NURSERY = Path(nursery.__file__)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills and forks are POSIX")


def counted(verb, folder, *numbers):
    done = subprocess.run(
        [sys.executable, NURSERY, verb, folder, *map(str, numbers)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_study_killed_at_random_times_has_the_bytes_of_an_undisturbed_one(
    tmp_path, record_property
):
    found = counted("random", tmp_path, 0, 200)
    assert found["kills"] >= 200
    record_property("faults: kill -9 at random times", found["kills"])


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_study_killed_two_thousand_times(tmp_path, record_property):
    found = counted("random", tmp_path, 1, 2000)
    record_property("faults: kill -9 at random times", found["kills"])


def test_a_study_killed_at_any_step_has_the_bytes_of_an_undisturbed_one(tmp_path, record_property):
    found = counted("steps", tmp_path)
    # Three blocks of three files alone are synced, renamed and removed in 2 * (9 + 3 + 9) steps.
    assert found["kills"] > 42
    record_property("faults: kill -9 before and after every step", found["kills"])


def test_a_study_killed_within_any_file_has_the_bytes_of_an_undisturbed_one(
    tmp_path, record_property
):
    found = counted("torn", tmp_path)
    assert found["kills"] == 3 * 3 + 3  # three files of three blocks, then two tables and digests
    record_property("faults: kill -9 in the middle of every file", found["kills"])


def test_any_shards_in_any_order_have_the_bytes_of_one_process(tmp_path, record_property):
    found = counted("shards", tmp_path)
    assert found["merges"] == 25
    record_property("faults: merges of 1, 2, 3, 5, 8 shards in any order", found["merges"])


PLAN = nursery.plan_of(3)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return nursery.reference(tmp_path_factory.mktemp("reference"), PLAN)


@pytest.mark.parametrize("code", ["ENOSPC", "EIO", "EROFS", "EDQUOT"])
@pytest.mark.parametrize("call", nursery.CALLS)
def test_a_disk_that_refuses_at_any_call_ends_with_exit_code_4_and_can_be_resumed(
    call, code, tmp_path, monkeypatch, expected, record_property
):
    real, n_refused = getattr(os, call), 0
    while True:
        folder, seen = tmp_path / str(n_refused), []

        def refusing(*args, seen=seen, nth=n_refused, **kwargs):
            seen.append(call)
            if len(seen) == nth + 1:
                raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, refusing)
            said = _storage_error(folder)
        if said is None:
            # Only what is thrown away, or there already, may be refused unnoticed.
            assert len(seen) <= n_refused or call in ("unlink", "rmdir", "mkdir")
        else:
            assert said.exit_code == 4
            assert "finished blocks are kept" in str(said)
        if len(seen) <= n_refused:
            break
        nursery.write_all(folder, PLAN)
        assert nursery.snapshot(folder) == expected, n_refused
        n_refused += 1
    record_property(f"faults: {code} at every call", n_refused)


def _storage_error(folder):
    try:
        nursery.write_all(folder, PLAN)
    except StorageError as error:
        return error
    return None


def test_a_file_that_may_grow_no_further_ends_with_exit_code_4(tmp_path, record_property):
    # The operating system itself refuses: no file may be longer than a kilobyte, less than a table.
    resource = pytest.importorskip("resource")

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))

    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import nursery; from pathlib import Path\n"
        "from saliency_bench.core.errors import StorageError\n"
        "try:\n    nursery.write_all(Path(sys.argv[2]), nursery.plan_of(3))\n"
        "except StorageError as error:\n    print(error); sys.exit(error.exit_code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, NURSERY.parent, tmp_path / "study"],
        preexec_fn=limited,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert os.strerror(errno.EFBIG) in done.stdout
    assert PartStore(tmp_path / "study").finished() == set()
    nursery.write_all(tmp_path / "study", PLAN)
    record_property("faults: a limit of the system on files", 1)


@pytest.mark.parametrize("function", ["to_table", "to_parquet", "sha256", "to_json", "merge_files"])
def test_memory_that_runs_out_at_any_call_loses_nothing(
    function, tmp_path, monkeypatch, expected, record_property
):
    real, n_failed = getattr(parts_module, function), 0
    while True:
        folder, seen = tmp_path / str(n_failed), []

        def failing(*args, seen=seen, nth=n_failed):
            seen.append(function)
            if len(seen) == nth + 1:
                raise MemoryError
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(parts_module, function, failing)
            if _runs_out(folder):
                n_failed += 1
            else:
                break
        nursery.write_all(folder, PLAN)
        assert nursery.snapshot(folder) == expected
    assert n_failed > 0
    record_property("faults: out of memory at every call of the store", n_failed)


def _runs_out(folder):
    try:
        nursery.write_all(folder, PLAN)
    except MemoryError:
        return True
    return False


@pytest.fixture
def parts(tmp_path):
    for block in PLAN:
        PartStore(tmp_path).write(block, nursery.tables_of(block))
    return tmp_path / "parts"


def damaged(parts, path, data, expected):
    """Whether the damage is found, and all bytes are right once the block was written again."""
    whole = path.read_bytes()
    path.write_bytes(data)
    found = PartStore(parts.parent).finished() == set(PLAN) - {path.parent.name}
    (aside,) = (parts / ".set_aside").iterdir()
    assert (aside / "reason.txt").read_text()
    shutil.rmtree(parts / ".set_aside")
    PartStore(parts.parent).write(path.parent.name, nursery.tables_of(path.parent.name))
    return found and path.read_bytes() == whole


FILES = ("rows.parquet", "warnings.parquet", DIGESTS)


@pytest.mark.parametrize("name", FILES)
def test_a_part_truncated_anywhere_is_found_and_redone(parts, name, expected, record_property):
    path = parts / "b01" / name
    data = path.read_bytes()
    last = len(data) - (2 if name == DIGESTS else 1)  # the brace; a line end is no content
    lengths = sorted({last * step // 63 for step in range(64)})
    assert all(damaged(parts, path, data[:length], expected) for length in lengths)
    PartStore(parts.parent).seal(PLAN)
    assert nursery.snapshot(parts.parent) == expected
    record_property("faults: truncations found", len(lengths))


@pytest.mark.parametrize("name", FILES[:2])
def test_a_flipped_bit_anywhere_is_found_and_redone(parts, name, expected, record_property):
    path = parts / "b01" / name
    data, draw = path.read_bytes(), random.Random(0)
    for _ in range(100):
        bit, flipped = draw.randrange(8 * len(data)), bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert damaged(parts, path, bytes(flipped), expected)
    record_property("faults: flipped bits found", 100)


def test_a_flipped_bit_of_a_record_changes_no_number(parts, expected, record_property):
    # JSON has bits that mean nothing (white space); whatever is read, the tables that are sealed are the same.
    path = parts / "b01" / DIGESTS
    data, draw = path.read_bytes(), random.Random(0)
    for trial in range(100):
        one = parts.parent / f"trial{trial}"
        shutil.copytree(parts, one / "parts")
        bit, flipped = draw.randrange(8 * len(data)), bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        (one / "parts" / "b01" / DIGESTS).write_bytes(flipped)
        nursery.write_all(one, PLAN)
        shutil.rmtree(one / "parts", ignore_errors=True)  # what was set aside is kept
        assert nursery.snapshot(one) == expected
    record_property("faults: flipped bits of records", 100)


def test_two_parts_that_changed_places_are_found(parts, record_property):
    (parts / "b00").rename(parts / "x")
    (parts / "b01").rename(parts / "b00")
    (parts / "x").rename(parts / "b01")
    assert PartStore(parts.parent).finished() == {"b02"}
    record_property("faults: parts in each other's place found", 2)


def test_two_tables_that_changed_places_are_found(parts, record_property):
    a, b = parts / "b00" / "rows.parquet", parts / "b01" / "rows.parquet"
    a_data, b_data = a.read_bytes(), b.read_bytes()
    a.write_bytes(b_data)
    b.write_bytes(a_data)
    assert PartStore(parts.parent).finished() == {"b02"}
    record_property("faults: parts in each other's place found", 2)


@pytest.mark.parametrize("name", ["rows.parquet", "warnings.parquet", DIGESTS])
def test_a_sealed_run_that_was_damaged_is_served_to_nobody(
    tmp_path, name, expected, record_property
):
    nursery.write_all(tmp_path, PLAN)
    data, draw = expected[name], random.Random(0)
    last = len(data) - (2 if name == DIGESTS else 1)
    damages = [data[: last * step // 31] for step in range(32)]
    for _ in range(0 if name == DIGESTS else 32):
        bit, flipped = draw.randrange(8 * len(data)), bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        damages.append(bytes(flipped))
    for one in damages:
        (tmp_path / name).write_bytes(one)
        with pytest.raises(StorageError, match=name):
            verify_sealed(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(StorageError):
        verify_sealed(tmp_path)
    record_property("faults: damage to sealed runs found", len(damages) + 1)
