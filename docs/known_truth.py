"""Which methods find what is known to matter: runs on several truths and models, in one small folder.

    python docs/known_truth.py FOLDER RUN...

RUN is a folder of experiment=known_truth, =planted_instruction or =agreement. Writes

- rows.csv.gz: the value of every text, method and metric;
- methods.csv: means over texts with 95 % intervals, by truth, method and metric. A text that models of several training seeds
  read counts once, by its mean over the seeds;
- orders.csv: by truth, Kendall's tau-b between the orders of methods by SRG and by each metric of the truth;
- known_truth.png: average precision and mean reciprocal rank by truth;
- manifest.json: how each run was made.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import kendalltau

from docs import runs
from saliency_bench.report.analysis import Analysis

BY = ["truth", "metric", "method"]
SHOWN = {"auprc": "Average precision ↑", "mean_reciprocal_rank": "Mean reciprocal rank ↑"}


def cell_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the truth of a run, and the training seed of its model."""
    data = manifest["config"]["data"]
    truth = data["dataset"].replace("_", " ")
    if truth == "movie reviews":
        truth = "rated words"
    elif truth == "shortcuts":
        truth = f"shortcut, {data['kind'].replace('_', ' ')}"
    return {"truth": truth, "training_seed": runs.training_seed(manifest)}


def orders(summary: pd.DataFrame) -> pd.DataFrame:
    """Returns Kendall's tau-b between the orders of methods by SRG and by each metric of the truth, chance left out."""
    lines = []
    for truth, of_truth in summary[summary["method"] != "Random"].groupby("truth", sort=False):
        means = of_truth.pivot_table(index="method", columns="metric", values="mean")
        for srg in (name for name in means if name.startswith("srg")):
            lines += [
                (truth, srg, name, len(means), kendalltau(means[srg], means[name]).statistic)
                for name in means
                if not name.startswith("srg")
            ]
    return pd.DataFrame(lines, columns=["truth", "srg", "metric", "n_methods", "tau"])


def draw(summary: pd.DataFrame) -> Figure:
    """A panel for each metric, a row for each truth, a colour for each method."""
    tables = {label: summary[summary["metric"] == metric] for metric, label in SHOWN.items()}
    truths = list(dict.fromkeys(summary["truth"]))
    return runs.panels(tables, y="truth", by="method", order=truths, xlim=(0, 1.02))


def contents(analyses: Sequence[Analysis]) -> tuple[runs.Tables, runs.Figures]:
    """Returns the tables and the figure of the folder."""
    rows = pd.concat(
        runs.values(analysis).assign(**cell_of(analysis.run.manifest)) for analysis in analyses
    )
    summary = runs.means(rows, BY)
    tables = {
        "rows.csv.gz": rows[["truth", "training_seed", "method", "example_id", "metric", "value"]],
        "methods.csv": summary,
        "orders.csv": orders(summary),
    }
    return tables, {"known_truth.png": draw(summary)}


def main() -> None:
    """Reads the runs and writes the folder."""
    runs.publish("known_truth", contents)


if __name__ == "__main__":
    main()
