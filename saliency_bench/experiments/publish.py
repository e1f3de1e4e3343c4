"""What a verb found, written to a folder and shown: rows, tables, figures, a page of text and the manifest."""

import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console

from saliency_bench.core.errors import InputError
from saliency_bench.experiments.findings import ROWS, Findings, Models, pack, render, show
from saliency_bench.models import loading
from saliency_bench.store.durable import replace_file
from saliency_bench.store.manifest import collect, portable
from saliency_bench.store.run import MANIFEST, SETTINGS, write_json


def publish(
    found: Findings,
    rows: pd.DataFrame,
    models: Models,
    out: Path,
    config: Mapping[str, Any],
    command: Sequence[str],
    started: datetime,
    console: Console | None = None,
    threads: int | None = None,
) -> None:
    """Writes everything, the manifest last, and prints the tables and what they depend on.

    `threads` are those that computed, if not this process's.

    Raises:
        StorageError: the folder cannot be written.
    """
    replace_file(out / ROWS, pack(rows))
    render(found, out)
    runtime = config["runtime"]
    device = loading.resolve_device(runtime["device"])
    computation = {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "dtype": runtime["dtype"],
        "attention": runtime["attention"],
        "threads": threads or torch.get_num_threads(),
        "token_budget": runtime["token_budget"],
    }
    facts = {
        "name": found.name,
        "command": portable(shlex.join(command)),
        "config": dict(config),
        "models": {name: dict(of_model) for name, of_model in models.items()},
        "n_rows": len(rows),
    }
    provenance = collect(computation, command=command, started=started, ended=datetime.now(UTC))
    write_json(out / MANIFEST, facts | provenance)
    show(found, out, console)


def name_of(model: str) -> str:
    """A folder by its last part, anything else as it is."""
    path = Path(model).expanduser()
    return path.resolve().name if path.exists() else model


def refuse_a_run(out: Path) -> None:
    """Refuses a folder that holds a study, whose manifest would be lost."""
    if (out / SETTINGS).exists() or (out / "parts").exists():
        raise InputError(f"out={out} holds the results of a run. Give another folder.")
