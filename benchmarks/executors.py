"""Blocks a second of one and of two workers, plain processes and Ray's, one thread each, in turns on the same study.

    python -m benchmarks.executors OUT [N_EXAMPLES] [ROUNDS]

The rate is that of work: from the first finished blocks to the last, so that starting (which stands apart) is not in
it. Writes OUT/executors.json.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import pandas as pd

from benchmarks.record import Record
from benchmarks.rounds import summary
from saliency_bench.store.events import EVENTS
from saliency_bench.store.run import write_json

STUDY = [
    *["~experiment", "method=[integrated_gradients,smoothgrad]", "metric=[srg]"],
    *["timing.enabled=false", "convergence.n_examples=0"],
]
EXECUTORS = ("processes", "ray")
#: Executor and workers, in the order of a round.
CASES = [(executor, workers) for workers in (1, 2) for executor in EXECUTORS]


def measured(executor: str, workers: int, n_examples: int, folder: Path) -> dict[str, float]:
    """One study: seconds until the first block was finished, and blocks a second from there to the last."""
    words = [*STUDY, f"n_examples={n_examples}", f"out={folder}"]
    words += [f"runtime={executor}", f"runtime.executor.workers={workers}", "runtime.threads=1"]
    subprocess.run(
        [sys.executable, "-m", "saliency_bench", *words], check=True, capture_output=True
    )
    events = [json.loads(line) for line in (folder / EVENTS).read_text("utf-8").splitlines()]
    seen = [
        (datetime.fromisoformat(one["time"]).timestamp(), one["done"])
        for one in events
        if one["event"] == "progress" and one["stage"] == "blocks"
    ]
    start, begun = seen[0][0], [(time, done) for time, done in seen if done > seen[0][1]]
    (first, few), (last, all_) = begun[0], begun[-1]
    return {"start_seconds": first - start, "blocks_per_second": (all_ - few) / (last - first)}


def ratios(trials: Mapping[tuple[str, int], Sequence[float]]) -> dict[str, list[float]]:
    """By what is held against what, the ratios of blocks a second, one a round."""
    pairs = {f"two of {name} over one": ((name, 2), (name, 1)) for name in EXECUTORS}
    pairs["two of ray over two of processes"] = (("ray", 2), ("processes", 2))
    return {
        pair: [over / under for over, under in zip(trials[a], trials[b], strict=True)]
        for pair, (a, b) in pairs.items()
    }


def main(out: Path, n_examples: int, rounds: int) -> None:
    """Measures every case in each round, every other round in the reverse order, and writes what was found."""
    record = Record()
    trials: dict[tuple[str, int], list[dict[str, float]]] = {case: [] for case in CASES}
    for turn in range(rounds):
        for case in CASES if turn % 2 == 0 else CASES[::-1]:
            with tempfile.TemporaryDirectory(prefix="executors-") as place:
                trials[case].append(measured(*case, n_examples, Path(place) / "run"))
            print(*case, trials[case][-1], flush=True)
    rates = {case: [trial["blocks_per_second"] for trial in trials[case]] for case in CASES}
    found = ratios(rates)
    out.mkdir(parents=True, exist_ok=True)
    written = {
        "n_examples": n_examples,
        "trials": {f"{name}, {workers} workers": trials[name, workers] for name, workers in CASES},
        "ratios": found,
        "summary": summary(pd.DataFrame(found), "pair").to_dict("records"),
    }
    write_json(out / "executors.json", written | record.provenance(threads=1))
    print(written["summary"])


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[2:]]
    main(Path(sys.argv[1]), *[*numbers, *(100, 3)[len(numbers) :]])
