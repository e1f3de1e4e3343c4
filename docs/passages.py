"""The measurement behind "which passage does the answer depend on?" in docs/tasks.md: examples/passages.py with SmolLM2.

    python docs/passages.py [FOLDER]

It takes about a minute of one CPU core. docs/models.md says how to get the model.
"""

import sys
from pathlib import Path

import pandas as pd

import saliency_bench as sb
from benchmarks.record import ONE_THREAD, Record
from examples import passages

MODEL = "smollm2"


def rows() -> pd.DataFrame:
    """One number a row: of the answer, of a passage under a method, or of a method under a metric."""
    model = sb.load_model(MODEL, dtype=ONE_THREAD["dtype"], device=ONE_THREAD["device"])
    maps = passages.explained(model)
    answer = pd.DataFrame({"quantity": ["probability"], "value": [maps[0].probability]})
    sums = passages.by_passage(model, maps).rename_axis("passage").reset_index()
    sums = sums.melt("passage", var_name="method").assign(quantity="sum of scores")
    without = sums["method"] == "loss without it"
    sums.loc[without, ["method", "quantity"]] = [None, "log-probability drop without the passage"]
    metrics = passages.evaluated(model, maps, passages.METRICS)
    metrics = metrics.rename(columns={"metric": "quantity"})
    columns = ["quantity", "passage", "method", "replaced_by", "value"]
    return pd.concat([answer, sums, metrics]).reindex(columns=columns)


def main() -> None:
    """Measures once, with one thread."""
    import torch

    torch.set_num_threads(ONE_THREAD["threads"])
    record = Record()
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "results/passages")
    folder.mkdir(parents=True, exist_ok=True)
    rows().to_csv(folder / "rows.csv", index=False)
    record.write(folder, {"name": "passages", "model": {"name": MODEL}}, **ONE_THREAD)


if __name__ == "__main__":
    main()
