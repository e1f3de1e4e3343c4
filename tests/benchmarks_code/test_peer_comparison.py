"""A peer is timed only where it computes what ours does, and its own clock counts."""

import json
import sys

import numpy as np
import pandas as pd
import pytest

from benchmarks.peers.comparison import compare_peers, predicted
from benchmarks.peers.contestants import CLASSIFIER, TASKS, Subject
from saliency_bench.api import attribute
from saliency_bench.attribution import calibration
from saliency_bench.core.errors import InputError, ValidationError
from saliency_bench.data.example import Example
from saliency_bench.models.tasks.encoding import encode

TEXTS = {"long": "a dull film", "short": "not bad"}

#: Answers from a table.
FAKE = """
import json, sys

known = json.loads('''KNOWN''')
for line in sys.stdin:
    asked = json.loads(line)
    ready = asked["do"] == "prepare"
    answer = known["ready"] if ready else {"seconds": 60.0, "scores": known[asked["task"]]}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture(autouse=True)
def a_density_from_little(monkeypatch, tmp_path):
    """Calibrated nodes from two texts, in a cache of their own: other tests must not meet them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(calibration, "_DENSITIES", calibration.WeakKeyDictionary())
    monkeypatch.setattr(calibration, "N_TEXTS", 2)
    monkeypatch.setattr(calibration, "N_NODES", 17)


@pytest.fixture
def known(default_model):
    """What ferret would say, had it our numbers; by the public interface."""
    encoded = encode(default_model, [Example(name, text) for name, text in TEXTS.items()])
    plain = {"target": "predicted", "output": "logit"}
    gradient = attribute(
        default_model, list(TEXTS.values()), method="vanilla", reduction="l1", **plain
    )
    integrated = attribute(
        default_model,
        list(TEXTS.values()),
        method="integrated_gradients",
        reduction="sum",
        baseline="pad",
        n_steps=4,
        quadrature="gauss_legendre",
        **plain,
    )
    return encoded, {
        "ready": {"versions": {}, "ids": [list(item.input_ids) for item in encoded]},
        "gradient": [one.scores.tolist() for one in gradient],
        "integrated_gradients": [one.scores.tolist() for one in integrated],
        "study": None,
    }


def compared(model, encoded, known, folder, pythons=None):
    worker = folder / "worker.py"
    worker.write_text(FAKE.replace("KNOWN", json.dumps(known)))
    compare_peers(
        {CLASSIFIER: Subject(model, encoded, predicted(model, encoded))},
        n_steps=4,
        n_calibrated=4,
        n_repeats=2,
        pythons={"ferret": sys.executable} if pythons is None else pythons,
        out=folder / "out",
        command=["compare_peers", f"ferret={sys.executable}"],
        worker=worker,
    )


def test_equal_scores_are_timed_by_the_peers_own_clock(default_model, known, tmp_path):
    encoded, answers = known
    compared(default_model, encoded, answers, tmp_path)
    whole = pd.read_csv(tmp_path / "out" / "peers.csv")
    table = whole.dropna(subset="ratio")
    assert table.task.tolist() == ["gradient", "integrated_gradients", "study", "study"]
    assert (table.seconds == 60).all()
    np.testing.assert_array_less(table.difference[:2], 2e-5)
    assert np.isnan(table.difference[2])
    # Four calibrated nodes are another rule than four of Gauss-Legendre, but of the same integral.
    assert 2e-5 < table.difference[3] < 1
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    ratios = [np.median(60 / np.array(own["ours"])) for own in manifest["seconds"].values()]
    np.testing.assert_allclose(np.sort(table.ratio), np.sort(ratios), rtol=1e-3)
    others = [name for name in TASKS if name != "ferret"]
    assert set(manifest["skipped"]) == {*others}
    assert [*whole.peer[len(table) :]] == others
    reasons = {"no interpreter was given for it", "there is no generator to explain"}
    assert set(whole.what[len(table) :]) == {f"not timed: {reason}" for reason in reasons}
    assert manifest["command"] == "compare_peers ferret=PYTHON"
    assert "no interpreter was given" in (tmp_path / "out" / "peers.md").read_text()


def test_a_task_that_fails_has_a_row_with_the_reason_and_the_others_are_timed(
    default_model, known, tmp_path
):
    encoded, answers = known
    del answers["study"]
    compared(default_model, encoded, answers, tmp_path)
    table = pd.read_csv(tmp_path / "out" / "peers.csv")
    own = table[table.peer == "ferret"]
    assert own.task.tolist() == ["gradient", "integrated_gradients", "study"]
    assert own.ratio.notna().tolist() == [True, True, False]
    assert own.what.iloc[-1] == "not timed: its process has ended"


def test_other_scores_are_not_timed(default_model, known, tmp_path):
    encoded, answers = known
    answers["integrated_gradients"][1][1] *= 1.001
    with pytest.raises(ValidationError, match="ferret:integrated_gradients differs"):
        compared(default_model, encoded, answers, tmp_path)
    assert not (tmp_path / "out").exists()


def test_no_peer_at_all_is_an_error_with_the_reasons(default_model, known, tmp_path):
    with pytest.raises(InputError, match="no interpreter was given"):
        compared(default_model, known[0], known[1], tmp_path, pythons={})
