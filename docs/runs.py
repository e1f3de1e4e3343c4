"""What the scripts share that make one small folder of several runs: rows, means over texts, figures and the manifest."""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.record import Record
from saliency_bench.core.errors import SaliencyBenchError
from saliency_bench.report import style
from saliency_bench.report.analysis import Analysis
from saliency_bench.report.charts import FROM_ENDS, ends
from saliency_bench.report.stats import Resampling, intervals
from saliency_bench.store.run import read_run

#: Of the manifest of a run.
KEPT = ("id", "command", "data", "model", "n_examples", "identity")
RESAMPLING = Resampling(0.95, 9999, 0)
NOTE = "Means over texts with 95 % intervals (Student's t and BCa bootstrap)."
#: The seed of the models of families that were not trained here.
NO_SEED = -1


def words() -> tuple[Path, list[Path]]:
    """Reads the command line `FOLDER RUN...`, and makes the folder."""
    if len(sys.argv) < 3:
        sys.exit(f"expected FOLDER RUN..., got {' '.join(sys.argv[1:]) or 'nothing'}")
    folder, *runs = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    return folder, runs


def opened(runs: Sequence[Path]) -> list[Analysis]:
    """Reads runs, and ends the script with a sentence where one cannot be read."""
    try:
        return [Analysis(read_run(run)) for run in runs]
    except SaliencyBenchError as error:
        sys.exit(str(error))


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


def palette(names: Sequence[str]) -> dict[str, Any]:
    """Returns a colour for each name."""
    return dict(zip(names, sns.color_palette("colorblind", len(names)), strict=True))


def dots(
    axes: Axes,
    table: pd.DataFrame,
    *,
    y: str,
    by: str,
    colors: Mapping[str, Any],
    order: Sequence[str] | None = None,
    dodge: float = 0.6,
) -> None:
    """Draws means with whiskers at their intervals, in a row for each value of `y`, in a colour for each of `by`."""
    sns.pointplot(
        ends(table, [y, by]),
        x="value",
        y=y,
        order=order,
        hue=by,
        hue_order=list(colors),
        palette=dict(colors),
        linestyles="none",
        dodge=dodge if len(colors) > 1 else False,
        markersize=3.5,
        markeredgewidth=1.0,
        err_kws={"linewidth": 1.2},
        ax=axes,
        **FROM_ENDS,
    )
    axes.set(xlabel="", ylabel="")
    axes.grid(axis="x")


def write(
    folder: Path,
    record: Record,
    name: str,
    made: Sequence[Mapping[str, Any]],
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Figure] | None = None,
) -> None:
    """Writes tables by file name, with six digits, figures, and the manifest, with how each run was made (`made_by`)."""
    for file, table in tables.items():
        table.to_csv(folder / file, index=False, float_format="%.6g")
    for file, figure in (figures or {}).items():
        (folder / file).write_bytes(style.png(figure))
    record.write(folder, {"name": name, "runs": list(made)})


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
