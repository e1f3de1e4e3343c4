"""What is found out once per model and machine, kept in the user's cache folder; losing it costs time, nothing else."""

import json
import os
from pathlib import Path
from typing import Any

from saliency_bench.core.errors import StorageError
from saliency_bench.store.durable import replace_file, to_json


def read(kind: str, name: str) -> Any:
    """What an earlier process has kept under that name; None where there is nothing, or nothing that can be read."""
    try:
        return json.loads(_path(kind, name).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def write(kind: str, name: str, content: Any) -> None:
    """Keeps it for later processes; a cache that cannot be written is no error."""
    path = _path(kind, name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, to_json(content))
    except (OSError, StorageError):
        return


def _path(kind: str, name: str) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "saliency_bench" / kind / f"{name}.json"
