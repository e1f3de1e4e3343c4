"""examples/trackers.py logs what a run's own files say, into the real libraries where they are installed."""

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from loading import ROOT, loaded

import saliency_bench as sb

SCRIPT = ROOT / "examples" / "trackers.py"
#: Where .ci/run installs MLflow and Weights & Biases, which want other versions of what this package uses.
TRACKERS = Path(sys.prefix) / "trackers"
START = {"event": "start", "finished": 0}
PROGRESS = {"event": "progress", "stage": "blocks", "done": 1, "total": 2}
MEAN = ("srg/mask/vanilla_a", 0.25, 0)


@pytest.fixture(scope="module")
def trackers():
    return loaded(SCRIPT)


@pytest.fixture
def run(tmp_path):
    """The files of a finished run that are read, without its log."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps([{"setting_id": "a", "name": "vanilla"}]))
    rows = {"setting_id": "a", "metric": "srg", "removal": "mask", "value": [0.0, 0.5, None]}
    pd.DataFrame(rows).to_parquet(folder / "rows.parquet")
    return folder


def write(folder, *events):
    with (folder / "events.jsonl").open("a") as log:
        log.writelines(f"{json.dumps(event)}\n" for event in events)


def followed(trackers, folder):
    logged = []
    trackers.follow(folder, lambda *one: logged.append(one))
    return logged


def test_the_example_is_read_in_a_minute():
    assert len(SCRIPT.read_text("utf-8").splitlines()) <= 60


def test_blocks_stages_and_means_are_logged(trackers, run):
    write(run, START, {"event": "block"}, PROGRESS, {"event": "block"}, {"event": "done"})
    assert followed(trackers, run) == [
        ("blocks", 1, 1),
        ("progress/blocks", 0.5, 1),
        ("blocks", 2, 2),
        MEAN,
    ]


def test_every_mean_block_and_stage_of_a_real_run_is_logged(trackers, folder, tmp_path):
    """What the runner writes is what is read: events and keys are named in one place and not in two."""
    texts = ["the film w1 w2", "a film w3", "w4 and w5 the w6 w7"]
    model = sb.load_model(str(folder), device="cpu")
    metrics = ["srg", "completeness_gap_relative"]
    study = sb.study(
        model, texts, ["input_x_gradient", "integrated_gradients"], metrics, out=tmp_path / "run"
    )
    logged = {name: (value, step) for name, value, step in followed(trackers, study.folder)}
    manifest = json.loads((study.folder / "digests.json").read_text())
    assert logged["blocks"] == (len(manifest["blocks"]),) * 2
    assert logged["progress/blocks"][0] == 1
    rows = study.run.tables["rows"].groupby(["metric", "setting_id"])["value"].mean().dropna()
    assert len(rows) == 3  # one of the methods claims no completeness
    means = {
        tuple(name.split("/")[::2]): value
        for name, (value, _) in logged.items()
        if name.count("/") == 2
    }
    names = {one["setting_id"]: f"{one['name']}_{one['setting_id']}" for one in study.run.settings}
    assert means == {
        (metric, names[key]): pytest.approx(value) for (metric, key), value in rows.items()
    }


def test_a_run_that_was_interrupted_and_resumed_is_followed_to_its_end(trackers, run):
    write(run, START, {"event": "block"}, {"event": "interrupted"})
    assert followed(trackers, run) == [("blocks", 1, 1)]
    write(run, {"event": "start", "finished": 1}, {"event": "block"}, {"event": "done"})
    assert followed(trackers, run) == [("blocks", 1, 1), ("blocks", 2, 2), MEAN]


def test_a_line_that_is_still_being_written_is_waited_for(trackers, run):
    write(run, START)

    def goes_on():
        with (run / "events.jsonl").open("a") as log:
            for part in ('{"event": ', '"block"}\n{"event": "done"}\n'):
                time.sleep(0.2)
                log.write(part)
                log.flush()

    writer = threading.Thread(target=goes_on)
    writer.start()
    assert followed(trackers, run) == [("blocks", 1, 1), MEAN]
    writer.join()


@pytest.mark.parametrize("library", ["tensorboard", "mlflow", "wandb"])
def test_the_real_library_holds_the_mean(run, tmp_path, library):
    if not (TRACKERS / library).is_dir() and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: .ci/run installs it in .venv/trackers")
    write(run, START, {"event": "block"}, {"event": "done"})
    out = tmp_path / "out"
    paths = os.environ | {"PYTHONPATH": str(TRACKERS)} if library != "tensorboard" else None
    words = [sys.executable, SCRIPT, run, library, out]
    subprocess.run(words, check=True, capture_output=True, env=paths)
    name, value, _ = MEAN
    if library == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        kept = EventAccumulator(str(out / "run"))
        kept.Reload()
        assert [one.value for one in kept.Scalars(name)] == [value]
    elif library == "mlflow":
        metrics = sqlite3.connect(out / "mlflow.db").execute("select key, value from metrics")
        assert (name, value) in metrics.fetchall()
    else:
        (kept,) = out.glob("wandb/offline-run-*/*.wandb")
        assert name.encode() in kept.read_bytes()
