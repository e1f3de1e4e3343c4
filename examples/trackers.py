"""Follows a run into TensorBoard, MLflow or Weights & Biases; start it beside the run, or after it.

    python examples/trackers.py RUN_FOLDER tensorboard|mlflow|wandb [WHERE]

While the run goes on, its blocks and stages are logged from events.jsonl; when it is done, the mean of every metric. All
three write to the folder WHERE (default: trackers) and need no network: `wandb sync` sends it later.
"""

import atexit
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

Log = Callable[[str, float, int], object]  # name, value, step


def tensorboard(name: str, where: Path) -> Log:
    """Event files in WHERE/NAME."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(where / name))
    atexit.register(writer.close)  # what waits in its queue would be lost
    return writer.add_scalar


def mlflow(name: str, where: Path) -> Log:
    """A run in the database WHERE/mlflow.db."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{where.resolve()}/mlflow.db")
    mlflow.start_run(run_name=name)
    return mlflow.log_metric


def wandb(name: str, where: Path) -> Log:
    """An offline run in WHERE/wandb."""
    import wandb

    run = wandb.init(project="saliency_bench", name=name, dir=where, mode="offline")
    return lambda metric, value, step: run.log({metric: value, f"{metric} step": step})


def events(folder: Path) -> Iterator[dict]:
    """Every line of the log, as it is written, until the run has ended."""
    with (folder / "events.jsonl").open(encoding="utf-8") as log:
        line, ended = "", False
        while (line := line + log.readline()) or not ended:
            if line.endswith("\n"):
                event, line = json.loads(line), ""
                ended = event["event"] in ("done", "interrupted", "error")
                yield event
            else:
                time.sleep(0.5)


def follow(folder: Path, log: Log) -> None:
    """Logs a run until it ends, and what came out if it is done."""
    for event in events(folder):
        if event["event"] == "start":
            n_blocks, kind = event["finished"], ""
        elif event["event"] == "block":
            n_blocks += 1
            log("blocks", n_blocks, n_blocks)
        elif event["event"] == "progress":
            log(f"progress/{event['stage']}", event["done"] / event["total"], event["done"])
        kind = event["event"]
    if kind == "done":
        settings = {
            one["setting_id"]: one
            for one in json.loads((folder / "settings.json").read_text("utf-8"))
        }
        rows = pd.read_parquet(folder / "rows.parquet")
        rows["removal"] = rows["removal"].fillna("nothing removed")
        for (metric, removal, setting), value in (
            rows.groupby(["metric", "removal", "setting_id"])["value"].mean().dropna().items()
        ):
            log(f"{metric}/{removal}/{settings[setting]['name']}_{setting}", value, 0)


if __name__ == "__main__":
    sink = {"tensorboard": tensorboard, "mlflow": mlflow, "wandb": wandb}[sys.argv[2]]
    where = Path(sys.argv[3] if len(sys.argv) > 3 else "trackers")
    where.mkdir(parents=True, exist_ok=True)
    follow(Path(sys.argv[1]), sink(Path(sys.argv[1]).name, where))
