#!/usr/bin/env python3
"""Writes what `explain` says of methods: the SRG of each setting of results/method_comparison, and who differs from whom."""

import json
import re
from pathlib import Path

from saliency_bench.core.method_facts import entry_label

HERE = Path(__file__).resolve().parents[1]
STUDY = "results/method_comparison"
FILE = HERE / "saliency_bench" / "core" / "evidence.json"


def evidence() -> dict:
    """The mean and the interval of each setting, by its id, as the committed table prints them."""
    folder = HERE / STUDY
    settings = json.loads((folder / "settings.json").read_text("utf-8"))
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    n, model = manifest["config"]["n_examples"], manifest["model"]["name"]
    lines = (folder / "tables" / "headline.md").read_text("utf-8").replace("\\", "").splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if "|" in line]
    heads, rows = rows[0], {row[0]: row for row in rows[2:]}
    srg = next(i for i, head in enumerate(heads) if head.startswith("SRG"))
    found = {}
    for setting in settings:
        row = rows[entry_label(setting)]
        numbers = [float(number) for number in re.findall(r"-?\d+\.\d+", row[srg])]
        found[setting["setting_id"]] = {"srg": numbers, "group": row[heads.index("Group")]}
    chance = next(one["setting_id"] for one in settings if one["method"] == "random")
    return {"study": STUDY, "model": model, "n": n, "chance": chance, "settings": found}


if __name__ == "__main__":
    FILE.write_text(json.dumps(evidence(), indent=1) + "\n", "utf-8")
