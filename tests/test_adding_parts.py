"""A part is found where README says it is put: in a room's folder, or in a package of one's own."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import saliency_bench
from saliency_bench.core import conf as conf_files
from saliency_bench.store.run import read_run

PACKAGE = Path(saliency_bench.__file__).parent

METHOD = '''
from saliency_bench.attribution.methods.base import GradientSum, method


@method("product")
def halfway_gradient(ctx, *, baseline: str):
    """The gradient at the middle of the path, times the path."""
    path = ctx.path(baseline, "keep")
    return GradientSum(path, nodes=[0.5], weights=[1.0], multiplier=path.embeddings - path.reference)
'''
METRIC = '''
from saliency_bench.evaluation.metrics import metric


@metric("first_drop", unit="probability", higher_is_better=True, bounds=(-1, 1), source="a test", reads="curve")
def first_drop(curve) -> float:
    """The drop when the most relevant unit is removed."""
    return float(curve.deletion[0] - curve.deletion[1])
'''
DATASET = '''
from saliency_bench.data import dataset
from saliency_bench.data.example import Example


@dataset
def load(*, n: int) -> list[Example]:
    """Short texts."""
    return [Example(f"short {i}", f"the film w{i + 9} and w{i + 20}", None, i % 2) for i in range(n)]
'''
BASELINE = '''
from saliency_bench.core.registry import BASELINES


@BASELINES.register
def half_mean(ctx, moved):
    """Half of the mean of the vocabulary."""
    return ctx.references.vector("mean") / 2
'''
REMOVAL = '''
from saliency_bench.evaluation.removal import ReplacingProbe
from saliency_bench.core.registry import REMOVALS


@REMOVALS.register
def third_mean(references, batch, token_budget):
    """A third of the mean of the vocabulary."""
    return ReplacingProbe(references, batch, token_budget, references.vector("mean") / 3)
'''

#: The file of each part, by where it stands in the package.
FUNCTIONS = {
    "attribution/methods/halfway.py": METHOD,
    "evaluation/drops.py": METRIC,
    "data/short.py": DATASET,
    "attribution/half_mean.py": BASELINE,
    "evaluation/third_mean.py": REMOVAL,
}
#: The file in conf/ that goes with it; baselines and removals have none.
CONFIGURATION = {
    "method/halfway_gradient.yaml": "halfway_gradient: {method: halfway_gradient, reduction: sum, baseline: half_mean}\n",
    "metric/first_drop.yaml": "first_drop: {metric: first_drop}\n",
    "data/short.yaml": "dataset: short\nn: 4\n",
}
ENTRY_POINTS = """
[saliency_bench.methods]
halfway_gradient = own.halfway:halfway_gradient
[saliency_bench.metrics]
first_drop = own.drops:first_drop
[saliency_bench.data]
short = own.short:load
[saliency_bench.baselines]
half_mean = own.half_mean:half_mean
[saliency_bench.removals]
third_mean = own.third_mean:third_mean
"""
#: What registers parts of ours that carry nothing but a name; an entry point does the same.
UNNEEDED = re.compile(r"@(dataset|BASELINES.register|REMOVALS.register)\n")

#: What is asked of them: by Python of one text, beside the same by hand, and by a study of four.
SCRIPT = """
import json, sys
import torch
import saliency_bench as sb
from saliency_bench.cli.main import main

folder, out, *more = sys.argv[1:]
model = sb.load_model(folder, dtype="float64")
text = "the film w9 and w20"
own = {"reduction": "sum", "baseline": "half_mean"}
(map_,) = sb.attribute(model, text, "halfway_gradient", **own)
(row,) = sb.evaluate(model, [map_], ["first_drop"], removal="third_mean").to_dict("records")

ids = torch.tensor([map_.encoded.input_ids])
embeddings = model.embed(ids).detach()
mean = model.module.get_input_embeddings().weight.detach().mean(0)
start = embeddings.clone()
start[0, 1:-1] = mean / 2
middle = ((embeddings + start) / 2).requires_grad_()
whole = model.output(ids, None, None, embeddings).softmax(-1)[0]
best = whole.argmax()
model.output(ids, None, None, middle)[0, best].backward()
scores = (middle.grad * (embeddings - start)).sum(-1)[0]
without = embeddings.clone()
without[0, 1 + scores[1:-1].argmax()] = mean / 3
drop = whole[best] - model.output(ids, None, None, without).softmax(-1)[0, best]

words = ["~experiment", "model=hub", f"model.path={folder}", "data=short", "n_examples=4"]
words += ["method=[halfway_gradient,vanilla]", "metric=[first_drop]", "evaluation.removal=third_mean"]
words += ["statistics.endpoint=first_drop", "statistics.n_resamples=100", f"out={out}"]
code = main([*words, *more])
print(json.dumps({"scores": map_.scores.tolist(), "by hand": scores.tolist(), "row": row, "drop": drop.item(), "code": code}))
"""


def install(root: Path) -> tuple[Path, list[str]]:
    """A package of one's own on the path with its entry points; and the words that name its configuration."""
    for place, text in FUNCTIONS.items():
        write(root / "own" / Path(place).name, UNNEEDED.sub("", text))
    write(root / "own-1.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: own\nVersion: 1\n")
    write(root / "own-1.dist-info" / "entry_points.txt", ENTRY_POINTS)
    for place, text in CONFIGURATION.items():
        write(root / "own_conf" / place, text)
    return root, ["--config-dir", str(root / "own_conf")]


def put_beside_ours(root: Path) -> tuple[Path, list[str]]:
    """A copy of the package and its configuration, with the files in their folders."""
    shutil.copytree(PACKAGE, root / "saliency_bench")
    shutil.copytree(conf_files.folder(), root / "conf")
    for place, text in FUNCTIONS.items():
        write(root / "saliency_bench" / place, text)
    for place, text in CONFIGURATION.items():
        write(root / "conf" / place, text)
    return root, []


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("add", [install, put_beside_ours])
def test_one_part_of_each_kind_is_accepted_by_python_and_by_a_study(tmp_path, folder, add):
    root, words = add(tmp_path / "added")
    run = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(run), *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(PACKAGE.parent)])},
    )
    assert done.returncode == 0, done.stderr
    python = json.loads(done.stdout.splitlines()[-1])
    # Some thousand operations in float64, each right to 2.2e-16 of numbers of about 1.
    assert python["scores"] == pytest.approx(python["by hand"], abs=1e-12)
    assert python["row"]["value"] == pytest.approx(python["drop"], abs=1e-12)
    assert python["row"]["removal"] == "third_mean"
    assert python["code"] == 0
    rows = read_run(run).tables["rows"]
    assert set(rows.example_id) == {f"short {i}" for i in range(4)}
    assert len(rows) == 2 * 4  # of two methods
    assert set(rows.metric) == {"first_drop"} and set(rows.removal) == {"third_mean"}
    assert set(rows.status) == {"ok"}
    assert (run / "report.html").exists()
