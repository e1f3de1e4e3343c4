"""`saliency-bench validate`: the whole matrix, its verdicts and files, and that it sees what is broken."""

import csv
import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import wraps
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from saliency_bench.attribution import baselines, captum
from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods import METHODS, paths
from saliency_bench.attribution.methods.gradients import smoothgrad
from saliency_bench.attribution.noise import SAMPLERS, UNITS
from saliency_bench.attribution.points import NoiseCloud
from saliency_bench.attribution.quadrature import quadrature
from saliency_bench.cli import main as cli
from saliency_bench.core import conf as conf_files
from saliency_bench.experiments import random_models
from saliency_bench.experiments.parity import pairs, premises, report
from saliency_bench.experiments.parity.pairs import Comparison, Pair, ParityModel
from saliency_bench.experiments.parity.run import premises_of
from saliency_bench.experiments.random_models import random_model, random_texts
from saliency_bench.models import references
from saliency_bench.models.references import References

#: As the names of baselines stand in a tokenizer, whatever a test makes of them.
RIGHT = {"TOKENS": dict(references.TOKENS)}

SMALL = {
    "model": "none",
    "n_examples": 2,
    "random_models": ["bert"],
    "dtypes": ["float64"],
    "n_tokens": 4,
}

pytestmark = pytest.mark.usefixtures("elsewhere")


def shortened(patch):
    """conf/validate.yaml cut to one random model in one type; what a test changes in it counts too."""
    read, own = conf_files.read, dict(SMALL)

    def cut(group, name):
        return read(group, name) | (own if group == "" else {})

    patch.setattr(conf_files, "read", cut)
    return own


