"""Runs of experiment=smoothing, compared with the words that are known to matter, in one small folder.

    python docs/smoothing_truth.py FOLDER RUN...

Writes `pairs.csv`, a line for each run and pair that was fixed in advance, `rows.csv.gz`, the value of every text that has one,
and `manifest.json`, which says how each run was made.
"""

import sys
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.record import Record
from saliency_bench.report.analysis import Analysis
from saliency_bench.store.run import read_run

#: Of the manifest of a run.
KEPT = ("id", "command", "data", "model", "n_examples", "identity")


def cell_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """The kind of words that are known to matter in a run, and the training seed of its model."""
    data, model = manifest["config"]["data"], manifest["config"]["model"]
    truth = "plausibility" if data["dataset"] == "movie_reviews" else data["kind"]
    return {"truth": truth, "training_seed": model["training_seed"]}


def pairs(analysis: Analysis) -> pd.DataFrame:
    """A line for each pair: the mean paired difference with its interval, and p with Holm's correction."""
    differences = analysis.fixed_pairs
    names = differences["setting_id"].map(analysis.labels)
    against = differences["setting_id"].map(analysis.against).map(analysis.labels)
    numbers = differences[["n", "difference", "low", "high", "p", "p_holm"]]
    return numbers.assign(method=names, against=against).sort_values(["against", "method"])


def values(analysis: Analysis) -> pd.DataFrame:
    """A line for each text and method."""
    rows = analysis.run.tables["rows"].query("status == 'ok'")
    names = rows["setting_id"].map(analysis.labels)
    return rows[["example_id", "metric", "value"]].assign(method=names)


def main() -> None:
    """Reads the runs and writes the folder."""
    record = Record("docs/smoothing_truth.py")
    folder, *runs = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    analyses = [Analysis(read_run(run)) for run in runs]
    cells = [cell_of(analysis.run.manifest) for analysis in analyses]
    keys = [*cells[0]]
    for name, made in (("pairs.csv", pairs), ("rows.csv.gz", values)):
        tables = [
            made(analysis).assign(**cell) for analysis, cell in zip(analyses, cells, strict=True)
        ]
        pd.concat(tables).set_index([*keys, "method"]).round(6).to_csv(folder / name)
    made_by = [{key: analysis.run.manifest[key] for key in KEPT} for analysis in analyses]
    record.write(folder, {"name": "smoothing_truth", "runs": made_by})


if __name__ == "__main__":
    main()
