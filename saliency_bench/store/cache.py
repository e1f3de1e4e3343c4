"""Keeps measurements of models on this machine in the user's cache folder. Without it they are made again."""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from saliency_bench.core.errors import StorageError
from saliency_bench.store.durable import replace_file, to_json

#: The environment variable that names the folder.
VARIABLE = "SALIENCY_BENCH_CACHE"
_NAME = "saliency_bench"

#: Folders that could not be written, each of which has had its warning.
_WARNED: set[Path] = set()


class Size(NamedTuple):
    """The size of a cache."""

    n_files: int
    n_bytes: int


def folder() -> Path:
    """Returns the folder of the cache: that of `SALIENCY_BENCH_CACHE`, else the usual one of the platform.

    The usual one is `XDG_CACHE_HOME` or `~/.cache`, `~/Library/Caches` on macOS and `LOCALAPPDATA` on Windows.

    Raises:
        RuntimeError: the user has no home folder.
    """
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / _NAME
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / _NAME / "cache"
    home = Path.home()
    return (home / "Library" / "Caches" if sys.platform == "darwin" else home / ".cache") / _NAME


def read(kind: str, name: str) -> Any:
    """Reads the content that an earlier process kept under a name; None if it is absent or unreadable."""
    try:
        return json.loads(_path(kind, name).read_text("utf-8"))
    except (OSError, RuntimeError, ValueError):
        return None


def write(kind: str, name: str, content: Any) -> None:
    """Keeps content for later processes, unless JSON cannot hold it (NaN).

    If the folder cannot be written, there is one warning and no error.
    """
    try:
        data = to_json(content)
    except ValueError:
        return
    try:
        replace_file(_path(kind, name), data)
    except (OSError, RuntimeError, StorageError) as error:
        _warn(error)


def size() -> Size:
    """Counts the files of the cache and their bytes."""
    sizes = [path.stat().st_size for path in folder().glob("*/*.json")]
    return Size(len(sizes), sum(sizes))


def _warn(error: Exception) -> None:
    try:
        place = folder()
    except RuntimeError:
        place = Path("~")
    if place in _WARNED:
        return
    _WARNED.add(place)
    reason = error.__cause__ if isinstance(error, StorageError) and error.__cause__ else error
    warnings.warn(
        f"the cache cannot be written ({reason}), so that every process measures each model again. "
        f"Set {VARIABLE} to a folder that can be written.",
        stacklevel=2,
    )


def _path(kind: str, name: str) -> Path:
    return folder() / kind / f"{name}.json"
