"""Whether the trust in a metric holds between families of models: folders of `saliency-bench trust`, in one small folder.

    python docs/trust.py FOLDER RUN...

RUN is a folder of `saliency-bench trust profile=...`; a family may have several, one for each removal, say. Writes

- rows.csv.gz: for every text, corruption, metric and removal, whether the metric prefers the known ranking;
- auc.csv: the share of comparisons in which it does, a tie being half of one, with 95 % intervals, by family, metric and
  removal ("all": over all that the family has). This share is the area under the ROC curve of known against corrupted rankings
  of one text. A text counts once, by its mean over corruptions and training seeds;
- orders.csv: Kendall's tau-b between the orders of metrics of two families, as docs/families.py has it for methods;
- trust.png: the shares by metric and family;
- manifest.json: how each folder was made.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from docs import families, runs
from saliency_bench.core.labels import metric_label
from saliency_bench.experiments.reports import ROWS
from saliency_bench.report.gates import KINDS
from saliency_bench.store.run import MANIFEST, read_json

ALL = "all"
BY = ["family", "metric", "removal"]
#: The rows and the manifest of a folder.
Trust = tuple[pd.DataFrame, Mapping[str, Any]]


def family_of(config: Mapping[str, Any]) -> str:
    """Returns the family of a run, with what is known to matter in its texts.

    Runs of before there were several models name none.
    """
    kinds = config["kinds"]
    words = "shortcuts" if len(kinds) > 1 else KINDS.get(kinds[0], kinds[0]).lower()
    model = config.get("model", "shortcuts")
    return f"{runs.MODELS.get(model, model)}, {words}"


def opened(folder: Path) -> Trust:
    """Returns the rows of a folder, without comparisons that have no value, and its manifest."""
    manifest = read_json(folder / MANIFEST, dict)
    rows = pd.read_csv(folder / ROWS).dropna(subset=["preferred"])
    value = rows["preferred"].astype(float)
    return rows.assign(value=value, family=family_of(manifest["config"])), manifest


def auc(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns the shares by family, metric and removal, and over all removals."""
    table = runs.means(pd.concat([rows, rows.assign(removal=ALL)]), BY)
    return table.rename(columns={"mean": "auc"})


def orders(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns tau between the orders of metrics of each two families (`families.orders`)."""
    keys = ["family", "training_seed", "example_id", "metric"]
    texts = rows.groupby(keys, sort=False)["value"].mean().reset_index()
    ordered = texts.rename(columns={"metric": "method"}).assign(metric="srg", removal=ALL)
    return families.orders(ordered, []).rename(columns={"n_methods": "n_metrics"})


def draw(table: pd.DataFrame) -> Figure:
    """A row for each metric, a colour for each family; the metric that is trusted most on top."""
    of_all = table[table["removal"] == ALL].rename(columns={"auc": "mean"})
    label = "Share of comparisons in which the known ranking is preferred ↑"
    order = runs.best_first(of_all, "metric")
    note = f"{runs.NOTE} 0.5: a metric that sees nothing."
    figure = runs.panels({label: of_all}, y="metric", by="family", order=order, note=note)
    (axes,) = figure.axes
    axes.axvline(0.5, color="#444444", lw=0.7)
    axes.set_yticks(range(len(order)), map(metric_label, order))
    return figure


def contents(folders: Sequence[Trust]) -> tuple[runs.Tables, runs.Figures]:
    """Returns the tables and the figure of the folder."""
    rows = pd.concat(rows for rows, _ in folders)
    table = auc(rows)
    kept = [*BY, "kind", "training_seed", "example_id", "corruption", "value"]
    tables = {"rows.csv.gz": rows[kept], "auc.csv": table, "orders.csv": orders(rows)}
    return tables, {"trust.png": draw(table)}


def made_by(folder: Trust) -> dict[str, Any]:
    """Returns how a folder was made."""
    _, manifest = folder
    return {key: manifest.get(key) for key in ("command", "config", "models", "identity")}


def main() -> None:
    """Reads the runs and writes the folder."""
    runs.publish("trust", contents, read=lambda folders: [*map(opened, folders)], about=made_by)


if __name__ == "__main__":
    main()
