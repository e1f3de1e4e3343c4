"""Follows a run, beside it or after it: python examples/trackers.py RUN_FOLDER tensorboard|mlflow|wandb WHERE (a folder)."""

import atexit
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd


def log_to(library: str, name: str, where: Path) -> Callable[[str, float, int], object]:
    """A function that logs a name, a value and a step to a library, which writes to the folder `where`."""
    if library == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(where / name))
        atexit.register(writer.close)  # what waits in its queue would be lost
        return writer.add_scalar
    if library == "mlflow":
        import mlflow

        mlflow.set_tracking_uri(f"sqlite:///{where.resolve()}/mlflow.db")
        mlflow.start_run(run_name=name)
        return mlflow.log_metric
    import wandb  # `wandb sync` sends it later

    run = wandb.init(project="saliency_bench", name=name, dir=where, mode="offline")
    return lambda metric, value, step: run.log({metric: value, f"{metric} step": step})


def follow(folder: Path, log: Callable[[str, float, int], object]) -> None:
    """Logs blocks and stages of a run until it ends, and the mean of every metric if it is done."""
    kind = line = ""
    with (folder / "events.jsonl").open(encoding="utf-8") as events:
        while (line := line + events.readline()) or kind not in ("done", "interrupted", "error"):
            if not line.endswith("\n"):  # more is to be written
                time.sleep(0.5)
                continue
            event, line = json.loads(line), ""
            if (kind := event["event"]) == "start":
                n_blocks = event["finished"]
            elif kind == "block":
                log("blocks", n_blocks := n_blocks + 1, n_blocks)
            elif kind == "progress":
                log(f"progress/{event['stage']}", event["done"] / event["total"], event["done"])
    if kind == "done":
        settings = json.loads((folder / "settings.json").read_text("utf-8"))
        names = {one["setting_id"]: one["name"] for one in settings}
        rows = pd.read_parquet(folder / "rows.parquet")
        rows["removal"] = rows["removal"].fillna("nothing removed")
        means = rows.groupby(["metric", "removal", "setting_id"])["value"].mean().dropna()
        for (metric, removal, key), mean in means.items():
            log(f"{metric}/{removal}/{names[key]}_{key}", mean, 0)


if __name__ == "__main__":
    Path(sys.argv[3]).mkdir(parents=True, exist_ok=True)
    follow(Path(sys.argv[1]), log_to(sys.argv[2], Path(sys.argv[1]).name, Path(sys.argv[3])))
