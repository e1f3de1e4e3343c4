#!/usr/bin/env python3
"""Writes what `explain` says of methods: the SRG of each setting of two committed studies, and who differs from whom.

Both explain the same texts by the same model. Letters are of all settings together; a setting of both counts as the first has it.
"""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd

from saliency_bench.report.analysis import PRIMARY, Analysis
from saliency_bench.store.run import Run, read_run

HERE = Path(__file__).resolve().parents[1]
STUDY = "results/full_comparison"
FOLDERS = (f"{STUDY}/seed0", "results/method_comparison")
FILE = HERE / "saliency_bench" / "core" / "evidence.json"


def evidence() -> dict:
    """The mean and the interval of each setting, by its id, as tables print them, with its letters."""
    together = Analysis(joined(*(read_run(HERE / folder) for folder in FOLDERS)))
    found = {}
    for key in together.shown:
        estimate = together.estimates[key, PRIMARY]
        srg = [round(value, 3) + 0.0 for value in (estimate.mean, estimate.low, estimate.high)]
        found[key] = {"srg": srg, "group": together.groups[key]}
    chance = next(one["setting_id"] for one in together.settings if one["method"] == "random")
    model = together.run.manifest["model"]["name"]
    return {
        "study": STUDY, "model": model, "n": together.n_examples, "chance": chance, "settings": found
    }  # fmt: skip


def joined(first: Run, second: Run) -> Run:
    """The first run's SRG where [MASK] replaces tokens, with the settings of the second that it lacks."""
    known = {one["setting_id"] for one in first.settings}
    more = [one for one in second.settings if one["setting_id"] not in known]
    ids = [one["setting_id"] for one in more]
    mine, others = (run.tables["rows"] for run in (first, second))
    others = others[others["setting_id"].isin(ids)].assign(cell_id=mine["cell_id"].iloc[0])
    rows = pd.concat([mine, others], ignore_index=True)
    rows = rows[(rows["metric"] == PRIMARY) & (rows["removal"] == "mask")]
    return replace(first, settings=[*first.settings, *more], tables={**first.tables, "rows": rows})


if __name__ == "__main__":
    FILE.write_text(json.dumps(evidence(), indent=1) + "\n", "utf-8")
