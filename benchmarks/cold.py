"""`saliency-bench explain` against a script by hand with Captum, each in a cold process: python -m benchmarks.cold.

Both explain one text by the four methods of the quickstart (gradient, gradient x input, SmoothGrad with 24 samples,
Integrated Gradients with 50 Gauss-Legendre nodes from [MASK]), or by Integrated Gradients alone, and print words with
scores. The model is the same folder. "The first time" finds nothing that an earlier process kept of it. Runs are interleaved; what is compared is the processor time of the whole process,
which a neighbour's load counts for neither side, and the clock beside it.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

TEXT = "a gripping, funny film that never loses its way"
IG = "integrated_gradients"
HAND, OURS = "by hand", "ours"
METHODS = ("vanilla", "input_x_gradient", "smoothgrad", IG)
N_RESAMPLES = 2000
LARGEST_DIFFERENCE = 1e-3  # of the largest score: both round in float32


class Cost(NamedTuple):
    """What a process took: seconds of its processors and of the clock, and its largest memory in MiB."""

    cpu: float
    clock: float
    memory: float


class Contestant(NamedTuple):
    """A process: its words, its environment, and whether it finds nothing that an earlier one kept of the model."""

    command: list[str]
    environment: dict[str, str]
    is_first: bool = False


def by_hand(folder: str, methods: Sequence[str]) -> None:
    """The script: no class, no padding, the embeddings looked up once, each method in one pass of all its points."""
    import torch
    from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Saliency
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    model.requires_grad_(False)
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    table = model.get_input_embeddings()
    embeddings = table(ids)
    with torch.no_grad():
        target = int(model(inputs_embeds=embeddings).logits.argmax())

    def score(points: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(inputs_embeds=points).logits
        return logits[:, target]

    baseline = embeddings.clone()
    baseline[:, 1:-1] = table.weight[tokenizer.mask_token_id]
    points = embeddings.clone().requires_grad_()
    for method in methods:
        if method == "vanilla":
            scores = Saliency(score).attribute(points, abs=False).norm(dim=-1)
        elif method == "input_x_gradient":
            scores = InputXGradient(score).attribute(points).sum(-1)
        elif method == "smoothgrad":
            sigma = 0.1 * float(table.weight.std())
            tunnel = NoiseTunnel(Saliency(score))
            scores = tunnel.attribute(
                points, nt_type="smoothgrad", nt_samples=24, stdevs=sigma, abs=False
            ).norm(dim=-1)
        else:
            explainer = IntegratedGradients(score)
            scores = explainer.attribute(points, baseline, n_steps=50).sum(-1)
        listed = scores[0].detach().double().tolist()
        words = tokenizer.convert_ids_to_tokens(ids[0])
        print(method, " ".join(f"{w}({s:+.4g})" for w, s in zip(words, listed, strict=True)))
        print(json.dumps(listed))


def contestants(place: Path, methods: Sequence[str], package: str | None) -> dict[str, Contestant]:
    """The processes, by name; `package` is a checkout with another `saliency_bench`, to measure a change."""
    python, listed, folder = sys.executable, ",".join(methods), str(place / "model")
    explain = [python, "-m", "saliency_bench", "explain", TEXT, "model=hub", f"model.path={folder}"]
    explain += [f"method=[{listed}]", "runtime.device=cpu"]
    hand = [python, "-m", "benchmarks.cold", "--by-hand", folder, "--methods", *methods]
    here = str(Path(__file__).parents[1])

    def environment(checkout: str) -> dict[str, str]:
        cache = {"SALIENCY_BENCH_CACHE": str(place / "cache"), "XDG_CACHE_HOME": str(place)}
        return dict(os.environ) | cache | {"PYTHONPATH": checkout}

    found = {
        HAND: Contestant(hand, environment(here)),
        OURS: Contestant(explain, environment(here)),
        "ours, the first time": Contestant(explain, environment(here), is_first=True),
    }
    if package is not None:
        found[f"ours at {package}"] = Contestant(explain, environment(package))
    return found


def spent(contestant: Contestant, cache: Path) -> Cost:
    """Runs a process to its end."""
    kept = cache.with_name("kept")
    if contestant.is_first and cache.exists():
        cache.rename(kept)
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
    if contestant.is_first and kept.exists():
        shutil.rmtree(cache, ignore_errors=True)
        kept.rename(cache)
    return Cost(used.ru_utime + used.ru_stime, clock, used.ru_maxrss / 1024)


def require_equal(ours: Contestant, hand: Contestant) -> None:
    """Refuses to time two that disagree on Integrated Gradients."""

    def printed(contestant: Contestant, *more: str) -> str:
        words, environment = [*contestant.command, *more], contestant.environment
        done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment)
        return done.stdout

    instances = json.loads(printed(ours, "--json=allennlp")).values()
    shares = [
        instance["grad_input_1"] for instance in instances if instance["method"].startswith(IG)
    ]
    by_hand = np.abs(json.loads(printed(hand).splitlines()[-1]))
    by_hand /= by_hand.sum()
    difference = float(np.abs(np.array(shares[0]) - by_hand).max() / by_hand.max())
    if not difference < LARGEST_DIFFERENCE:
        raise SystemExit(f"the two disagree by {difference:.2g} of the largest score")


def interval(ratios: Sequence[float]) -> str:
    """The median, and the 95 % interval of a bootstrap over pairs."""
    draws = np.random.default_rng(0).choice(ratios, (N_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(draws, 1), [0.025, 0.975])
    return f"{np.median(ratios):.2f} [{low:.2f}, {high:.2f}]"


def compare(methods: Sequence[str], n_rounds: int, package: str | None) -> None:
    """Prints what each contestant took, and its ratio to the script by hand in the same round."""
    from saliency_bench.models.loading import load_default

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        model = load_default(device="cpu")
        module: Any = model.module
        module.save_pretrained(place / "model")
        model.tokenizer.save_pretrained(place / "model")
        found = contestants(place, methods, package)
        require_equal(found[OURS], found[HAND])
        runs: dict[str, list[Cost]] = {name: [] for name in found}
        for number in range(n_rounds):
            for name in [*found] if number % 2 else reversed([*found]):
                runs[name].append(spent(found[name], place / "cache"))
    print(f"{', '.join(methods)}; {n_rounds} interleaved rounds")
    for name, costs in runs.items():
        for kind in Cost._fields:
            theirs = [getattr(cost, kind) for cost in costs]
            ratios = [a / getattr(b, kind) for a, b in zip(theirs, runs[HAND], strict=True)]
            print(f"{name}: {kind} {np.median(theirs):.2f}, / by hand {interval(ratios)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--by-hand", metavar="FOLDER")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--package", help="another checkout, to measure a change")
    given = parser.parse_args()
    if given.by_hand:
        by_hand(given.by_hand, given.methods)
    else:
        compare(given.methods, given.rounds, given.package)
