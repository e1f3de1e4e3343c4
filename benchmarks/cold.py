"""`saliency-bench explain` against a script by hand with Captum, each in a cold process: python -m benchmarks.cold.

Both explain one text by the four methods of the quickstart (gradient, gradient x input, SmoothGrad with 24 samples,
Integrated Gradients with 50 Gauss-Legendre nodes from [MASK]), or by Integrated Gradients alone, and print words with
scores. The model is the same folder. Runs are interleaved; what is compared is the processor time of the whole process,
which a neighbour's load counts for neither side, and the clock beside it.
"""

import argparse
import json
import os
import resource
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
METHODS = ("vanilla", "input_x_gradient", "smoothgrad", IG)
N_RESAMPLES = 2000
LARGEST_DIFFERENCE = 1e-3  # of the largest score: both round in float32


class Seconds(NamedTuple):
    """What a process took."""

    cpu: float
    clock: float


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


def commands(folder: str, methods: Sequence[str]) -> dict[str, list[str]]:
    """The two processes."""
    python, listed = sys.executable, ",".join(methods)
    ours = [python, "-m", "saliency_bench", "explain", TEXT, "model=hub", f"model.path={folder}"]
    ours += [f"method=[{listed}]", "runtime.device=cpu"]
    hand = [python, "-m", "benchmarks.cold", "--by-hand", folder, "--methods", *methods]
    return {"ours": ours, "by hand": hand}


def timed(command: Sequence[str], environment: dict[str, str]) -> Seconds:
    """Runs a process to its end."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Seconds(cpu, time.perf_counter() - began)


def require_equal(both: dict[str, list[str]], environment: dict[str, str]) -> None:
    """Refuses to time two that disagree on Integrated Gradients."""
    printed = {}
    for name, command in both.items():
        words = [*command, "--json=allennlp"] if name == "ours" else command
        done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment)
        printed[name] = done.stdout
    instances = json.loads(printed["ours"]).values()
    ours = np.array(next(one["grad_input_1"] for one in instances if one["method"].startswith(IG)))
    hand = np.abs(json.loads(printed["by hand"].splitlines()[-1]))
    hand /= hand.sum()
    difference = float(np.abs(ours - hand).max() / hand.max())
    if not difference < LARGEST_DIFFERENCE:
        raise SystemExit(f"the two disagree by {difference:.2g} of the largest score")


def interval(ratios: Sequence[float]) -> str:
    """The median, and the 95 % interval of a bootstrap over pairs."""
    draws = np.random.default_rng(0).choice(ratios, (N_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(draws, 1), [0.025, 0.975])
    return f"{np.median(ratios):.2f} [{low:.2f}, {high:.2f}]"


def compare(methods: Sequence[str], n_pairs: int, package: str | None, first: bool) -> None:
    """Prints ratios of ours over by hand.

    Args:
        methods: what both explain by.
        n_pairs: of runs.
        package: the checkout whose `saliency_bench` is ours; this one where None.
        first: no process finds what an earlier one kept of the model.
    """
    from saliency_bench.models.loading import load_default

    with tempfile.TemporaryDirectory() as place:
        model = load_default(device="cpu")
        module: Any = model.module
        module.save_pretrained(f"{place}/model")
        model.tokenizer.save_pretrained(f"{place}/model")
        here = str(Path(__file__).parents[1])
        paths = [here] if package is None else [package, here]
        environment = os.environ | {"PYTHONPATH": ":".join(paths)}
        environment |= {"SALIENCY_BENCH_CACHE": f"{place}/cache", "XDG_CACHE_HOME": place}
        both = commands(f"{place}/model", methods)
        require_equal(both, environment)
        if first:
            shutil.rmtree(f"{place}/cache", ignore_errors=True)
        runs: dict[str, list[Seconds]] = {name: [] for name in both}
        for pair in range(n_pairs):
            for name in both if pair % 2 else reversed([*both]):
                runs[name].append(timed(both[name], environment))
                if first:
                    shutil.rmtree(f"{place}/cache", ignore_errors=True)
    kept = "nothing kept of the model" if first else "the preflight kept by an earlier process"
    print(
        f"{', '.join(methods)}; {n_pairs} interleaved pairs; {package or 'this checkout'}; {kept}"
    )
    for kind in Seconds._fields:
        ours, hand = ([getattr(one, kind) for one in runs[name]] for name in ("ours", "by hand"))
        ratios = [a / b for a, b in zip(ours, hand, strict=True)]
        print(
            f"{kind}: ours {np.median(ours):.2f} s, by hand {np.median(hand):.2f} s, ratio {interval(ratios)}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--by-hand", metavar="FOLDER")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--package", help="another checkout, to measure a change")
    parser.add_argument("--first", action="store_true", help="nothing is kept between processes")
    given = parser.parse_args()
    if given.by_hand:
        by_hand(given.by_hand, given.methods)
    else:
        compare(given.methods, given.pairs, given.package, given.first)
