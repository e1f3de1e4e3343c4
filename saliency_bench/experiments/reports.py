"""Reports of experiments: tables, figures and a page of text; those of `trust` and `sanity` from their rows. Imports no torch."""

import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from saliency_bench.report.terminal import console_for, to_rich
from saliency_bench.store.durable import replace_file, storing
from saliency_bench.store.run import MANIFEST, read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = "rows.csv.gz"
Models = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class ExperimentReport:
    """The results of an experiment, as they are shown.

    Attributes:
        name: the experiment's, and that of its page unless `page` is another.
        tables: printed, and on the page.
        notes: what the numbers depend on, a line each.
        written: tables that have files of their own.
        figures: draws in the house style, by name; None where the rows have nothing for a figure.
        page: the name of the page of text.
        n_keys: the first columns of a table, which name its rows.
    """

    name: str
    tables: Sequence[Table]
    notes: Sequence[str]
    written: Sequence[Table] = ()
    figures: "Callable[[], Mapping[str, Figure | None]]" = dict
    page: str = ""
    n_keys: int = 1


def of_trust(rows: pd.DataFrame, models: Models, resampling: Resampling) -> ExperimentReport:
    """The report of `trust`: shares of texts on which metrics prefer a ranking that is known to be right."""
    from saliency_bench.experiments.trust_plots import figures

    tables = trust.tables(rows, models, resampling)
    return ExperimentReport(
        name="trust",
        tables=tables,
        notes=trust.notes(rows, models),
        written=[*tables, trust.long_table(rows, resampling)],
        figures=lambda: figures(rows, resampling),
    )


def of_sanity(rows: pd.DataFrame, models: Models, resampling: Resampling) -> ExperimentReport:
    """The report of `sanity`: the agreement of maps between models, seeds and inputs."""
    from saliency_bench.experiments.sanity.plots import figures

    tables = sanity.tables(rows, resampling)
    return ExperimentReport(
        name="sanity",
        tables=[table for table in tables if table.name not in sanity.not_shown(tables)],
        notes=sanity.notes(rows),
        written=[*tables, sanity.long_table(rows, resampling)],
        figures=lambda: figures(rows, resampling),
    )


@dataclass(frozen=True)
class _Kind:
    columns: Sequence[str]
    number: str  # the column that holds one; all others are text
    nullable: tuple[str, ...]
    added: tuple[str, ...]  # that folders of earlier versions do not have; they read as null
    make: Callable[[pd.DataFrame, Models, Resampling], ExperimentReport]


KINDS = {
    "trust": _Kind(TRUST, "preferred", ("reason",), (), of_trust),
    "sanity": _Kind(SANITY, "value", ("method", "draw", "reason"), ("draw",), of_sanity),
}


def is_of_experiment(folder: Path) -> bool:
    """Whether `trust` or `sanity` wrote this folder."""
    return (folder / ROWS).is_file() and (folder / MANIFEST).is_file()


def read(folder: Path) -> ExperimentReport:
    """Makes the report again from the rows and the manifest of a folder.

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
    return kind.make(_rows(folder / ROWS, kind), models, resampling)


def pack(rows: pd.DataFrame) -> bytes:
    """The rows as compressed CSV, without a date."""
    return gzip.compress(rows.to_csv(index=False, lineterminator="\n").encode(), mtime=0)


def _rows(path: Path, kind: _Kind) -> pd.DataFrame:
    with storing(path):
        data = path.read_bytes()
    try:
        text = gzip.decompress(data)
        rows = pd.read_csv(BytesIO(text), dtype=str, keep_default_na=False)
        absent = [column for column in kind.added if column not in rows]
        rows = rows.assign(**dict.fromkeys(absent, ""))[list(kind.columns)]
        rows[kind.number] = pd.to_numeric(rows[kind.number].replace("", None))
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise StorageError(f"{path} is damaged ({error}). Restore the file.") from error
    for column in kind.nullable:
        rows[column] = rows[column].astype(object).replace("", None)
    return rows


def render(report: ExperimentReport, out: Path) -> None:
    """Writes the page of text, the tables and the figures; a figure that is not drawn any more is removed.

    Raises:
        StorageError: the folder cannot be written.
    """
    parts = [f"# saliency-bench {report.name}\n", *map(to_markdown, report.tables)]
    text = "\n".join([*parts, *(f"{note}\n" for note in report.notes)])
    replace_file(out / (report.page or f"{report.name}.md"), text.encode())
    write_tables(report.written, out)
    with styled():
        for name, figure in report.figures().items():
            for suffix, write in (("png", png), ("pdf", pdf)):
                path = out / "figures" / f"{name}.{suffix}"
                if figure is not None:
                    replace_file(path, write(figure))
                else:
                    with storing(path):
                        path.unlink(missing_ok=True)


def show(report: ExperimentReport, out: Path, console: Console | None = None) -> None:
    """Prints the tables and what they depend on; columns that do not fit beside each other come below."""
    console = console or console_for()
    for table in report.tables:
        for part in _parts(table, report.n_keys, console):
            console.print(to_rich(part, console.is_terminal))
    for line in (*report.notes, f"Written to {out}."):
        console.print(Text(line), soft_wrap=True)


def _parts(table: Table, n_keys: int, console: Console) -> Iterator[Table]:
    """The table cut into parts of the console's width: the first columns in each, and at least one more."""
    places: list[int] = []
    for place in range(n_keys, len(table.columns)):
        if places and _width(_columns(table, n_keys, [*places, place]), console) > console.width:
            yield _columns(table, n_keys, places)
            places = []
        places.append(place)
    yield _columns(table, n_keys, places)


def _width(table: Table, console: Console) -> int:
    unlimited = console.options.update(max_width=10_000)
    return console.measure(to_rich(table, console.is_terminal), options=unlimited).maximum


def _columns(table: Table, n_keys: int, places: Sequence[int]) -> Table:
    kept = [*range(n_keys), *places]
    return replace(
        table,
        columns=tuple(table.columns[place] for place in kept),
        rows=tuple(tuple(row[place] for place in kept) for row in table.rows),
    )
