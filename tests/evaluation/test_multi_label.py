"""Models whose classes do not exclude each other: metrics read each class's own probability, its sigmoid."""

from dataclasses import replace
from math import exp, log
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import framed, tiny_bert, token_inputs
from tiny_heads import word_tokenizer
from torch import nn

import saliency_bench as sb
from saliency_bench.cli import main as cli
from saliency_bench.core import conf as conf_files
from saliency_bench.experiments.sanity.random_removal import _sureness
from saliency_bench.models.loading import wrap_model

#: What each word adds to the logits of three classes; removed, it adds nothing.
TABLE = torch.zeros(9, 3, dtype=torch.float64)
TABLE[5] = torch.tensor([2.0, 1.0, 3.0])
TABLE[6] = torch.tensor([-1.0, 0.5, 0.0])
TABLE[7] = torch.tensor([0.5, -4.0, 0.0])
BIAS = torch.tensor([-0.25, 1.0, 0.5], dtype=torch.float64)
TEXT = {"input_ids": [5, 6, 7]}
ORDER = [3.0, 1.0, 2.0]  # word 5 first, then 7, then 6


class Sums(nn.Module):
    """Logits that are sums of a table's rows: what a removed word takes away can be said by hand."""

    def __init__(self, problem_type="multi_label_classification"):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(TABLE.clone())
        self.config = SimpleNamespace(problem_type=problem_type)

    def forward(self, input_ids, **_):
        return self.embedding(input_ids).sum(1) + BIAS


class OneAgainstNot(nn.Module):
    """A classifier of two classes that do exclude each other: a class of the other model, and its absence."""

    def __init__(self, inner, index):
        super().__init__()
        self.inner, self.index = inner, index

    def forward(self, input_ids, **more):
        outputs = self.inner(input_ids=input_ids, **more)
        own = getattr(outputs, "logits", outputs)[:, self.index]
        return torch.stack([own, torch.zeros_like(own)], -1)


def sigmoid(z):
    return 1 / (1 + exp(-z))


def judged(model, target, metrics, **options):
    (like,) = sb.attribute(model, [TEXT], "random", target=target)
    one = sb.AttributionMap.from_scores(ORDER, like)
    table = sb.evaluate(model, [one], metrics, removal="zero", **options)
    assert set(table.status) == {"ok"}, list(table.reason)
    return dict(zip(table.metric, table.value, strict=True))


@pytest.fixture
def model():
    return wrap_model(Sums(), embeddings="embedding", labels=("a", "b", "c"))


def test_curves_by_hand(model):
    # Class a: -0.25 and 2, -1, 0.5 for the words. Without the first k of (5, 7, 6): 1.25, -0.75, -1.25, -0.25.
    less = [sigmoid(z) for z in (1.25, -0.75, -1.25, -0.25)]
    # With only the first k: -0.25, 1.75, 2.25, 1.25.
    only = [sigmoid(z) for z in (-0.25, 1.75, 2.25, 1.25)]
    found = judged(model, "a", ["morf", "lerf", "srg", "log_odds", "log_probability_drop"])
    assert found["morf"] == pytest.approx(sum(less[1:]) / 3, rel=1e-12)
    # Without the k least relevant: k = 1 ... 3 leaves 2, 1, 0 of the most relevant.
    assert found["lerf"] == pytest.approx(sum(only[:3]) / 3, rel=1e-12)
    assert found["srg"] == pytest.approx((sum(only[:3]) - sum(less[1:])) / 3, rel=1e-12)
    assert found["log_odds"] == pytest.approx(-0.75 - 1.25, rel=1e-12)  # log p/(1 - p) is the logit
    assert found["log_probability_drop"] == pytest.approx(log(less[1]) - log(less[0]), rel=1e-12)
    logits = judged(model, "a", ["morf"], output="logit")
    assert logits["morf"] == pytest.approx((-0.75 - 1.25 - 0.25) / 3, rel=1e-12)


