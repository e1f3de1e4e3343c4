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
ROOT = Path(__file__).parents[1]

METHOD = '''"""Gradients at the middle of a path."""

from saliency_bench.attribution.methods.base import GradientSum, method


@method("product")
def halfway_gradient(ctx, *, baseline: str):
    """The gradient at the middle of the path, times the path."""
    path = ctx.path(baseline, "keep")
    return GradientSum(path, nodes=[0.5], weights=[1.0], multiplier=path.embeddings - path.reference)
'''
METRIC = '''"""Drops of the probability."""

from saliency_bench.evaluation.metrics import metric


@metric("first_drop", unit="probability", higher_is_better=True, bounds=(-1.0, 1.0), source="a test", reads="curve")
def first_drop(curve) -> float:
    """The drop when the most relevant unit is removed."""
    return float(curve.deletion[0] - curve.deletion[1])
'''
DATASET = '''"""Short texts."""

from saliency_bench.data import dataset
from saliency_bench.data.example import Example


@dataset
def load(*, n_items: int) -> list[Example]:
    """Short texts."""
    return [Example(f"short {i}", f"the film w{i + 9} and w{i + 20}", None, i % 2) for i in range(n_items)]
'''
BASELINE = '''"""A part of the mean."""

from saliency_bench.core.registry import BASELINES


@BASELINES.register
def half_mean(ctx, moved):
    """Half of the mean of the vocabulary."""
    return ctx.references.vector("mean") / 2
'''
REMOVAL = '''"""A part of the mean."""

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
    "method/halfway_gradient.yaml": """# The gradient at the middle of the path, times the path.
halfway_gradient: {method: halfway_gradient, reduction: sum, baseline: half_mean}
""",
    "metric/first_drop.yaml": "# The first drop of the curve.\nfirst_drop: {metric: first_drop}\n",
    "data/short.yaml": "# Short texts.\ndataset: short\nn_items: 4\n",
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

#: The tests that walk over what is registered or configured, by file.
WALKS = {
    "api/test_parts.py": (
        "test_every_part_is_described_by_a_whole_sentence",
        "test_commands_select_what_they_say",
        "test_calls_are_accepted_by_what_they_call",
        "test_what_scores_sum_to_is_said_of_the_methods_that_report_a_gap",
        "test_every_entry_stands_in_one_family",
    ),
    "attribution/test_backward_rules.py": ("test_methods_either_take_rules_or_are_refused",),
    "attribution/test_baselines.py": (
        "test_integrated_gradients_are_complete_from_every_baseline[keep-half_mean]",
        "test_integrated_gradients_are_complete_from_every_baseline[replace-half_mean]",
    ),
    "attribution/test_method_facts.py": ("test_every_method_says_what_it_is",),
    "attribution/test_settings.py": (
        "test_all_ways_agree_with_the_command_on_every_value_of_every_key[halfway_gradient]",
    ),
    "cli/test_cli.py": ("test_list_names_everything_of_a_kind",),
    "cli/test_config.py": (
        "test_every_file_of_a_group_holds_one_entry_of_its_own_name",
        "test_every_method_has_a_file_that_names_all_its_hyperparameters",
        "test_every_dataset_has_a_file_that_names_all_its_hyperparameters",
    ),
    "core/test_ranges.py": (
        "test_every_number_that_is_shipped_is_in_its_range",
        "test_every_number_that_a_component_takes_has_a_range",
    ),
    "evaluation/test_contrasts.py": (
        "test_every_metric_is_that_of_a_model_whose_logit_is_the_difference",
    ),
    "evaluation/test_metrics.py": ("",),
    "evaluation/test_multi_label.py": (
        "test_every_metric_is_that_of_a_classifier_of_the_class_against_its_absence",
    ),
    "faults/test_broken_row.py": (
        "test_only_the_texts_with_the_token_have_no_scores[halfway_gradient]",
        "test_only_their_metrics_fail[third_mean]",
    ),
    "laws/test_axioms.py": (
        "test_a_token_that_the_score_does_not_read_gets_exactly_nothing",
        "test_dimensions_that_the_score_does_not_read_have_no_say",
        "test_two_networks_of_one_function_have_equal_maps",
    ),
    "laws/test_completeness.py": (
        "test_every_method_that_claims_completeness_has_it_against_a_baseline_that_is_not_zero",
        "test_squares_products_of_one_point_and_random_paths_claim_nothing",
    ),
    "laws/test_extremes.py": (
        "test_a_score_in_other_units_has_its_maps_in_these_units",
        "test_a_text_without_a_number_does_not_spoil_its_batch_mates",
    ),
    "laws/test_invariance.py": ("test_padding_in_a_block_changes_no_map",),
    "laws/test_model_is_left_as_found.py": ("test_the_model_and_all_generators_are_left_as_found",),
    "laws/test_noise.py": ("test_without_noise_smoothing_changes_nothing",),
    "report/test_captions.py": ("test_every_method_says_whether_its_scores_have_a_sign",),
    "study/test_block.py": (
        "test_metrics_of_texts_that_share_padded_blocks_are_those_of_equal_lengths",
    ),
    "study/test_evaluate.py": ("test_every_metric_in_conf_is_read_by_evaluate",),
}


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


@pytest.mark.slow
def test_the_suite_accepts_parts_that_stand_beside_ours(tmp_path):
    """Its tests that walk over registries, run where the parts have been added."""
    root, _ = put_beside_ours(tmp_path)
    for name in ("tests", "pyproject.toml"):
        (root / name).symlink_to(ROOT / name)
    tests = [
        f"tests/{file}::{name}".removesuffix("::")
        for file, names in WALKS.items()
        for name in names
    ]
    options = ["-v", "-n", "0", "-p", "no:cacheprovider", "-m", "not thorough"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        capture_output=True,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stdout
    assert "[first_drop] PASSED" in done.stdout
