"""Stores the finished blocks of a run: each is on disk completely or not at all."""

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from saliency_bench.core.errors import InputError, StorageError, counted
from saliency_bench.core.rows import TABLES
from saliency_bench.store.durable import (
    is_leftover,
    remove_leftovers,
    replace_file,
    sha256,
    storing,
    sync_folder,
    to_json,
    write_new,
)
from saliency_bench.store.merging import merge_files
from saliency_bench.store.parquet import from_parquet, to_parquet, to_table

DIGESTS = "digests.json"
PIECES = ".pieces.json"  # among the parts: the remaining work, for workers
_BLOCK = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class _DamagedError(Exception):
    """A part differs from what was written; the message says how."""


class PartStore:
    """The tables of a run: `parts/<block>/` while it runs, `<table>.parquet` once it is sealed.

    `digests.json` is written last: beside a part's files it has their digests; in the run folder it shows that the run is
    sealed, and has its blocks and the digests of its tables. It has no times, so that equal results give equal files.
    """

    def __init__(
        self,
        folder: Path,
        tell: Callable[[str, str], None] = lambda *_: None,
        run: str | None = None,
    ) -> None:
        """`tell` is called with each block that is set aside and the reason; `run` is the id that every part must have."""
        self._folder, self._run = Path(folder), run
        self._parts = self._folder / "parts"
        self._scratch = self._parts / ".merging"
        self._set_aside = self._parts / ".set_aside"
        self._tell = tell

    def write(self, block: str, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Commits the rows of one block, by table. If another process has committed the same rows, nothing is written.

        Raises:
            InputError: the tables do not take a row; nothing is written.
            StorageError: the disk refuses, or the block is there already with other rows.
        """
        if not _BLOCK.fullmatch(block):
            raise InputError(
                f"block {block!r}: expected a file name of letters, digits, '.', '_' and '-'"
            )
        if sealed_record(self._folder) is not None:
            raise StorageError(f"{self._parts / block}: this block is finished already.")
        files = {
            f"{name}.parquet": to_parquet(to_table(name, rows)) for name, rows in tables.items()
        }
        digests = {name: sha256(data) for name, data in files.items()}
        of_run = {} if self._run is None else {"run": self._run}
        record = to_json({"block": block, "files": digests} | of_run)
        with storing(self._parts / block):
            if not self._is_held(block, record):
                self._commit(block, files | {DIGESTS: record})

    def summary(self, block: str) -> tuple[int, list[dict[str, Any]]]:
        """Returns the number of rows of a committed block, and its warnings; 0 and none if they cannot be read."""
        try:
            part = self._parts / block
            rows = part / "rows.parquet"
            n = pq.ParquetFile(rows).metadata.num_rows if rows.is_file() else 0
            path = part / "warnings.parquet"
            warnings = from_parquet("warnings", path.read_bytes(), path) if path.is_file() else None
        except (OSError, pa.ArrowException):  # `finished` sets the block aside, with the reason
            return 0, []
        keys = ["example_id", "source", "message"]
        return n, [] if warnings is None else warnings.select(keys).to_pylist()

    def has(self, block: str) -> bool:
        """Whether the block was committed; `finished` checks whether it is whole."""
        return (self._parts / block).exists()

    def _is_held(self, block: str, record: bytes) -> bool:
        if not self.has(block):
            return False
        stored = self._parts / block / DIGESTS
        if not stored.is_file() or stored.read_bytes() != record:
            raise StorageError(
                f"{self._parts / block}: this block is finished already, with other rows. Remove this folder, and go "
                f"on with: saliency-bench resume {self._folder}"
            )
        return True

    def finished(self, plan: Sequence[str] | None = None) -> set[str]:
        """Returns the blocks that are whole. A damaged part goes to `parts/.set_aside/`, with the reason.

        With a `plan`, blocks that are not in it are refused and not touched.

        Raises:
            StorageError: a table of a sealed run is damaged, a block is not in the plan, or the folder cannot be read.
        """
        record = sealed_record(self._folder)
        if record is not None:
            verify_sealed(self._folder)
            return set(record["blocks"])
        with storing(self._parts):
            committed = self._committed()
            if plan is not None:
                self._refuse_unplanned(set(committed) - set(plan))
            return {block for block in committed if self._is_whole(block)}

    def n_set_aside(self) -> int:
        """Counts the damaged parts that were set aside; only the user removes them."""
        with storing(self._set_aside):
            return len(list(self._set_aside.iterdir())) if self._set_aside.is_dir() else 0

    def seal(self, plan: Sequence[str]) -> None:
        """Merges the parts, which must be those of the plan, into one file per table.

        The parts are removed, and nothing else: those that were set aside stay. Sealing again does nothing, and after a kill
        the folder can be sealed again.

        Raises:
            StorageError: blocks are missing or not in the plan, or the disk refuses.
        """
        blocks = self.finished(plan)
        if missing := sorted(set(plan) - blocks):
            raise StorageError(
                f"{self._folder} lacks {len(missing)} of {counted(len(set(plan)), 'block')} "
                f"({_some(missing)}). Go on with it: saliency-bench resume {self._folder}"
            )
        self._refuse_unplanned(blocks - set(plan))
        if sealed_record(self._folder) is None:
            digests = {}
            for name in TABLES:
                if files := self._files_of(name, sorted(blocks)):
                    target = self._folder / f"{name}.parquet"
                    digests[target.name] = merge_files(name, files, target, self._scratch)
            replace_file(
                self._folder / DIGESTS, to_json({"blocks": sorted(blocks), "files": digests})
            )
        remove_leftovers(self._folder)
        with storing(self._parts):
            self._clear(blocks)

    def _clear(self, blocks: set[str]) -> None:
        """Removes everything that this store has written, and the folder if it is then empty."""
        if not self._parts.is_dir():
            return
        for path in self._parts.iterdir():
            if path.name in {*blocks, self._scratch.name, PIECES} or is_leftover(path.name):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if not any(self._parts.iterdir()):
            self._parts.rmdir()

    def _committed(self) -> list[str]:
        if not self._parts.is_dir():
            return []
        return sorted(path.name for path in self._parts.iterdir() if not path.name.startswith("."))

    def _commit(self, block: str, files: Mapping[str, bytes]) -> None:
        if not self._parts.is_dir():
            self._parts.mkdir(parents=True, exist_ok=True)
            sync_folder(self._folder)
        staging = self._parts / f".writing-{block}-{uuid.uuid4().hex[:8]}"
        try:
            staging.mkdir()
            for name, data in files.items():
                write_new(staging / name, data)
            sync_folder(staging)
            try:
                staging.rename(self._parts / block)
            except OSError:
                # A worker whose driver was killed may have been quicker.
                if not self._is_held(block, files[DIGESTS]):
                    raise
                shutil.rmtree(staging)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        sync_folder(self._parts)

    def _is_whole(self, block: str) -> bool:
        try:
            _verify(self._parts / block, self._run)
        except _DamagedError as damage:
            self._put_aside(block, str(damage))
            return False
        return True

    def _put_aside(self, block: str, reason: str) -> None:
        place = self._set_aside / f"{block}-{uuid.uuid4().hex[:8]}"
        place.mkdir(parents=True)
        (place / "reason.txt").write_text(f"{reason}\n", encoding="utf-8")
        (self._parts / block).rename(place / block)
        sync_folder(self._parts)
        self._tell(block, reason)

    def _refuse_unplanned(self, names: Collection[str]) -> None:
        if names:
            raise StorageError(
                f"{self._parts} has {counted(len(names), 'block')} of another study, not in the plan ({_some(sorted(names))}). "
                "Move what is there elsewhere, or choose another output folder."
            )

    def _files_of(self, name: str, blocks: Sequence[str]) -> list[Path]:
        files = [self._parts / block / f"{name}.parquet" for block in blocks]
        with storing(self._parts):
            return [file for file in files if file.exists()]


def sealed_record(folder: Path) -> dict[str, Any] | None:
    """Reads `digests.json` of a run folder (`blocks`, `files`); None if it is not sealed.

    Raises:
        StorageError: the file is damaged.
    """
    path = folder / DIGESTS
    with storing(path):
        if not path.exists():
            return None
        try:
            return _parse_record(path, "blocks", list)
        except _DamagedError as damage:
            raise StorageError(
                f"{path}: {damage}. Restore the file, or run the study again."
            ) from damage


def verify_sealed(folder: Path) -> list[str]:
    """Checks every table of a sealed run against the recorded digests.

    Returns:
        The tables that it has.

    Raises:
        StorageError: the run is not sealed, or a file is missing, truncated or altered.
    """
    record = sealed_record(folder)
    if record is None:
        raise StorageError(f"{folder} is unfinished. Go on with it: saliency-bench resume {folder}")
    with storing(folder):
        try:
            names = _tables_in(record)
            for name in names:
                _verify_file(folder, record["files"], name)
        except _DamagedError as damage:
            raise StorageError(
                f"{folder}: {damage}. Restore the file, or delete the folder and run again."
            ) from damage
    return names


def _verify(part: Path, run: str | None) -> None:
    if not part.is_dir():
        raise _DamagedError("not a folder")
    record = _parse_record(part / DIGESTS, "block", str)
    if record["block"] != part.name:
        raise _DamagedError(f"the part of block {record['block']!r} under another name")
    if run is not None and record.get("run") != run:
        raise _DamagedError("a part of another run, with other weights, data or configuration")
    if stray := {path.name for path in part.iterdir()} - record["files"].keys() - {DIGESTS}:
        raise _DamagedError(f"{min(stray)} is not among the files that were written")
    for name in _tables_in(record):
        _verify_file(part, record["files"], name)


def _parse_record(path: Path, key: str, kind: type) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError) as error:
        raise _DamagedError(f"{path.name} is missing or is not JSON") from error
    if not isinstance(record, dict) or not isinstance(record.get(key), kind):
        raise _DamagedError(f"{path.name} lacks {key!r}")
    if not isinstance(record.get("files"), dict):
        raise _DamagedError(f"{path.name} lacks 'files'")
    return record


def _tables_in(record: Mapping[str, Any]) -> list[str]:
    """Returns the tables that a record lists. Only names of `TABLES` become paths: a record cannot point elsewhere."""
    if foreign := record["files"].keys() - {f"{name}.parquet" for name in TABLES}:
        raise _DamagedError(f"{DIGESTS} lists {min(foreign)!r}, which is no table")
    return [name for name in TABLES if f"{name}.parquet" in record["files"]]


def _verify_file(folder: Path, digests: Mapping[str, str], name: str) -> None:
    path = folder / f"{name}.parquet"
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise _DamagedError(f"{path.name} is missing") from error
    if digest != digests[path.name]:
        raise _DamagedError(
            f"{path.name} was truncated or altered: its SHA-256 is not the one recorded"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