@pytest.fixture
def small(monkeypatch):
    return shortened(monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The matrix of two random models: its folder, and what was printed."""
    folder = tmp_path_factory.mktemp("validate") / "here"
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for key in cli.QUIET:
            patch.setenv(key, cli.QUIET[key])
        shortened(patch)["random_models"] = ["bert", "gpt2"]
        patch.chdir(folder.parent)
        assert cli.main(["validate", f"out={folder}", "seed=3"]) == 0
    return folder, out.getvalue(), err.getvalue()


def failure(capsys, *words, code):
    assert cli.main(["validate", *words]) == code
    out, err = capsys.readouterr()
    return out, err.splitlines()[-1]


def test_every_shared_method_agrees_on_every_model_and_is_written_down(finished):
    folder, out, err = finished
    assert "random bert float64: 0 of" in err
    assert "\x1b" not in out  # no colours in a file
    assert "✗" not in out.replace("✗ differs", "")
    assert "known bias 1/(n-1) = 0.1667 at n = 7" in out
    assert {path.name for path in folder.iterdir()} == {
        "parity.csv",
        "parity.md",
        "premises.csv",
        "manifest.json",
    }
    table = (folder / "parity.csv").read_text("utf-8")
    rows = list(csv.DictReader(io.StringIO(table)))
    shared = {
        (name, backend) for backend, known in captum.BACKENDS.items() for name in known.names()
    }
    for model in ("random bert", "random gpt2"):
        own = [row for row in rows if row["model"] == model]
        assert {(row["method"], row["backend"]) for row in own} == shared
        assert {row["quadrature"] for row in own} >= set(captum.RULES)
        assert {row["statistic"] for row in own} >= set(captum.TUNNELS)
        assert {row["sampler"] for row in own} >= {"iid", "antithetic"}
    for row in rows:
        assert float(row["difference"]) <= float(row["tolerance"])
        assert row["n_texts"] == "2"
        assert bool(row["difference_copied"]) == (
            bool(row["quadrature"]) and row["known_bias"] == "0"
        )
        if row["difference_copied"]:
            assert float(row["difference_copied"]) <= float(row["tolerance_copied"]) < 1e-11
    assert {row["verdict"] for row in rows} == {"agrees", "differs by the known bias"}


def test_the_manifest_says_what_was_compared_and_names_no_place(finished):
    folder, _, _ = finished
    text = (folder / "manifest.json").read_text("utf-8")
    manifest = json.loads(text)
    assert str(folder.parent) not in text
    assert manifest["config"]["seed"] == 3
    assert manifest["n_differ"] == 0
    assert manifest["n_pairs"] == len((folder / "parity.csv").read_text("utf-8").splitlines()) - 1
    assert set(manifest["models"]) == {"random bert", "random gpt2"}
    assert all("weights_sha256" in facts for facts in manifest["models"].values())
    assert manifest["identity"]["versions"]["captum"]


def test_one_wrong_weight_ends_with_exit_code_3_and_the_methods_name(
    small, capsys, monkeypatch, elsewhere
):
    def wrong(rule, n_steps):
        nodes, weights = quadrature(rule, n_steps)
        return nodes, (weights[0] + 1e-4, *weights[1:])

    monkeypatch.setattr(paths, "rule", wrong)
    out, said = failure(capsys, code=3)
    assert said.startswith("saliency-bench: integrated_gradients")
    assert "smooth_integrated_gradients" in said
    assert "smoothgrad" not in said
    assert "✗" in out.replace("✗ differs", "")
    # What disagrees is kept as well.
    assert "differs" in (elsewhere / "results" / "validate" / "parity.csv").read_text("utf-8")


def test_a_mean_that_is_too_large_by_a_billionth_is_named(small, capsys, monkeypatch):
    @wraps(smoothgrad)
    def wrong(ctx, *, draws, noise):
        plan = smoothgrad(ctx, draws=draws, noise=noise)
        return replace(plan, sample=lambda i: [(node, 1 + 1e-9) for node, _ in plan.sample(i)])

    monkeypatch.setitem(METHODS._functions, "smoothgrad", wrong)
    _, said = failure(capsys, code=3)
    assert said.startswith("saliency-bench: smoothgrad iid on random bert in float64")
    assert "integrated_gradients" not in said


def comparison(difference, tolerance=1e-6, copied=None, bias=0.0, model="m", dtype="float64"):
    setting = next(iter(pairs.pairs(_model(), conf_files.read("", "validate")))).captum
    pair = Pair(setting.twin("native"), setting, bias)
    return Comparison(pair, model, dtype, 1, difference, tolerance, copied)


def _model():
    return random_model("bert", "float64")


def test_a_verdict_is_that_of_both_tolerances_and_what_is_no_number_differs():
    assert comparison(1e-7).verdict == "agrees"
    assert comparison(1e-7, bias=0.5).verdict == "differs by the known bias"
    assert comparison(2e-6, bias=0.5).verdict == "differs"
    assert comparison(np.nan).verdict == "differs"
    assert comparison(1e-7, copied=(1e-9, 1e-12)).verdict == "differs"
    assert comparison(1e-7, copied=(1e-13, 1e-12)).verdict == "agrees"


def test_a_pair_that_differs_by_the_known_bias_is_not_counted_as_agreeing():
    agrees, biased, differs = comparison(1e-7), comparison(1e-7, bias=0.5), comparison(1.0)
    said = [
        report.notes(found, [])[-1]
        for found in ([agrees] * 2, [agrees, agrees, biased], [agrees, biased, differs])
    ]
    assert said == [
        "All 2 pairs agree.",
        "2 of 3 pairs agree, 1 differ by the known bias and by nothing else.",
        "1 of 3 pairs agree, 1 differ by the known bias and by nothing else, 1 differ.",
    ]


def test_maps_of_zeros_agree_and_what_is_no_number_is_worst():
    zero, one = np.zeros((1, 2)), np.array([[1.0, 0.5]])
    assert pairs._relative(zero, zero) == 0
    assert pairs._relative(one, zero) == np.inf
    assert pairs._relative(one * 2, one) == 1
    subject = ParityModel("m", "float64", _model(), ())
    pair = comparison(0.0).pair
    differences = np.array([[1e-7, np.nan], [np.nan, np.nan], [0.5, np.nan]])
    tolerances = np.stack([np.full(3, 1e-6), np.full(3, np.nan)], 1)
    found = pairs._comparison(subject, pair, differences, tolerances)
    assert np.isnan(found.difference)
    assert found.copied is None


def test_a_row_without_a_pair_on_one_model_has_a_dash():
    found = [comparison(1e-7, model="a"), replace(comparison(1e-7, model="b"), model="b")]
    other = replace(found[1].pair, native=replace(found[1].pair.native, method="other"))
    tables = report.matrices([found[0], replace(found[1], pair=other)])
    assert [row[2:] for row in tables[0].rows] == [
        ("✓ 1e-07 / 1e-06", None),
        (None, "✓ 1e-07 / 1e-06"),
    ]


def test_a_random_model_belongs_to_its_seed_and_leaves_the_generator():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    facts = [random_model("gpt2", "float32", seed).facts["weights_sha256"] for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert facts[0] == facts[1] != facts[2]


def test_random_texts_are_framed_by_special_tokens():
    model = _model()
    for item in random_texts(model, 3, 5):
        assert item.special == (True, *[False] * 5, True)


def test_the_configuration_covers_what_captum_has():
    config = conf_files.read("", "validate")
    hyper = config["hyper"]
    assert set(hyper["quadrature"]) == set(captum.RULES)
    assert set(hyper["statistic"]) == set(captum.TUNNELS)
    # Weights 1/n of a power of two are exact in float32: there would be nothing to see.
    assert hyper["n_steps"] & (hyper["n_steps"] - 1)
    assert set(config["random_models"]) <= set(random_models.ARCHITECTURES)


# --- what both sides share


@pytest.fixture(scope="module")
def subject():
    model = random_model("bert", "float64")
    texts = random_texts(model, 2, 4)
    return ParityModel("random bert", "float64", model, texts)


def broken(subject):
    return {one.name for one in premises_of(subject) if not one.holds}


def test_what_captum_is_handed_is_right(subject):
    assert not broken(replace(subject, random=True))


@pytest.mark.parametrize("architecture", ["roberta", "gpt2"])
def test_what_captum_is_handed_is_right_on_other_models_in_float32(architecture):
    model = random_model(architecture, "float32")
    texts = random_texts(model, 3, 6)
    assert not broken(ParityModel(architecture, "float32", model, texts))


def test_a_unit_of_noise_that_is_read_as_absolute_is_seen(subject, monkeypatch):
    monkeypatch.setattr(
        Context, "noise_unit", lambda self, _: torch.ones(len(self.batch), dtype=torch.float64)
    )
    found = broken(replace(subject, random=True))
    assert {f"noise in std, {one}: variance" for one in SAMPLERS} < found
    assert {f"noise in range, {one}: variance" for one in SAMPLERS} < found
    assert any(name.startswith("Captum's own noise, smoothgrad") for name in found)
    assert "Captum's own noise, vargrad, iid" in found
    assert not any("absolute" in name for name in found)


def test_centred_noise_without_its_factor_is_seen(subject, monkeypatch):
    right = NoiseCloud.blocks

    def quiet(self, examples, indices, size):
        noise = right(self, examples, indices, size)
        return noise if size == 1 else noise / (size / (size - 1)) ** 0.5

    monkeypatch.setattr(NoiseCloud, "blocks", quiet)
    assert {f"noise in {unit}, centred: variance" for unit in UNITS} <= broken(subject)


def test_noise_that_is_not_normal_or_not_where_it_should_be_is_seen(subject, monkeypatch):
    right = NoiseCloud.noise

    def uniform(self, example, number):
        normal = right(self, example, number) / 2**0.5
        return 12**0.5 * (torch.special.erf(normal) / 2)

    monkeypatch.setattr(NoiseCloud, "noise", uniform)
    assert "noise in std, iid: fourth moment" in broken(subject)
    monkeypatch.setattr(NoiseCloud, "noise", lambda *of: right(*of) + 0.1)
    assert {"noise in std, iid: mean", "noise in std, iid: elsewhere"} <= broken(subject)


@pytest.mark.parametrize("name", ["mask", "pad", "unk"])
def test_a_baseline_of_another_token_is_seen(subject, monkeypatch, name):
    monkeypatch.setitem(references.TOKENS, name, "sep_token_id")
    monkeypatch.setattr(premises, "references", SimpleNamespace(**vars(references) | RIGHT))
    assert broken(subject) == {
        f"baseline {name}, special tokens {kept}" for kept in ("keep", "replace")
    }


def test_references_that_are_no_tokens_are_seen(subject, monkeypatch):
    monkeypatch.setattr(
        baselines, "random_reference", lambda ctx, *_: lambda *_: ctx.embeddings[[0] * 8] + 0.01
    )
    assert broken(subject) == {"references are token embeddings", "references that are the same"}


def test_a_broken_premise_ends_with_exit_code_3_though_all_pairs_agree(small, capsys, monkeypatch):
    monkeypatch.setattr(References, "embedding_std", 1.0)
    out, said = failure(capsys, code=3)
    assert "pairs agree" in out.replace("\n", " ")
    assert said.startswith("saliency-bench: noise in std, iid: variance on random bert in float64")
    assert "Both sides share it" in said
    assert "✗" not in out.replace("✗ differs", "")
