"""Texts a second of two Ray workers beside two plain processes, one thread each, in turns on the same study.

    python -m benchmarks.executors OUT [N_EXAMPLES] [ROUNDS]

The rate is that of work: from the first finished blocks to the last, so that starting (which stands apart) is not in
it. Writes OUT/executors.json.
"""

import json
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from statistics import median

from benchmarks.record import Record
from saliency_bench.store.events import EVENTS

STUDY = [
    *["~experiment", "method=[integrated_gradients,smoothgrad]", "metric=[srg]"],
    *["timing.enabled=false", "convergence.n_examples=0"],
]
EXECUTORS = ("processes", "ray")


def measured(executor: str, n_examples: int, folder: Path) -> dict[str, float]:
    """One study: seconds until the first block was finished, and blocks a second from there to the last."""
    words = [*STUDY, f"n_examples={n_examples}", f"out={folder}"]
    words += [f"runtime={executor}", "runtime.executor.workers=2", "runtime.threads=1"]
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


if __name__ == "__main__":
    out, record = Path(sys.argv[1]), Record()
    n_examples, rounds = (int(word) for word in [*sys.argv[2:], "100", "3"][:2])
    trials: dict[str, list[dict[str, float]]] = {name: [] for name in EXECUTORS}
    for turn in range(rounds):
        for name in EXECUTORS if turn % 2 == 0 else EXECUTORS[::-1]:
            with tempfile.TemporaryDirectory(prefix="executors-") as place:
                trials[name].append(measured(name, n_examples, Path(place) / "run"))
            print(name, trials[name][-1], flush=True)
    ratios = [
        ray["blocks_per_second"] / plain["blocks_per_second"]
        for plain, ray in zip(trials["processes"], trials["ray"], strict=True)
    ]
    found = {"n_examples": n_examples, "trials": trials, "ratios": ratios, "ratio": median(ratios)}
    found |= record.provenance(threads=1)
    out.mkdir(parents=True, exist_ok=True)
    (out / "executors.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(f"median ratio {found['ratio']:.3f}")
