"""Maps of one class against another are judged by the difference of both, which they explain."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from tiny import FrameTokenizer, framed, tiny_bert, token_inputs
from torch import nn

import saliency_bench as sb
from saliency_bench.core import conf as conf_files

INPUTS = framed(*token_inputs(5, 7, 6))
LABELS = ("no", "perhaps", "yes")
TARGET = ("yes", "no")
KINDS = ["single_label_classification", "multi_label_classification"]

#: How both classes' scores are read off logits [..., C], by kind of model and output.
READ = {
    KINDS[0]: {
        "logit": lambda z: z,
        "probability": lambda z: z.softmax(-1),
        "log_probability": lambda z: z.log_softmax(-1),
    },
    KINDS[1]: {
        "logit": lambda z: z,
        "probability": lambda z: z.sigmoid(),
        "log_probability": lambda z: nn.functional.logsigmoid(z),
    },
}
OUTPUTS = tuple(READ[KINDS[0]])

#: These read an output of their own, whatever is asked for.
OWN = {
    "log_odds": "log-odds",
    "log_probability_drop": "log_probability",
    "top_k_log_probability_drop": "log_probability",
    "dig_log_odds": "log_probability",
    "faithfulness_correlation": "logit",
    "infidelity": "logit",
}


class Difference(nn.Module):
    """A classifier of two classes, whose first logit is what another model says of a class more than of another."""

    def __init__(self, inner, read):
        super().__init__()
        self.inner, self.read = inner, read

    def forward(self, input_ids, **more):
        said = self.read(self.inner(input_ids=input_ids, **more).logits)
        own = said[:, LABELS.index(TARGET[0])] - said[:, LABELS.index(TARGET[1])]
        return torch.stack([own, torch.zeros_like(own)], -1)


def bert(kind):
    module = tiny_bert()
    module.config.problem_type = kind
    return module, sb.wrap_model(module, FrameTokenizer(), labels=LABELS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_leave_one_out_of_a_contrast_agrees_with_itself(kind, output):
    """A map that is the removal's own effect has τ = 1, by whatever output both read."""
    _, model = bert(kind)
    for target in (TARGET, "contrast:runner_up|predicted"):
        maps = sb.attribute(
            model, INPUTS, "leave_one_out", target=target, output=output, removal="pad"
        )
        found = sb.evaluate(model, maps, "leave_one_out_tau", removal="pad", output=output)
        assert found["value"].tolist() == pytest.approx([1.0] * len(INPUTS), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_every_metric_is_that_of_a_model_whose_logit_is_the_difference(kind, output):
    module, model = bert(kind)
    twin = sb.wrap_model(
        Difference(module, READ[kind][output]),
        FrameTokenizer(),
        embeddings=module.get_input_embeddings(),
    )
    maps = sb.attribute(model, INPUTS, "input_x_gradient", target=TARGET)
    same = [replace(one, target=0, against=None) for one in maps]
    metrics = [name for name in conf_files.names("metric") if OWN.get(name, output) == output]
    metrics = [name for name in metrics if OWN.get(name) != "log_probability"]
    ours = sb.evaluate(model, maps, metrics, removal="pad", output=output)
    theirs = sb.evaluate(twin, same, metrics, removal="pad", output="logit")
    assert (ours.status == theirs.status).all()
    assert (ours.status == "ok").sum() > 2 * len(INPUTS) * len(metrics) / 3
    np.testing.assert_allclose(
        ours.value.astype(float), theirs.value.astype(float), rtol=1e-9, atol=1e-12
    )


#: What each word adds to the logits of three classes; removed, it adds nothing.
TABLE = torch.zeros(9, 3, dtype=torch.float64)
TABLE[5] = torch.tensor([2.0, 1.0, 3.0])
TABLE[6] = torch.tensor([-1.0, 0.5, 0.0])
TABLE[7] = torch.tensor([0.5, -4.0, 0.0])
BIAS = torch.tensor([-0.25, 1.0, 0.5], dtype=torch.float64)
TEXT = {"input_ids": [5, 6, 7]}
SCORES = [3.0, 1.0, 2.0]  # word 5 first, then 7, then 6
WITHOUT = [[5, 6, 7], [6, 7], [6], []]  # what stays without the first k


class Sums(nn.Module):
    """Logits that are sums of a table's rows: what a removed word takes away can be said by hand."""

    def __init__(self, kind):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(TABLE.clone())
        self.config = SimpleNamespace(problem_type=kind)

    def forward(self, input_ids, **_):
        return self.embedding(input_ids).sum(1) + BIAS


def judged(kind, target, metrics, **options):
    model = sb.wrap_model(Sums(kind), embeddings="embedding", labels=("a", "b", "c"))
    (like,) = sb.attribute(model, [TEXT], "random", target=target)
    one = sb.AttributionMap.from_scores(SCORES, like)
    table = sb.evaluate(model, [one], metrics, removal="zero", **options)
    assert set(table.status) == {"ok"}, list(table.reason)
    return dict(zip(table.metric, table.value, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_by_hand(kind):
    less = torch.stack([BIAS + TABLE[stays].sum(0) for stays in WITHOUT])
    only = torch.stack([BIAS + TABLE[[5, 7, 6][:k]].sum(0) for k in range(4)])
    p, q = (READ[kind]["probability"](z) for z in (less, only))
    drop = READ[kind]["log_probability"](less)
    found = judged(
        kind,
        ("a", "b"),
        ["morf", "srg", "log_odds", "log_probability_drop", "dig_log_odds"],
    )
    p, q, drop = (one[:, 0] - one[:, 1] for one in (p, q, drop))
    assert found["morf"] == pytest.approx(float(p[1:].mean()), rel=1e-12)
    assert found["srg"] == pytest.approx(float(q[:3].mean() - p[1:].mean()), rel=1e-12)
    assert found["log_probability_drop"] == pytest.approx(float(drop[1] - drop[0]), rel=1e-12)
    # A fifth of three words is none: nothing is removed.
    assert found["dig_log_odds"] == 0
    # The log-odds of a to b are the difference of their logits: 0.25 and 4.25 without the first word, 2.75 with it.
    z = less[:, 0] - less[:, 1]
    assert found["log_odds"] == pytest.approx(float(z[1] - z[0]), rel=1e-12)


FLIPS = ["decision_flip_fraction", "decision_flip_most_informative", "fewest_that_keep_the_class"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("target", "expected"),
    [
        # a - b without the first k of (5, 7, 6): 3.25, 2.25, -2.75, -1.25; with them alone: -1.25, -0.25, 4.25, 3.25.
        (("a", "b"), (2 / 3, 0.0, 2 / 3)),
        # The same decision, seen from the other side.
        (("b", "a"), (2 / 3, 0.0, 2 / 3)),
        # c - b without: 5.0, 3.0, -1.0, -0.5; alone: -0.5, 1.5, 5.5, 5.0.
        (("c", "b"), (2 / 3, 0.0, 1 / 3)),
    ],
)
def test_what_is_decided_is_which_of_the_two(kind, target, expected):
    found = judged(kind, target, FLIPS)
    assert tuple(found[name] for name in FLIPS) == pytest.approx(expected)


def test_tau_is_that_of_the_difference_and_not_of_the_first_class():
    module, model = bert(KINDS[0])
    (one,) = sb.attribute(model, INPUTS[1:2], "input_x_gradient", target=TARGET)
    ids = list(one.token_ids)

    def logit(ids):
        with torch.no_grad():
            z = module(input_ids=torch.tensor([ids])).logits[0]
        return float(z[2] - z[0])

    pad, words = FrameTokenizer.pad_token_id, range(1, len(ids) - 1)
    drops = [
        logit(ids) - logit([pad if p == word else t for p, t in enumerate(ids)]) for word in words
    ]
    expected = kendalltau(one.scores[1:-1], drops).statistic
    found = sb.evaluate(model, [one], "leave_one_out_tau", removal="pad", output="logit")
    assert found["value"][0] == pytest.approx(expected, abs=1e-12)


def test_a_saved_contrast_is_judged_like_the_one_that_was_made(tmp_path):
    _, model = bert(KINDS[0])
    (one,) = sb.attribute(model, INPUTS[:1], "vanilla", target=TARGET)
    one.save(tmp_path / "map.json")
    again = sb.AttributionMap.load(tmp_path / "map.json")
    assert (again.target, again.against) == (2, 0)
    made, loaded = (sb.evaluate(model, [m], ["srg"], removal="pad").value[0] for m in (one, again))
    assert made == loaded
