"""What `trust` and `sanity` found, shown: tables, figures and a page of text from their rows. Imports no torch."""

import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from saliency_bench.core.errors import StorageError
from saliency_bench.core.rows import SANITY, TRUST
from saliency_bench.experiments import trust_report as trust
from saliency_bench.experiments.sanity import report as sanity
from saliency_bench.report.build import write_tables
from saliency_bench.report.formats import to_markdown
from saliency_bench.report.stats import Resampling
from saliency_bench.report.style import pdf, png, styled
from saliency_bench.report.table import Table
from saliency_bench.report.terminal import console_for, fitting, to_rich
from saliency_bench.store.durable import replace_file, storing
from saliency_bench.store.run import MANIFEST, read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = "rows.csv.gz"
Models = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Findings:
    """What a verb of this name found.

    `tables` are shown, `more_tables` only written; `figures` are drawn in the house style, by their names.
    """

    name: str
    tables: Sequence[Table]
    more_tables: Sequence[Table]
    figures: "Callable[[], Mapping[str, Figure]]"
    notes: Sequence[str]


def of_trust(rows: pd.DataFrame, models: Models, resampling: Resampling) -> Findings:
    """Which metrics prefer a ranking that is known to be right."""
    from saliency_bench.experiments.trust_plots import figures

    return Findings(
        name="trust",
        tables=trust.tables(rows, models, resampling),
        more_tables=[trust.long_table(rows, resampling)],
        figures=lambda: figures(rows, resampling),
        notes=trust.notes(rows, models),
    )


def of_sanity(rows: pd.DataFrame, models: Models, resampling: Resampling) -> Findings:
    """What maps depend on."""
    from saliency_bench.experiments.sanity.plots import figures

    shown, written = sanity.split(sanity.tables(rows, resampling))
    return Findings(
        name="sanity",
        tables=shown,
        more_tables=[*written, sanity.long_table(rows, resampling)],
        figures=lambda: figures(rows, resampling),
        notes=sanity.notes(rows),
    )


@dataclass(frozen=True)
class _Kind:
    columns: Sequence[str]
    number: str  # the column that holds one; all others are text
    nullable: tuple[str, ...]
    added: tuple[str, ...]  # that folders of earlier versions do not have; they read as null
    find: Callable[[pd.DataFrame, Models, Resampling], Findings]


KINDS = {
    "trust": _Kind(TRUST, "preferred", ("reason",), (), of_trust),
    "sanity": _Kind(SANITY, "value", ("method", "draw", "reason"), ("draw",), of_sanity),
}


def is_one(folder: Path) -> bool:
    """Whether `trust` or `sanity` wrote this folder."""
    return (folder / ROWS).is_file() and (folder / MANIFEST).is_file()


def read(folder: Path) -> Findings:
    """Findings again from the rows and the manifest of a folder.

    Raises:
        StorageError: a file is damaged, or of something else.
    """
    manifest = read_json(folder / MANIFEST, dict)
    kind = KINDS.get(manifest.get("name"))
    if kind is None:
        raise StorageError(
            f"{folder / MANIFEST} is of {manifest.get('name')!r}, not of trust or sanity."
        )
    try:
        config, models = manifest["config"], manifest["models"]
        chosen = config["statistics"]
        resampling = Resampling(
            float(chosen["confidence"]), int(chosen["n_resamples"]), int(config["seed"])
        )
        if not (0 < resampling.confidence < 1 <= resampling.n_resamples and resampling.seed >= 0):
            raise ValueError(f"no such statistics: {dict(chosen)}")
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(
            f"{folder / MANIFEST} does not say how intervals were made ({error}). Restore the file."
        ) from error
    return kind.find(_rows(folder / ROWS, kind), models, resampling)


def pack(rows: pd.DataFrame) -> bytes:
    """The rows as compressed CSV, without a date."""
    return gzip.compress(rows.to_csv(index=False, lineterminator="\n").encode(), mtime=0)


def _rows(path: Path, kind: _Kind) -> pd.DataFrame:
    with storing(path):
        data = path.read_bytes()
    try:
        text = gzip.decompress(data)
        found = pd.read_csv(BytesIO(text), dtype=str, keep_default_na=False)
        absent = [column for column in kind.added if column not in found]
        found = found.assign(**dict.fromkeys(absent, ""))[list(kind.columns)]
        found[kind.number] = pd.to_numeric(found[kind.number].replace("", None))
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise StorageError(f"{path} is damaged ({error}). Restore the file.") from error
    for column in kind.nullable:
        found[column] = found[column].astype(object).replace("", None)
    return found


def render(found: Findings, out: Path) -> None:
    """Writes the page of text, the tables and the figures.

    Raises:
        StorageError: the folder cannot be written.
    """
    replace_file(out / f"{found.name}.md", _page(found).encode())
    write_tables([*found.tables, *found.more_tables], out)
    with styled():
        for name, figure in found.figures().items():
            replace_file(out / "figures" / f"{name}.png", png(figure))
            replace_file(out / "figures" / f"{name}.pdf", pdf(figure))


def show(found: Findings, out: Path, console: Console | None = None) -> None:
    """Prints the tables and what they depend on."""
    console = console or console_for()
    for table in found.tables:
        console.print(to_rich(fitting(table, console.width), console.is_terminal))
    for line in (*found.notes, f"Written to {out}."):
        console.print(Text(line), soft_wrap=True)


def _page(found: Findings) -> str:
    parts = [f"# saliency-bench {found.name}\n", *map(to_markdown, found.tables)]
    return "\n".join([*parts, *(f"{one}\n" for one in found.notes)])
