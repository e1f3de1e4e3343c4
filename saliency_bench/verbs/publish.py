"""What a verb found, written to a folder and shown: rows, tables, figures, a page of text and the manifest."""

import gzip
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from rich.console import Console
from rich.text import Text

from saliency_bench.models import loading
from saliency_bench.report.build import write_tables
from saliency_bench.report.formats import to_markdown
from saliency_bench.report.style import pdf, png, styled
from saliency_bench.report.table import Table
from saliency_bench.report.terminal import console_for, fitting, to_rich
from saliency_bench.store.durable import replace_file
from saliency_bench.store.manifest import collect, portable
from saliency_bench.store.run import MANIFEST, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Findings:
    """What a verb of this name found.

    `tables` are shown, `more_tables` only written; `figures` are drawn in the house style, by their names.
    """

    name: str
    rows: pd.DataFrame
    tables: Sequence[Table]
    more_tables: Sequence[Table]
    figures: "Callable[[], Mapping[str, Figure]]"
    notes: Sequence[str]
    models: Mapping[str, Mapping[str, Any]]
    started: datetime


def publish(
    found: Findings,
    out: Path,
    config: Mapping[str, Any],
    command: Sequence[str],
    console: Console | None = None,
) -> None:
    """Writes everything, the manifest last, and prints the tables and what they depend on.

    Raises:
        StorageError: the folder cannot be written.
    """
    replace_file(out / "rows.csv.gz", _packed(found.rows))
    replace_file(out / f"{found.name}.md", _page(found).encode())
    write_tables([*found.tables, *found.more_tables], out)
    with styled():
        for name, figure in found.figures().items():
            replace_file(out / "figures" / f"{name}.png", png(figure))
            replace_file(out / "figures" / f"{name}.pdf", pdf(figure))
    write_json(out / MANIFEST, _manifest(found, config, command))
    console = console or console_for()
    for table in found.tables:
        console.print(to_rich(fitting(table, console.width), console.is_terminal))
    for line in (*found.notes, f"Written to {out}."):
        console.print(Text(line), soft_wrap=True)


def _page(found: Findings) -> str:
    parts = [f"# saliency-bench {found.name}\n", *map(to_markdown, found.tables)]
    return "\n".join([*parts, *(f"{one}\n" for one in found.notes)])


def _packed(rows: pd.DataFrame) -> bytes:
    """The rows as compressed CSV, without a date."""
    return gzip.compress(rows.to_csv(index=False, lineterminator="\n").encode(), mtime=0)


def _manifest(found: Findings, config: Mapping[str, Any], command: Sequence[str]) -> dict[str, Any]:
    runtime = config["runtime"]
    device = loading.resolve_device(runtime["device"])
    computation = {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "dtype": runtime["dtype"],
        "attention": runtime["attention"],
        "threads": torch.get_num_threads(),
        "token_budget": runtime["token_budget"],
    }
    provenance = collect(
        computation, command=command, started=found.started, ended=datetime.now(UTC)
    )
    return {
        "name": found.name,
        "command": portable(shlex.join(command)),
        "config": dict(config),
        "models": {name: dict(facts) for name, facts in found.models.items()},
        "n_rows": len(found.rows),
    } | provenance
