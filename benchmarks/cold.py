"""What a first answer costs, each in a cold process: python -m benchmarks.cold [FOLDER] [ROUNDS] [QUICKSTARTS].

`saliency-bench explain` against a script by hand with Captum: both explain one text by four methods
(gradient, gradient x input, SmoothGrad with 24 samples, Integrated Gradients with 50 Gauss-Legendre nodes from [MASK]), or by
Integrated Gradients alone, and print words with scores. The model is the same folder, and both have one thread. "The first
time" finds nothing that an earlier process kept. Each round takes every contestant once; what is compared is the processor
time of the whole process, which a neighbour's load counts for neither side, and the clock beside it.

The quickstart is `python -m saliency_bench` from an empty cache, with the threads that it takes by default: quickstart.csv.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks import rounds
from saliency_bench.models.loading import load_default
from saliency_bench.store.cache import VARIABLE
from saliency_bench.store.run import MANIFEST

TEXT = "a gripping, funny film that never loses its way"
IG = "integrated_gradients"
HAND, OURS, FIRST = "by hand", "ours", "ours, the first time"
METHODS = {"all four": ("vanilla", "input_x_gradient", "smoothgrad", IG), IG: (IG,)}
N_ROUNDS, N_QUICKSTARTS = 9, 3
LARGEST_DIFFERENCE = 1e-3  # of the largest score: both round in float32


class Cost(NamedTuple):
    """What a process took: seconds of its processors and of the clock."""

    cpu: float
    clock: float


class Contestant(NamedTuple):
    """A process: its words, its environment, and whether it finds nothing that an earlier one kept."""

    command: list[str]
    environment: dict[str, str]
    is_first: bool = False


def environment(cache: Path, **more: str) -> dict[str, str]:
    """That of this process, with this checkout, a cache of its own and the default threads."""
    own = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    own |= {VARIABLE: str(cache / "saliency_bench"), "XDG_CACHE_HOME": str(cache)}
    return own | {"PYTHONPATH": str(Path(__file__).parents[1])} | more


def contestants(place: Path, methods: Sequence[str]) -> dict[str, Contestant]:
    """The processes, by name."""
    python, model = sys.executable, str(place / "model")
    explain = [python, "-m", "saliency_bench", "explain", TEXT, "model=hub", f"model.path={model}"]
    explain += [f"method=[{','.join(methods)}]", "runtime.device=cpu"]
    hand = [python, "-m", "benchmarks.cold_by_hand", model, TEXT, *methods]
    own = environment(place / "cache", OMP_NUM_THREADS="1")
    return {
        HAND: Contestant(hand, own),
        OURS: Contestant(explain, own),
        FIRST: Contestant(explain, own, is_first=True),
    }


@contextmanager
def emptied(cache: Path) -> Iterator[None]:
    """There is no cache; afterwards it is again what it was."""
    kept = cache.with_name("kept")
    cache.mkdir(exist_ok=True)
    cache.rename(kept)
    try:
        yield
    finally:
        shutil.rmtree(cache, ignore_errors=True)
        kept.rename(cache)


def spent(contestant: Contestant, cache: Path) -> Cost:
    """Runs a process to its end, in the folder where the cache is.

    Raises:
        SystemExit: the process failed.
    """
    with emptied(cache) if contestant.is_first else nullcontext():
        began = time.perf_counter()
        with subprocess.Popen(
            contestant.command,
            env=contestant.environment,
            cwd=cache.parent,  # a checkout that one stands in would come before PYTHONPATH
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        clock = time.perf_counter() - began
        if process.returncode:
            raise SystemExit(f"{contestant.command} ended with {process.returncode}")
    return Cost(used.ru_utime + used.ru_stime, clock)


def require_equal(ours: Contestant, hand: Contestant) -> None:
    """Refuses to time two that disagree on Integrated Gradients.

    Raises:
        SystemExit: they do.
    """

    def printed(contestant: Contestant, *more: str) -> str:
        words, own = [*contestant.command, *more], contestant.environment
        return subprocess.run(words, check=True, capture_output=True, text=True, env=own).stdout

    instances = json.loads(printed(ours, "--json=allennlp")).values()
    (shares,) = [one["grad_input_1"] for one in instances if one["method"].startswith(IG)]
    by_hand = np.abs(json.loads(printed(hand).splitlines()[-1]))
    by_hand /= by_hand.sum()
    difference = float(np.abs(np.array(shares) - by_hand).max() / by_hand.max())
    if not difference < LARGEST_DIFFERENCE:
        raise SystemExit(f"the two disagree by {difference:.2g} of the largest score")


def compare(place: Path, methods: Sequence[str], n_rounds: int) -> dict[str, pd.DataFrame]:
    """By what is measured, what each contestant took over the script by hand in the same round."""
    found, cache = contestants(place, methods), place / "cache"
    require_equal(found[OURS], found[HAND])
    runs = rounds.taken({name: partial(spent, one, cache) for name, one in found.items()}, n_rounds)
    return {
        kind: rounds.over_first([{n: getattr(run[n], kind) for n in run} for run in runs])
        for kind in Cost._fields
    }


def quickstart() -> dict[str, float]:
    """What the default study takes from an empty cache, and with how many threads."""
    with tempfile.TemporaryDirectory(prefix="quickstart-") as folder:
        cache = Path(folder) / "cache"
        command = [sys.executable, "-m", "saliency_bench"]
        cost = spent(Contestant(command, environment(cache)), cache)
        (manifest,) = Path(folder, "results").rglob(MANIFEST)
        computation = json.loads(manifest.read_text("utf-8"))["identity"]["computation"]
    return {**cost._asdict(), "threads": computation["threads"]}


def main(n_rounds: int = N_ROUNDS, n_quickstarts: int = N_QUICKSTARTS) -> None:
    """Writes the ratios of all rounds, their medians, the quickstarts and a manifest."""
    costs = rounds.Costs("cold")
    with tempfile.TemporaryDirectory(prefix="cold-") as folder:
        place = Path(folder)
        model = load_default(device="cpu")
        module: Any = model.module
        module.save_pretrained(place / "model")
        model.tokenizer.save_pretrained(place / "model")
        for name, methods in METHODS.items():
            for kind, table in compare(place, methods, n_rounds).items():
                costs.add(table, methods=name, time=kind)
    taken = pd.DataFrame([quickstart() for _ in range(n_quickstarts)]).rename_axis("repeat")
    print(taken.to_string())
    costs.write({"text": TEXT, "methods": METHODS})
    taken.round(2).to_csv(costs.folder / "quickstart.csv")


if __name__ == "__main__":
    main(*[int(word) for word in sys.argv[2:]])
