"""Numbers that others printed, beside those of a run under the same protocol."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pandas as pd
from scipy.stats import kendalltau

from saliency_bench.core.errors import InputError, unknown
from saliency_bench.core.labels import metric_label
from saliency_bench.report.analysis import Analysis, analyse
from saliency_bench.report.table import Cell, Column, Estimate, Table
from saliency_bench.store.run import Run

#: What a table was taken from.
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
    """A table by name.

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
    """Each published number beside the run's; with three methods or more, how alike they are ordered in every cell.

    Args:
        run: a study under the published protocol.
        published: the table.
        cell: whose numbers are shown; the one of the run's model where None, and of all cells if none is.

    Raises:
        InputError: no such cell, or the run has none of the published settings and metrics.
    """
    if cell is not None and cell not in published.cells:
        raise unknown("cell", cell, published.cells)
    found = list(_matched(analyse(run), published))
    if not found:
        raise InputError(
            f"{run.folder} has no setting and metric that published={published.name} has. Run "
            f"experiment=reproduce_{published.name}"
        )
    model = _model_path(run)
    same = [one for one in published.cells if model in set(_of(published, one)["model"])]
    shown = [cell] if cell else same or published.cells
    rows = [one.row() for one in found if one.cell in shown]
    columns = (
        Column("cell", "Published cell"),
        Column("metric", "Metric"),
        Column("method", "Published name"),
        Column("ours", "This run"),
        Column("published", "Published"),
        Column("difference", "Difference"),
    )
    text = f"Published: {SOURCES[published.name]}. Difference: this run's mean less the published number or range."
    if not same:
        text += (
            f" This run's model is {model}, which none of the cells has: the numbers are not expected to agree, and "
            "only the order of the methods can be compared."
        )
    title = f"{run.manifest.get('name')} beside {published.name}"
    made = [Table("published", title, text, columns, tuple(rows), False), _orders(found)]
    return [table for table in made if table.rows]


@dataclass(frozen=True)
class _Match:
    cell: str
    metric: str
    method: str
    ours: Estimate
    low: float
    high: float

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2

    def row(self) -> tuple[Cell, ...]:
        """Of the table; a number within the published range does not differ from it."""
        mean = self.ours.mean
        difference = (
            max(self.low - mean, 0.0) * -1 if mean < self.low else max(mean - self.high, 0.0)
        )
        printed: Cell = self.low if self.low == self.high else f"{self.low:g} to {self.high:g}"
        return self.cell, metric_label(self.metric), self.method, self.ours, printed, difference


def _matched(analysis: Analysis, published: Published) -> Iterator[_Match]:
    for row in published.rows.to_dict("records"):
        for setting in analysis.settings:
            own = analysis.estimates.get((setting["setting_id"], row["metric"]))
            if own is not None and _is(setting, row["setting"]):
                numbers = float(row["low"]), float(row["high"])
                yield _Match(row["cell"], row["metric"], row["method"], own, *numbers)


def _is(setting: Any, description: str) -> bool:
    wanted = dict(word.split("=", 1) for word in description.split())
    return all(str(setting.get(key)) == value for key, value in wanted.items())


def _model_path(run: Run) -> str:
    model = (run.manifest.get("config") or {}).get("model") or {}
    return str(model.get("path") or run.manifest["model"]["name"])


def _of(published: Published, cell: str) -> pd.DataFrame:
    return published.rows[published.rows["cell"] == cell]


def _orders(found: Sequence[_Match]) -> Table:
    """How alike the methods' means are ordered here and there."""
    rows: list[tuple[Cell, ...]] = []
    for cell, metric in dict.fromkeys((one.cell, one.metric) for one in found):
        own = [one for one in found if (one.cell, one.metric) == (cell, metric)]
        if len(own) < 3:
            continue
        tau = kendalltau([one.ours.mean for one in own], [one.middle for one in own]).statistic
        rows.append((cell, metric_label(metric), len(own), float(tau)))
    columns = (
        Column("cell", "Published cell"),
        Column("metric", "Metric"),
        Column("n", "Methods"),
        Column("tau", "Kendall's τ of their order"),
    )
    caption = (
        "1: the methods' means have the published order; -1: the reverse. With five methods, orders that have nothing to "
        "do with each other reach 0.6 in 12 % of cases."
    )
    return Table(
        "published_order", "The order of the methods", caption, columns, tuple(rows), False
    )
