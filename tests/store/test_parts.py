"""A block is on disk completely or not at all, whatever happens on the way."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from saliency_bench.core.errors import InputError, StorageError
from saliency_bench.store.durable import sha256
from saliency_bench.store.parquet import from_parquet
from saliency_bench.store.parts import PartStore, verify_sealed


class Killed(BaseException):
    """Stands for the end of the process."""


def tables(block, value=0.5):
    row = {
        "cell_id": "c",
        "setting_id": f"s-{block}",
        "example_id": "e",
        "metric": "srg",
        "removal": "mask",
        "value": value,
        "unit": "probability",
        "higher_is_better": True,
        "status": "ok",
    }
    warning = {"cell_id": "c", "example_id": "e", "source": "data", "message": f"from {block}"}
    return {"rows": [row], "warnings": [warning]}


def snapshot(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_sealed(folder):
    """The bytes of every table of a sealed run, once they were verified."""
    verify_sealed(folder)
    return {path.stem: path.read_bytes() for path in folder.glob("*.parquet")}


def visible(folder):
    parts = folder / "parts"
    return (
        {path.name for path in parts.iterdir() if path.name[0] != "."} if parts.exists() else set()
    )


@pytest.fixture
def store(tmp_path):
    return PartStore(tmp_path)


def test_two_writes_of_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        PartStore(tmp_path / name).write("b0", tables("b0"))
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")
    assert snapshot(tmp_path / "one").keys() == {
        f"parts/b0/{name}" for name in ("rows.parquet", "warnings.parquet", "digests.json")
    }


def test_what_is_written_is_finished(store):
    assert store.finished() == set()
    store.write("b0", tables("b0"))
    store.write("b1", tables("b1"))
    assert store.finished() == {"b0", "b1"}


def test_a_finished_block_is_never_overwritten(store, tmp_path):
    store.write("b0", tables("b0"))
    before = snapshot(tmp_path)
    with pytest.raises(StorageError, match="finished already"):
        store.write("b0", tables("b0", value=1.0))
    assert snapshot(tmp_path) == before


def test_the_same_block_may_be_committed_by_two(store, tmp_path):
    store.write("b0", tables("b0"))
    before = snapshot(tmp_path)
    PartStore(tmp_path).write("b0", tables("b0"))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("block", ["", ".hidden", "../up", "a/b", "a\0b", "x" * 201, "é"])
def test_a_block_is_a_plain_file_name(store, tmp_path, block):
    with pytest.raises(InputError, match="block"):
        store.write(block, tables("b0"))
    assert snapshot(tmp_path) == {}


def test_rows_that_are_refused_leave_nothing(store, tmp_path):
    with pytest.raises(InputError, match="finite"):
        store.write("b0", tables("b0", value=float("nan")))
    with pytest.raises(InputError, match="unknown table"):
        store.write("b0", {"numbers": []})
    assert list(tmp_path.iterdir()) == []


# One write calls fsync for: run folder, two tables, digests.json, the block's folder, parts/.
@pytest.mark.parametrize(("call", "nth"), [("fsync", n) for n in range(6)] + [("rename", 0)])
@pytest.mark.parametrize("cleans_up", [True, False], ids=["interrupted", "killed"])
def test_a_death_at_any_step_leaves_a_block_whole_or_absent(
    store, tmp_path, monkeypatch, call, nth, cleans_up
):
    expected = PartStore(tmp_path / "undisturbed")
    expected.write("b0", tables("b0"))
    with monkeypatch.context() as patch:
        die_at(patch, call, nth)
        if not cleans_up:
            patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
        with pytest.raises(Killed):
            store.write("b0", tables("b0"))
    # Only the last step, making the new name durable, comes after the block became visible.
    assert visible(tmp_path) == ({"b0"} if (call, nth) == ("fsync", 5) else set())
    if "b0" not in PartStore(tmp_path).finished():
        PartStore(tmp_path).write("b0", tables("b0"))
    PartStore(tmp_path).seal(["b0"])
    expected.seal(["b0"])
    assert read_sealed(tmp_path) == read_sealed(tmp_path / "undisturbed")


def test_an_interrupted_write_leaves_no_litter(store, tmp_path, monkeypatch):
    die_at(monkeypatch, "rename", 0)
    with pytest.raises(Killed):
        store.write("b0", tables("b0"))
    assert snapshot(tmp_path) == {}


# Sealing two tables replaces rows, warnings and digests.json: three replaces, two fsyncs for each.
@pytest.mark.parametrize(
    ("call", "nth"), [("fsync", n) for n in range(6)] + [("replace", n) for n in range(3)]
)
def test_a_death_while_sealing_loses_nothing(store, tmp_path, monkeypatch, call, nth):
    plan = ["b0", "b1"]
    for folder in (tmp_path, tmp_path / "undisturbed"):
        for block in plan:
            PartStore(folder).write(block, tables(block))
    PartStore(tmp_path / "undisturbed").seal(plan)
    with monkeypatch.context() as patch:
        die_at(patch, call, nth)
        with pytest.raises(Killed):
            store.seal(plan)
    assert PartStore(tmp_path).finished() == set(plan)
    PartStore(tmp_path).seal(plan)
    expected = snapshot(tmp_path / "undisturbed")
    shutil.rmtree(tmp_path / "undisturbed")
    assert snapshot(tmp_path) == expected


def test_a_death_while_parts_are_removed_loses_nothing(store, tmp_path, monkeypatch):
    store.write("b0", tables("b0"))
    store.write("b1", tables("b1"))

    def remove_some(folder):
        shutil.os.remove(folder / "digests.json")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", remove_some)
        with pytest.raises(Killed):
            store.seal(["b0", "b1"])
    store.seal(["b0", "b1"])
    assert snapshot(tmp_path).keys() == {"rows.parquet", "warnings.parquet", "digests.json"}


def test_a_killed_process_leaves_only_whole_blocks(tmp_path):
    # A real SIGKILL, which no handler sees, while the second block is being written.
    script = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_parts import tables
        from pathlib import Path
        from saliency_bench.store.parts import PartStore
        store = PartStore(Path({str(tmp_path)!r}))
        store.write("b0", tables("b0"))
        os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        store.write("b1", tables("b1"))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -signal.SIGKILL
    store = PartStore(tmp_path)
    assert store.finished() == {"b0"}
    store.write("b1", tables("b1"))
    store.seal(["b0", "b1"])
    assert read_sealed(tmp_path).keys() == {"rows", "warnings"}


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "Free some of your quota"),
        (errno.EROFS, "Choose an output folder"),
        (errno.EACCES, "Choose an output folder"),
        (errno.EIO, "Check the disk"),
        (errno.EBADF, "Check the folder"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_disk_that_refuses_is_a_storage_error_with_advice(
    store, tmp_path, monkeypatch, call, code, advice
):
    with monkeypatch.context() as patch:
        patch.setattr(os, call, raiser(OSError(code, os.strerror(code))))
        with pytest.raises(StorageError) as caught:
            store.write("b0", tables("b0"))
    message = str(caught.value)
    assert caught.value.exit_code == 4
    assert str(tmp_path / "parts" / "b0") in message and os.strerror(code) in message
    assert advice in message
    assert visible(tmp_path) == set()
    store.write("b0", tables("b0"))
    assert store.finished() == {"b0"}


def test_a_full_disk_while_sealing_keeps_the_parts(store, tmp_path, monkeypatch):
    store.write("b0", tables("b0"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", raiser(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(StorageError, match=r"rows\.parquet.*No space left"):
            store.seal(["b0"])
    assert snapshot(tmp_path).keys() == {
        f"parts/b0/{name}" for name in ("rows.parquet", "warnings.parquet", "digests.json")
    }


@pytest.mark.parametrize("name", ["rows.parquet", "digests.json"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_part_is_set_aside_and_can_be_redone(store, tmp_path, name, kept):
    store.write("b0", tables("b0"))
    store.write("b1", tables("b1"))
    path = tmp_path / "parts" / "b0" / name
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * (len(data) - 2))])  # 2: the last brace goes in any case
    assert store.finished() == {"b1"}
    assert_set_aside(tmp_path)
    store.write("b0", tables("b0"))
    assert store.finished() == {"b0", "b1"}


def test_every_flipped_bit_of_a_table_is_noticed(store, tmp_path):
    store.write("b0", tables("b0"))
    part = tmp_path / "parts" / "b0"
    whole = (part / "warnings.parquet").read_bytes()
    aside = tmp_path / "parts" / ".set_aside"
    # Every 997th bit: 997 is prime, so each of the eight bits of a byte has its turn.
    for position in range(0, 8 * len(whole), 997):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        (part / "warnings.parquet").write_bytes(damaged)
        assert store.finished() == set(), position
        (found,) = aside.iterdir()
        (found / "b0").rename(part)
        shutil.rmtree(aside)
    (part / "warnings.parquet").write_bytes(whole)
    assert store.finished() == {"b0"}


def swap_names(parts):
    (parts / "b1").rename(parts / "b0-moved")


def lose_a_table(parts):
    (parts / "b1" / "rows.parquet").unlink()


def gain_a_table(parts):
    shutil.copy(parts / "b0" / "rows.parquet", parts / "b1" / "maps.parquet")


def lose_the_digests(parts):
    (parts / "b1" / "digests.json").unlink()


def replace_by_a_file(parts):
    shutil.rmtree(parts / "b1")
    (parts / "b1").write_text("?")


def point_elsewhere(parts):
    path = parts / "b1" / "digests.json"
    record = json.loads(path.read_bytes())
    outside = parts.parent / "outside"
    outside.write_text("secret")
    record["files"]["../../outside"] = sha256(b"secret")
    path.write_text(json.dumps(record))


def not_a_record(parts):
    (parts / "b1" / "digests.json").write_text("[]")


@pytest.mark.parametrize(
    "damage",
    [
        *(swap_names, lose_a_table, gain_a_table, lose_the_digests),
        *(replace_by_a_file, point_elsewhere, not_a_record),
    ],
)
def test_a_part_that_is_not_what_was_written_is_set_aside(store, tmp_path, damage):
    store.write("b0", tables("b0"))
    store.write("b1", tables("b1"))
    damage(tmp_path / "parts")
    assert store.finished() == {"b0"}
    assert_set_aside(tmp_path)


def test_sealing_merges_all_blocks_in_the_order_of_keys(store, tmp_path):
    for block in ("b2", "b0", "b1"):
        store.write(block, tables(block))
    store.seal(["b0", "b1", "b2"])
    data = read_sealed(tmp_path)
    rows = from_parquet("rows", data["rows"], "rows").to_pylist()
    assert [row["setting_id"] for row in rows] == ["s-b0", "s-b1", "s-b2"]
    assert snapshot(tmp_path).keys() == {"rows.parquet", "warnings.parquet", "digests.json"}


def test_the_order_in_which_blocks_finish_changes_no_byte(tmp_path):
    for name, order in (("up", ["b0", "b1"]), ("down", ["b1", "b0"])):
        store = PartStore(tmp_path / name)
        for block in order:
            store.write(block, tables(block))
        store.seal(order)
    assert snapshot(tmp_path / "up") == snapshot(tmp_path / "down")


def test_sealing_again_does_nothing(store, tmp_path):
    store.write("b0", tables("b0"))
    store.seal(["b0"])
    before = snapshot(tmp_path)
    store.seal(["b0"])
    assert snapshot(tmp_path) == before
    assert store.finished() == {"b0"}
    with pytest.raises(StorageError, match="finished already"):
        store.write("b1", tables("b1"))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            ["b0", "b1", "b2", "b3"],
            r"lacks 2 of 4 blocks \(b2, b3\)\. Go on with it",
        ),
        (["b0"], r"has 1 block of another study, not in the plan \(b1\)"),
    ],
)
def test_blocks_that_differ_from_the_plan_are_not_sealed(store, tmp_path, plan, message):
    store.write("b0", tables("b0"))
    store.write("b1", tables("b1"))
    before = snapshot(tmp_path)
    with pytest.raises(StorageError, match=message):
        store.seal(plan)
    assert snapshot(tmp_path) == before


def test_blocks_that_contradict_each_other_are_not_sealed(store):
    store.write("b0", {"rows": tables("same", 0.5)["rows"]})
    store.write("b1", {"rows": tables("same", 0.6)["rows"]})
    with pytest.raises(InputError, match="same key"):
        store.seal(["b0", "b1"])
    assert store.finished() == {"b0", "b1"}


def test_a_damaged_part_counts_as_missing_when_sealing(store, tmp_path):
    store.write("b0", tables("b0"))
    (tmp_path / "parts" / "b0" / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(StorageError, match="lacks 1 of 1 block "):
        store.seal(["b0"])


def die_at(patch, call, nth):
    """The nth call of `os.<call>` ends the process, before it does anything."""
    real, seen = getattr(os, call), []

    def dying(*args, **kwargs):
        seen.append(args)
        if len(seen) == nth + 1:
            raise Killed
        return real(*args, **kwargs)

    patch.setattr(os, call, dying)


def raiser(error):
    def fail(*args, **kwargs):
        raise error

    return fail


def assert_set_aside(folder):
    (place,) = (folder / "parts" / ".set_aside").iterdir()
    assert (place / "reason.txt").read_text().strip()
