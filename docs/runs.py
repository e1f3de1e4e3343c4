"""What the scripts share that make one small folder of several runs: rows, means over texts, figures and the manifest."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.record import Record
from saliency_bench.core.errors import SaliencyBenchError
from saliency_bench.report import style
from saliency_bench.report.across_plots import look
from saliency_bench.report.analysis import Analysis
from saliency_bench.report.charts import points
from saliency_bench.report.stats import Resampling, intervals
from saliency_bench.store.run import read_run

#: Of the manifest of a run.
KEPT = ("id", "command", "data", "model", "n_examples", "identity")
RESAMPLING = Resampling(0.95, 9999, 0)
NOTE = "Means over texts with 95 % intervals (Student's t and BCa bootstrap)."
#: The seed of the models of families that were not trained here.
NO_SEED = -1
#: The base model by the name in the configuration.
MODELS = {
    "default": "MiniLM",
    "shortcuts": "MiniLM",
    "toxicity": "MiniLM",
    "smollm2_sentiment": "SmolLM2",
    "smollm2_shortcuts": "SmolLM2",
    "smollm2_toxicity": "SmolLM2",
    "nanoguard": "NanoGuard",
}
Tables = Mapping[str, pd.DataFrame]  # by file name
Figures = Mapping[str, Figure]


def publish(
    name: str,
    contents: Callable[[Sequence[Any]], tuple[Tables, Figures]],
    *,
    read: Callable[[Sequence[Path]], Sequence[Any]] | None = None,
    about: Callable[[Any], Mapping[str, Any]] | None = None,
) -> None:
    """Reads the command line `FOLDER RUN...` and the runs, and writes what the script makes of them.

    Tables have six digits. The manifest says how each run was made. A folder that cannot be read ends the script with a
    sentence.

    Args:
        name: of the script, and of the manifest.
        contents: takes the runs, and returns tables and figures by file name.
        read: reads the folders; as runs of studies (`opened`) where none is given.
        about: returns how a run was made (`made_by` where none is given).
    """
    record = Record(f"docs/{name}.py")
    if len(sys.argv) < 3:
        sys.exit(f"expected FOLDER RUN..., got {' '.join(sys.argv[1:]) or 'nothing'}")
    folder, *folders = map(Path, sys.argv[1:])
    try:
        runs = (read or opened)(folders)
    except (SaliencyBenchError, OSError) as error:
        sys.exit(str(error))
    folder.mkdir(parents=True, exist_ok=True)
    with style.styled():
        tables, figures = contents(runs)
        for file, table in tables.items():
            table.to_csv(folder / file, index=False, float_format="%.6g")
        for file, figure in figures.items():
            (folder / file).write_bytes(style.png(figure))
    record.write(folder, {"name": name, "runs": list(map(about or made_by, runs))})


def opened(runs: Sequence[Path]) -> list[Analysis]:
    """Reads runs of studies."""
    return [Analysis(read_run(run)) for run in runs]


def values(analysis: Analysis) -> pd.DataFrame:
    """Returns a line for each text, metric and method that has a value; metrics name a removal besides the main one."""
    return of_methods(analysis.rows, analysis.labels)


def of_methods(rows: pd.DataFrame, names: Mapping[str, str], *further: str) -> pd.DataFrame:
    """Returns a line for each text, metric and method that has a value, with further columns of the rows.

    `names` are those of methods by setting id.
    """
    rows = rows.query("status == 'ok'")
    methods = rows["setting_id"].map(names)
    return rows[["example_id", "metric", "value", *further]].assign(method=methods)


def means(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Returns n, mean, low and high by columns: means over texts, each text by its mean over everything else."""
    texts = rows.groupby([*by, "example_id"], sort=False)["value"].mean().reset_index()
    lines = []
    for keys, of_group in texts.groupby(list(by), sort=False):
        numbers = of_group["value"].to_numpy(float)
        (low,), (high,) = intervals(numbers[:, None], RESAMPLING)
        lines.append((*keys, len(numbers), numbers.mean(), low, high))
    return pd.DataFrame(lines, columns=[*by, "n", "mean", "low", "high"])


def best_first(table: pd.DataFrame, name: str) -> list[str]:
    """Returns the names in a column by the mean of their means, the largest first."""
    return list(table.groupby(name)["mean"].mean().sort_values(ascending=False).index)


def panels(
    tables: Tables, *, y: str, by: str, order: Sequence[str], note: str = NOTE, **axis: Any
) -> Figure:
    """Draws means with whiskers at their intervals: a panel for each table, by its label, and a legend for all.

    Args:
        tables: with the columns `y`, `by`, low, mean and high, by label.
        y: the column with a row for each value.
        by: the column with a colour and a marker for each value.
        order: the rows from top to bottom.
        note: the words below.
        axis: what every panel gets besides (`Axes.set`).
    """
    names = dict.fromkeys(name for table in tables.values() for name in table[by])
    looks = {name: look(number) for number, name in enumerate(names)}
    row = max(0.28, 0.1 * len(looks))
    figure = Figure(figsize=(style.WIDTH, 1.2 + row * len(order)), layout="constrained")
    drawn = figure.subplots(1, len(tables), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (label, table) in zip(drawn, tables.items(), strict=True):
        kept = table[[y, by, "low", "mean", "high"]]
        points(axes, kept, looks, y=y, order=order, spread=0.5)
        axes.grid(axis="x")
        axes.set(xlabel=label, **axis)
    style.shared_legend(figure)
    style.note(figure, note)
    return figure


def made_by(analysis: Analysis) -> dict[str, Any]:
    """Returns how a run was made; folders of data are named by their last part."""
    kept = {key: analysis.run.manifest[key] for key in KEPT}
    if path := kept["data"].get("path"):
        kept["data"] = kept["data"] | {"path": Path(path).name}
    kept["command"] = re.sub(r"(data\.path=)\S*/", r"\1", kept["command"])
    return kept


def training_seed(manifest: Mapping[str, Any]) -> int:
    """Returns the training seed of a run's model; `NO_SEED` for one that was not trained here."""
    return int(manifest["config"]["model"].get("training_seed", NO_SEED))
