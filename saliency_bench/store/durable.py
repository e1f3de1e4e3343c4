"""Writes files that are there completely or not at all, also after a power cut."""

import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from saliency_bench.core.errors import StorageError

_ADVICE = {
    errno.ENOSPC: "Free some space and run again",
    errno.EDQUOT: "Free some of your quota and run again",
    errno.EROFS: "Choose an output folder on a file system that can be written",
    errno.EACCES: "Choose an output folder that you may read and write",
    errno.EPERM: "Choose an output folder that you may read and write",
    errno.EEXIST: "Choose an output folder that is no file",
    errno.ENOTDIR: "Choose an output folder that is in no file",
    errno.EIO: "Check the disk, then run again",
    errno.ENAMETOOLONG: "Choose an output folder with a shorter path",
}

_STAGING = re.compile(r"\..+-[0-9a-f]{8}")


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turns an `OSError` into a `StorageError` that names `path` and what to do."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "Check the folder, then run again")
        message = f"{path}: {error.strerror or error}. {advice}; finished blocks are kept."
        raise StorageError(message) from error


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable, which the fsync of a file does not (see fsync(2))."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, data: bytes) -> None:
    """Writes a file that does not exist yet, through to the disk."""
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Puts `data` at `path` in one step: a reader sees the old file or the new one.

    The folder is made if it is missing.

    Raises:
        StorageError: the operating system refused; the old file is as it was.
    """
    staging = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")  # see `_STAGING`
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_new(staging, data)
            staging.replace(path)
        finally:
            staging.unlink(missing_ok=True)
        sync_folder(path.parent)


@contextmanager
def put_in_place(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that is moved to `path` if the block succeeds, and removed if it fails.

    Raises:
        StorageError: the operating system refused; the old file is as it was.
    """
    staging = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    with storing(path):
        try:
            with staging.open("xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            staging.replace(path)
        finally:
            staging.unlink(missing_ok=True)
        sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Removes unfinished files of `replace_file` after a kill. No other process may be writing to the folder.

    Raises:
        StorageError: the operating system refused.
    """
    with storing(folder):
        for path in folder.iterdir():
            if is_leftover(path.name) and path.is_file():
                path.unlink(missing_ok=True)


def is_leftover(name: str) -> bool:
    """Whether a file has the name of an unfinished one of `replace_file`."""
    return _STAGING.fullmatch(name) is not None


def refuse_links(folder: Path, names: Sequence[str] | None = None) -> None:
    """Refuses symbolic links, which writing would follow.

    Args:
        folder: the folder.
        names: the names in it to check; None: everything in it, also in its subfolders.

    Raises:
        StorageError: there is a link.
    """
    with storing(folder):
        paths = (
            (Path(place, name) for place, inner, files in os.walk(folder) for name in inner + files)
            if names is None
            else (folder / name for name in names)
        )
        link = next((path for path in paths if path.is_symlink()), None)
    if link is not None:
        raise StorageError(
            f"{link} is a symbolic link: files written there would be outside of the folder. Remove the link."
        )


def to_json(value: Any) -> bytes:
    """Returns canonical JSON: equal values give equal bytes.

    Raises:
        ValueError: NaN or infinity, which JSON does not have.
    """
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def sha256(data: bytes) -> str:
    """Returns the SHA-256 of `data`, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
