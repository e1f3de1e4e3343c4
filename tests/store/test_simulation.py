"""The simulation of a million texts, at three thousand: what it counts is there."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "million.py"


def test_a_small_simulation_plans_stores_and_merges_every_text(tmp_path):
    out = tmp_path / "simulation.json"
    subprocess.run([sys.executable, str(SCRIPT), "3000", str(out)], check=True, capture_output=True)
    found = json.loads(out.read_text("utf-8"))
    assert found["n_examples"] == 3000
    assert set(found["bytes"]) == {"examples.parquet", "rows.parquet"}
    assert all(found["seconds"][step] > 0 for step in ("plan", "check against the plan", "merge"))
    assert 0 < found["peak_gib"] < 2
    assert found["identity"]["versions"]
