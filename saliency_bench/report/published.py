"""Compares published numbers with those of a run under the same protocol."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pandas as pd
from scipy.stats import kendalltau

from saliency_bench.core.errors import InputError, unknown
from saliency_bench.core.labels import metric_label
from saliency_bench.report.analysis import Analysis, analyse
from saliency_bench.report.table import Column, Field, Table, filled
from saliency_bench.store.run import Run

#: The source of each table.
SOURCES = {
    "sig": (
        "Enguehard 2023 (SIG): the result files of its released code, mask baseline, and Integrated Gradients with "
        "other baselines from their history"
    ),
    "naopc": "Edin et al. 2025 (NAOPC): means of the per-example results that its repository holds",
    "bastings": (
        "Bastings et al. 2022, section 5: ranges over nine cells (three datasets, three kinds of shortcuts), one "
        "training each"
    ),
}


@dataclass(frozen=True)
class Published:
    """A published table: lines of cell, model, method, setting, metric, low and high, which differ for a range."""

    name: str
    rows: pd.DataFrame

    @property
    def cells(self) -> list[str]:
        """The models and datasets of the table."""
        return list(self.rows["cell"].unique())


def read(name: str) -> Published:
    """Reads a table by name.

    Raises:
        InputError: there is none of this name.
    """
    if name not in SOURCES:
        raise unknown("published", name, list(SOURCES))
    with (
        files("saliency_bench.report").joinpath("published_rows", f"{name}.csv").open("rb") as file
    ):
        return Published(name, pd.read_csv(file))


def compare(run: Run, published: Published, cell: str | None = None) -> list[Table]:
    """Returns a table of published numbers beside the run's, and, with three methods or more, one of their orders.

    Args:
        run: a study under the published protocol.
        published: the table.
        cell: the cell whose numbers are shown; None: those of the run's model, or all cells if none has this model.

    Raises:
        InputError: there is no such cell, or the run has none of the published settings and metrics.
    """
    if cell is not None and cell not in published.cells:
        raise unknown("cell", cell, published.cells)
    matched = _matched(analyse(run), published)
    if matched.empty:
        raise InputError(
            f"{run.folder} has no setting and metric that published={published.name} has. Run "
            f"experiment=reproduce_{published.name}"
        )
    model = _model_path(run)
    of_model = published.rows[published.rows["model"] == model]
    same = list(of_model["cell"].unique())
    shown = [cell] if cell else same or published.cells
    text = f"Published: {SOURCES[published.name]}. Difference: this run's mean less the published number or range."
    if not same:
        text += (
            f" This run's model is {model}, which none of the cells has: the numbers are not expected to agree, and "
            "only the order of the methods can be compared."
        )
    fields: list[Field] = [
        (Column("cell", "Published cell"), lambda row: row.cell),
        (Column("metric", "Metric"), lambda row: metric_label(row.metric)),
        (Column("method", "Published name"), lambda row: row.method),
        (Column("ours", "This run"), lambda row: row.ours),
        (
            Column("published", "Published"),
            lambda row: row.low if row.low == row.high else f"{row.low:g} to {row.high:g}",
        ),
        (
            Column("difference", "Difference"),
            lambda row: difference(row.ours.mean, row.low, row.high),
        ),
    ]
    title = f"{run.manifest.get('name')} beside {published.name}"
    rows = matched[matched["cell"].isin(shown)].itertuples()
    made = [filled("published", title, text, fields, rows, False), _orders(matched)]
    return [table for table in made if table.rows]


def difference(mean: float, low: float, high: float) -> float:
    """Returns the distance of a mean from a published range: positive above it, negative below it, 0 within it."""
    return mean - min(max(mean, low), high)


def _matched(analysis: Analysis, published: Published) -> pd.DataFrame:
    """Returns the published rows whose setting and metric the run has, with its estimate as `ours`."""
    rows = [
        row | {"ours": estimate}
        for row in published.rows.to_dict("records")
        for setting in analysis.settings
        if (estimate := analysis.estimate(setting["setting_id"], row["metric"])) is not None
        and _is(setting, row["setting"])
    ]
    return pd.DataFrame(rows)


def _is(setting: Mapping[str, Any], description: str) -> bool:
    described = dict(word.split("=", 1) for word in description.split())
    return all(str(setting.get(key)) == value for key, value in described.items())


def _model_path(run: Run) -> str:
    model = (run.manifest.get("config") or {}).get("model") or {}
    return str(model.get("path") or run.manifest["model"]["name"])


def _orders(matched: pd.DataFrame) -> Table:
    """Returns the table of rank correlations between the published order of methods and the run's."""
    groups = [group for _, group in matched.groupby(["cell", "metric"], sort=False)]

    def tau(group: pd.DataFrame) -> float:
        ours = [estimate.mean for estimate in group["ours"]]
        return float(kendalltau(ours, (group["low"] + group["high"]) / 2).statistic)

    fields: list[Field] = [
        (Column("cell", "Published cell"), lambda group: group["cell"].iloc[0]),
        (Column("metric", "Metric"), lambda group: metric_label(group["metric"].iloc[0])),
        (Column("n", "Methods"), len),
        (Column("tau", "Kendall's τ of their order"), tau),
    ]
    caption = (
        "1: the methods' means have the published order; -1: the reverse. With five methods, orders that have nothing to "
        "do with each other reach 0.6 in 12 % of cases."
    )
    several = [group for group in groups if len(group) >= 3]
    title = "The order of the methods"
    return filled("published_order", title, caption, fields, several, False)
