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

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from scipy.stats import kendalltau

from benchmarks.record import Record
from docs.smoothing_truth import KEPT, values
from saliency_bench.report import style
from saliency_bench.report.analysis import Analysis
from saliency_bench.report.charts import FROM_ENDS, ends
from saliency_bench.report.stats import Resampling, intervals
from saliency_bench.store.run import read_run

BY = ["truth", "metric", "method"]
SHOWN = {"auprc": "Average precision ↑", "mean_reciprocal_rank": "Mean reciprocal rank ↑"}


def cell_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the truth of a run, and the training seed of its model; NaN for a model without one."""
    data, model = manifest["config"]["data"], manifest["config"]["model"]
    truth = data["dataset"].replace("_", " ")
    if truth == "movie reviews":
        truth = "rated words"
    elif truth == "shortcuts":
        truth = f"shortcut, {data['kind'].replace('_', ' ')}"
    return {"truth": truth, "training_seed": model.get("training_seed")}


def summarised(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns means over texts with intervals, each text by its mean over training seeds."""
    texts = rows.groupby([*BY, "example_id"], sort=False)["value"].mean().reset_index()
    lines = []
    for keys, of_method in texts.groupby(BY, sort=False):
        numbers = of_method["value"].to_numpy(float)
        (low,), (high,) = intervals(numbers[:, None], Resampling(0.95, 9999, 0))
        lines.append((*keys, len(numbers), numbers.mean(), low, high))
    return pd.DataFrame(lines, columns=[*BY, "n", "mean", "low", "high"])


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
    methods = list(dict.fromkeys(summary["method"]))
    colors = dict(zip(methods, sns.color_palette("colorblind", len(methods)), strict=True))
    figure = Figure(figsize=(style.WIDTH, 4.6), layout="constrained")
    for axes, (metric, label) in zip(
        figure.subplots(1, 2, sharey=True), SHOWN.items(), strict=True
    ):
        sns.pointplot(
            ends(summary[summary["metric"] == metric], ["truth", "method"]),
            x="value",
            y="truth",
            hue="method",
            hue_order=methods,
            palette=colors,
            linestyles="none",
            dodge=0.6,
            markersize=3.5,
            markeredgewidth=1.0,
            err_kws={"linewidth": 1.2},
            ax=axes,
            **FROM_ENDS,
        )
        axes.set(xlabel=label, ylabel="", xlim=(0, 1.02))
        axes.grid(axis="x")
        handles, labels = axes.get_legend_handles_labels()
        axes.get_legend().remove()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    style.note(figure, "Means over texts with 95 % intervals (Student's t and BCa bootstrap).")
    return figure


def main() -> None:
    """Reads the runs and writes the folder."""
    record = Record()
    folder, *runs = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    analyses = [Analysis(read_run(run)) for run in runs]
    manifests = [analysis.run.manifest for analysis in analyses]
    rows = pd.concat(
        values(analysis).assign(**cell_of(manifest))
        for analysis, manifest in zip(analyses, manifests, strict=True)
    )
    summary = summarised(rows)
    for name, table in (
        ("rows.csv.gz", rows.set_index(["truth", "training_seed", "method"])),
        ("methods.csv", summary.set_index("truth")),
        ("orders.csv", orders(summary).set_index("truth")),
    ):
        table.to_csv(folder / name, float_format="%.6g")
    with style.styled():
        (folder / "known_truth.png").write_bytes(style.png(draw(summary)))
    made_by = [{key: manifest[key] for key in KEPT} for manifest in manifests]
    record.write(folder, {"name": "known_truth", "runs": made_by})


if __name__ == "__main__":
    main()
