"""Runs of experiment=smoothing, compared with the words that are known to matter, in one small folder.

    python docs/smoothing_truth.py FOLDER RUN...

Writes `pairs.csv`, a line for each run and pair that was fixed in advance, `rows.csv.gz`, the value of every text that has one,
and `manifest.json`, which says how each run was made.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from docs import runs
from saliency_bench.report.analysis import Analysis


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


def contents(analyses: Sequence[Analysis]) -> tuple[runs.Tables, runs.Figures]:
    """Returns the tables of the folder."""
    cells = [cell_of(analysis.run.manifest) for analysis in analyses]
    keys = [*cells[0], "method"]
    tables = {}
    for name, table_of in (("pairs.csv", pairs), ("rows.csv.gz", runs.values)):
        parts = [
            table_of(analysis).assign(**cell)
            for analysis, cell in zip(analyses, cells, strict=True)
        ]
        table = pd.concat(parts).round(6)
        tables[name] = table[[*keys, *table.columns.difference(keys, sort=False)]]
    return tables, {}


def main() -> None:
    """Reads the runs and writes the folder."""
    runs.publish("smoothing_truth", contents)


if __name__ == "__main__":
    main()
