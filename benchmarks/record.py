"""What scripts that measure share: their command line, and a manifest of how the numbers were made."""

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from saliency_bench.store.manifest import collect
from saliency_bench.store.run import MANIFEST, write_json

ONE_THREAD = {"device": "cpu", "dtype": "float32", "threads": 1}


def examples_and_folder(name: str, n_examples: int) -> tuple[int, Path]:
    """Reads the command line `[N_EXAMPLES] [FOLDER]`, and makes the folder; `results/NAME` where none is given."""
    words = sys.argv[1:]
    folder = Path(words[1] if len(words) > 1 else f"results/{name}")
    folder.mkdir(parents=True, exist_ok=True)
    return int(words[0]) if words else n_examples, folder


class Record:
    """How a measurement is made. It begins when this is created.

    Args:
        command: the words after `python`; those of this process where none are given.
    """

    def __init__(self, *command: str) -> None:
        self.command = ["python", *(command or sys.argv)]
        self.started = datetime.now(UTC)

    def provenance(self, **computation: Any) -> dict[str, Any]:
        """Returns code, versions, machine, command and times, and what the numbers depend on besides (`collect`)."""
        ended = datetime.now(UTC)
        return collect(computation, command=self.command, started=self.started, ended=ended)

    def write(self, folder: Path, about: Mapping[str, Any], **computation: Any) -> None:
        """Writes the manifest of a folder of results: what it is about, and the provenance."""
        write_json(folder / MANIFEST, dict(about) | self.provenance(**computation))
