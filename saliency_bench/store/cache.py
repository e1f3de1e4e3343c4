"""Keeps what is measured once per model and machine in the user's cache folder. Losing it only costs time."""

import json
import os
from pathlib import Path
from typing import Any

from saliency_bench.core.errors import StorageError
from saliency_bench.store.durable import replace_file, to_json


def read(kind: str, name: str) -> Any:
    """Reads what an earlier process kept under that name; None where it is absent or unreadable."""
    try:
        return json.loads(_path(kind, name).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def write(kind: str, name: str, content: Any) -> None:
    """Keeps content for later processes; it is no error if the cache cannot be written."""
    path = _path(kind, name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, to_json(content))
    except (OSError, StorageError):
        return


def folder() -> Path:
    """The package's folder in the user's cache folder (XDG_CACHE_HOME, else ~/.cache); it may not exist yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "saliency_bench"


def _path(kind: str, name: str) -> Path:
    return folder() / kind / f"{name}.json"