FLIPS = ["decision_flip_fraction", "decision_flip_most_informative", "fewest_that_keep_the_class"]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        # a is there (1.25), and gone without the first word (-0.75); the first word brings it back.
        ("a", (1 / 3, 1.0, 1 / 3)),
        # b is not (-1.5): without the first it is not (-2.5), without the first two it is (1.5). Only the first: it is
        # (2.0); the first two: it is not (-2.0).
        ("b", (2 / 3, 0.0, 2 / 3)),
        # c is always there (3.5, 0.5, 0.5, 0.5): nothing takes it away, and the empty text has it.
        ("c", (1.0, 0.0, 0.0)),
    ],
)
def test_a_decision_is_whether_a_class_is_there_and_flips_at_one_half(model, target, expected):
    found = judged(model, target, FLIPS)
    assert tuple(found[name] for name in FLIPS) == pytest.approx(expected)


def test_every_metric_is_that_of_a_classifier_of_the_class_against_its_absence():
    """An independent model says the same in other words, for every metric and every output."""
    inner = tiny_bert()
    inner.config.problem_type = "multi_label_classification"
    many = wrap_model(inner)
    texts, metrics = framed(*token_inputs(5, 7)), conf_files.names("metric")
    for target in (0, 2):
        maps = sb.attribute(many, texts, "input_x_gradient", target=target)
        twin = wrap_model(OneAgainstNot(inner, target), embeddings=inner.get_input_embeddings())
        same = [replace(one, target=0) for one in maps]
        for output in ("probability", "log_probability", "logit"):
            options = {"removal": "zero", "output": output}
            ours, theirs = (
                sb.evaluate(one, own, metrics, **options)
                for one, own in ((many, maps), (twin, same))
            )
            assert (ours.status == theirs.status).all()
            assert (ours.status == "ok").sum() > 40
            np.testing.assert_allclose(
                ours.value.astype(float), theirs.value.astype(float), rtol=1e-9, atol=1e-12
            )


def test_leave_one_out_and_beam_search_read_the_same_output(model):
    (one,) = sb.attribute(
        model, [TEXT], "leave_one_out", target="a", output="probability", removal="zero"
    )
    without = [sigmoid(1.25 - value) for value in TABLE[[5, 6, 7], 0].tolist()]
    np.testing.assert_allclose(one.scores, sigmoid(1.25) - np.array(without), rtol=1e-12)
    # The best order takes the words that speak for a first: 5 (2.0), 7 (0.5), 6 (-1.0).
    (best,) = sb.attribute(model, [TEXT], "beam_search", target="a", removal="zero")
    assert best.scores.tolist() == [3, 1, 2]


def test_how_sure_a_model_is_of_its_first_class_is_its_sigmoid():
    logits = np.array([[1.0, 3.0], [-2.0, -4.0]])
    assert _sureness(logits, alone=True) == pytest.approx((sigmoid(3) + sigmoid(-2)) / 2)
    assert _sureness(logits, alone=False) == pytest.approx(sigmoid(2))


def test_a_study_of_a_multi_label_model_has_metrics_and_timings(
    tmp_path, monkeypatch, capfd, no_figures
):
    monkeypatch.chdir(tmp_path)
    module = tiny_bert().float()
    module.config.problem_type = "multi_label_classification"
    module.save_pretrained(tmp_path / "model")
    word_tokenizer(tmp_path / "model").save_pretrained(tmp_path / "model")
    (tmp_path / "texts.csv").write_text("text\nthe capital of france\nwhat is a w1\n", "utf-8")
    words = ["~experiment", "model=hub", "model.path=model", "data=file", "data.path=texts.csv"]
    words += ["method=[vanilla,random]", "metric=[srg,completeness_gap,decision_flip_fraction]"]
    words += ["evaluation.removal=mask", "convergence.n_examples=0", "runtime.threads=1"]
    words += ["timing.enabled=true", "timing.n_examples=1", "timing.n_repeats=2", "out=run"]
    assert cli.main(words) == 0, capfd.readouterr().err
    from saliency_bench.store.run import read_run

    run = read_run(tmp_path / "run")
    rows = run.tables["rows"]
    assert (rows[rows["metric"] != "completeness_gap"]["status"] == "ok").all()
    assert len(run.tables["timings"]) > 0
    # The curves start at the sigmoid of the class, which the maps have as its probability.
    curves, maps = run.tables["curves"], run.tables["maps"]
    start = curves[curves["k"] == 0].set_index(["setting_id", "example_id"])["deletion"]
    said = maps.set_index(["setting_id", "example_id"])["probability"]
    np.testing.assert_allclose(start.loc[said.index], said, rtol=1e-5)
