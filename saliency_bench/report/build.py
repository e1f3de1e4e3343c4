"""Makes a run's tables, figures and page, from its rows alone."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from saliency_bench.report import (
    accuracy_plots,
    across,
    across_plots,
    formats,
    plots,
    removal_plots,
    style,
    sweep_plots,
)
from saliency_bench.report.across import Across
from saliency_bench.report.analysis import Analysis, analyse
from saliency_bench.report.html import page
from saliency_bench.report.paper import for_paper
from saliency_bench.report.study_tables import TABLES, tables
from saliency_bench.report.table import Table
from saliency_bench.store.durable import refuse_links, replace_file, storing
from saliency_bench.store.run import MANIFEST, Run, write_json

PAGE = "report.html"
WRITTEN = ("tables", "figures")  # folders beside it
FIGURES: dict[str, Callable[[Analysis], Figure | None]] = {
    "curves": plots.curves,
    "metric_bars": plots.metric_bars,
    "agreement": plots.agreement,
    "cost": plots.cost,
    "convergence": sweep_plots.convergence,
    "accuracy": accuracy_plots.accuracy,
    "noise_map": sweep_plots.noise_map,
    "removal_grid": removal_plots.removal_grid,
}
ACROSS_FIGURES: dict[str, Callable[[Across], Figure | None]] = {
    "forest": across_plots.forest,
    "critical_difference": across_plots.critical_difference,
}
FORMATS: dict[str, Callable[[Table], str]] = {
    "csv": formats.to_csv,
    "md": formats.to_markdown,
    "tex": formats.to_latex,
}


def build_report(run: Run) -> Path:
    """Writes `tables/`, `figures/` and `report.html` into the run folder; the same rows give the same bytes.

    Returns:
        The page's path.

    Raises:
        InputError: the run has nothing to report.
        StorageError: the folder cannot be written; each file is as it was, or new.
    """
    refuse_links(run.folder, WRITTEN)
    analysis = analyse(run)
    by_name = tables(analysis)
    papers = by_name | {"headline": for_paper(analysis)} if "headline" in by_name else by_name
    for name in TABLES:
        for suffix, write in FORMATS.items():
            path = run.folder / "tables" / f"{name}.{suffix}"
            table = papers.get(name) if suffix == "tex" else by_name.get(name)
            _put(path, write(table).encode() if table else None)
    pictures = write_figures(FIGURES, analysis, run.folder / "figures")
    _put(run.folder / PAGE, page(analysis, by_name, pictures).encode())
    return run.folder / PAGE


def write_tables(tables_to_write: Sequence[Table], out: Path) -> None:
    """Writes tables in every format.

    Raises:
        StorageError: the folder cannot be written.
    """
    for table in tables_to_write:
        for suffix, write in FORMATS.items():
            _put(out / "tables" / f"{table.name}.{suffix}", write(table).encode())


def build_across(comparison: Across, runs: Sequence[Run], out: Path, command: str) -> list[Table]:
    """Writes tables, figures, `across.md` and a manifest of several runs side by side.

    Returns:
        The tables.

    Raises:
        StorageError: the folder cannot be written.
    """
    across_tables = across.tables(comparison)
    write_tables(across_tables, out)
    write_figures(ACROSS_FIGURES, comparison, out / "figures")
    _put(out / "across.md", "\n".join(map(formats.to_markdown, across_tables)).encode())
    cells = [
        {
            "name": name,
            "run": run.manifest["id"],
            "cell_id": run.manifest["cell_id"],
            "folder": run.folder.name,
        }
        | dict(cell.factors)
        for name, run, cell in zip(comparison.names, runs, comparison.cells, strict=True)
    ]
    write_json(
        out / MANIFEST,
        {"name": "across", "metric": comparison.metric, "command": command, "cells": cells},
    )
    return across_tables


def write_figures(
    plots: Mapping[str, Callable[[Any], Figure | None]], subject: object, folder: Path
) -> dict[str, bytes]:
    """Writes every figure that has data as PNG and PDF, and removes the others.

    Returns:
        The PNG by name.

    Raises:
        StorageError: the folder cannot be written.
    """
    pictures = {}
    with style.styled():
        for name, plot in plots.items():
            figure = plot(subject)
            _put(folder / f"{name}.pdf", style.pdf(figure) if figure else None)
            _put(folder / f"{name}.png", png := style.png(figure) if figure else None)
            if png is not None:
                pictures[name] = png
    return pictures


def _put(path: Path, data: bytes | None) -> None:
    """Writes a file; without data, removes that of an earlier report."""
    if data is not None:
        replace_file(path, data)
    else:
        with storing(path):
            path.unlink(missing_ok=True)
