"""Backward rules against relevance by hand, and where they are refused."""

import re
import threading
from collections import Counter

import numpy as np
import pytest
import torch
from laws import relevance
from tiny import FrameTokenizer, scored_by, tiny_bert, token_inputs
from tiny_families import build, scrambled
from transformers.models.llama import modeling_llama

import saliency_bench as sb
from saliency_bench.attribution.backward import RULES
from saliency_bench.attribution.backward.makers import noted_makers
from saliency_bench.attribution.backward.parts import change_backward, noted_inputs
from saliency_bench.attribution.methods import ABOUT, METHODS
from saliency_bench.cli import config
from saliency_bench.core.errors import InputError
from saliency_bench.core.labels import setting_labels
from saliency_bench.core.method_facts import backward_parts

T = 6
#: Scores are divided and multiplied by numbers as small as 1e-4 of the largest on the way, in float64.
SAME = 1e-10


@pytest.fixture(scope="module")
def model():
    return sb.wrap_model(tiny_bert(), FrameTokenizer(), labels=("a", "b", "c"))


def relevance_of(module, item, rule):
    """Gradient × input [T D] of the first logit, by a rule."""
    model = sb.wrap_model(module, FrameTokenizer(), labels=("a", "b", "c"))
    ids = torch.tensor([item["input_ids"]])
    with model.frozen(), torch.enable_grad(), noted_inputs():
        points = model.embed(ids).requires_grad_()
        logits = model.output(ids, None, None, points)
    change_backward(logits, RULES[rule], "test")
    (gradient,) = torch.autograd.grad(logits[0, 0], points)
    return (gradient * points)[0].detach().numpy()


class Float64:
    """PyTorch, in which float32 is float64."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@pytest.mark.parametrize("rule", ["attnlrp", "cp_lrp"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_gradient_times_input_is_relevance_by_hand(family, rule, monkeypatch):
    monkeypatch.setattr(modeling_llama, "torch", Float64())  # its norm casts to float32
    module = build(family)
    (item,) = token_inputs(T)
    expected, kept = getattr(relevance, family)(module, item["input_ids"], 0, rule == "cp_lrp")
    found = relevance_of(module, item, rule)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=SAME * largest)
    # What words, positions, biases and softmax have is the whole output.
    logit = kept.pop("logit")
    parts = [expected.sum(), *kept.values()]
    assert abs(sum(parts) - logit) <= SAME * sum(map(abs, parts))
    if family == "bert":
        assert kept["bias"] and kept["positions"] and kept["types"]
    assert ("softmax" in kept) == (rule == "attnlrp")


def test_by_hand_cp_lrp_and_attnlrp_differ():
    (item,) = token_inputs(T)
    one, other = (
        relevance.bert(build("bert"), item["input_ids"], 0, cp)[0] for cp in (True, False)
    )
    assert np.abs(one - other).max() > 0.01 * np.abs(one).max()


class Attention(torch.nn.Module):
    """Two heads of attention on what is embedded, written out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(50, 8, dtype=torch.float64)
        self.q, self.k, self.v = (torch.nn.Linear(8, 8, dtype=torch.float64) for _ in range(3))
        self.head = torch.nn.Linear(8, 2, dtype=torch.float64)

    def forward(self, input_ids: torch.Tensor, **_: torch.Tensor) -> torch.Tensor:
        """Logits [B 2]."""
        x = self.embedding(input_ids)
        q, k, v = (one(x).unflatten(-1, (2, 4)).transpose(1, 2) for one in (self.q, self.k, self.v))
        p = (q @ k.mT / 2).softmax(-1)
        return self.head((p @ v).transpose(1, 2).flatten(2).mean(1))


def test_gim_tempers_the_jacobian_of_softmax():
    """dL/dS = p̃ (g - Σ p̃ g), p̃ = softmax(S / 2), a quarter to queries and keys and half to values."""
    module = scrambled(Attention().eval(), seed=4)
    (item,) = token_inputs(T)
    found = relevance_of(module, item, "gim")
    w = relevance.arrays(module)
    x = w["embedding.weight"][item["input_ids"]]
    q, k, v = (
        np.stack(np.split(x @ w[f"{one}.weight"].T + w[f"{one}.bias"], 2, axis=1)) for one in "qkv"
    )
    out = np.stack(np.split(np.tile(w["head.weight"][0] / T, (T, 1)), 2, axis=1))
    scores = q @ k.transpose(0, 2, 1) / 2
    p, softer = relevance.softmax(scores), relevance.softmax(scores / 2)
    of_p = out @ v.transpose(0, 2, 1)
    of_scores = softer * (of_p - (softer * of_p).sum(-1, keepdims=True)) / 2
    parts = {
        "q": of_scores @ k / 4,
        "k": of_scores.transpose(0, 2, 1) @ q / 4,
        "v": p.transpose(0, 2, 1) @ out / 2,
    }
    gradient = sum(
        np.concatenate([*part], axis=1) @ w[f"{one}.weight"] for one, part in parts.items()
    )
    np.testing.assert_allclose(found, gradient * x, rtol=0, atol=1e-12 * np.abs(found).max())


def test_where_a_nonlinearity_is_given_zero_its_gradient_is_its_slope():
    for function in (torch.tanh, torch.nn.functional.gelu, torch.nn.functional.silu):
        slope = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        (expected,) = torch.autograd.grad(function(slope).sum(), slope)
        x = torch.tensor([[0.0, 1e-310, 0.7, -40.0]], dtype=torch.float64, requires_grad=True)
        with noted_inputs():
            y = function(x * 1)
        change_backward(y, RULES["attnlrp"], "test")
        (found,) = torch.autograd.grad(y.sum(), x)
        usual = (function(x) / x)[0, 2:].detach()
        assert torch.equal(found[0, :2], expected.expand(2))
        assert torch.allclose(found[0, 2:], usual, rtol=1e-15, atol=0)


def test_a_rule_leaves_no_hook_and_threads_do_not_disturb_each_other(model):
    before = [(len(one._forward_hooks), len(one._backward_hooks)) for one in model.module.modules()]
    inputs = token_inputs(4, 5, 6)
    alone = {
        rule: [one.scores for one in sb.attribute(model, inputs, "input_x_gradient", backward=rule)]
        for rule in ("plain", *RULES)
    }
    found = {}

    def work(rule):
        for _ in range(3):
            maps = sb.attribute(model, inputs, "input_x_gradient", backward=rule)
            found[rule] = [one.scores for one in maps]

    threads = [threading.Thread(target=work, args=(rule,)) for rule in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rule, scores in alone.items():
        for one, other in zip(found[rule], scores, strict=True):
            np.testing.assert_array_equal(one, other)
    after = [(len(one._forward_hooks), len(one._backward_hooks)) for one in model.module.modules()]
    assert after == before


# -- settings -----------------------------------------------------------------------------------------------------


def test_plain_is_no_part_of_a_setting(model):
    said, unsaid = (
        sb.attribute(model, token_inputs(4), "vanilla", **given)[0].setting
        for given in ({"backward": "plain"}, {})
    )
    assert said == unsaid and "backward" not in said


def test_a_named_entry_is_the_setting_that_it_names(model):
    inputs = token_inputs(4)
    for rule in RULES:
        for suffix, method in (
            ("", "input_x_gradient"),
            ("_baseline", "input_baseline_x_gradient"),
        ):
            (named,) = sb.attribute(model, inputs, rule + suffix)
            (other,) = sb.attribute(model, inputs, method, backward=rule)
            assert named.setting["setting_id"] == other.setting["setting_id"]
            np.testing.assert_array_equal(named.scores, other.scores)


def test_labels_name_the_rule(model):
    maps = sb.attribute(model, token_inputs(4), "integrated_gradients", backward=["plain", "gim"])
    maps += sb.attribute(model, token_inputs(4), "attnlrp_baseline")
    labels = list(setting_labels([one.setting for one in maps]).values())
    assert labels[0] == "Integrated Gradients (backward=plain)"
    assert labels[1] == "Integrated Gradients, GIM (backward=gim)"
    assert labels[2] == "AttnLRP × (input − baseline)"


def test_a_list_is_an_axis_of_the_command_too():
    cfg = config.load(
        [
            "~experiment",
            "method=[input_x_gradient]",
            "method.input_x_gradient.backward=[plain,cp_lrp]",
        ]
    )
    plain, ruled = config.settings(cfg)
    assert "backward" not in plain.hyper and ruled.hyper == {"backward": "cp_lrp"}


# -- bad input ----------------------------------------------------------------------------------------------------


def refusals(model, method, **given):
    """What Python and the command say."""
    with pytest.raises(InputError) as python:
        sb.attribute(model, token_inputs(4), method, **given)
    words = [f"method.{method}.{key}={value}" for key, value in given.items() if key != "backend"]
    backend = [f"backend=[{given['backend']}]"] if "backend" in given else []
    with pytest.raises(InputError) as command:
        config.settings(config.load(["~experiment", f"method=[{method}]", *words, *backend]))
    return str(python.value), str(command.value)


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        ("vanilla", {"backward": "attnlpr"}, "unknown method.vanilla.backward 'attnlpr'; did you mean 'attnlrp'"),
        ("vanilla", {"backward": "gim", "backend": "captum"}, "the captum backend has no backward rules"),
        ("vargrad", {"backward": "gim"}, "multiplied by the input and not squared"),
        ("smoothgrad_squared", {"backward": "gim"}, "multiplied by the input and not squared"),
        ("raw_attention", {"backward": "gim"}, "it takes no gradient that a backward rule could change"),
        ("gradient_attention", {"backward": "gim"}, "gradient with respect to attention"),
        ("kernel_shap", {"backward": "gim"}, "it takes no gradient"),
        ("integrated_gradients_adaptive", {"backward": "gim"}, "it estimates its error from differences of F"),
        ("idgi", {"backward": "gim"}, "it distributes differences of F"),
        ("deep_lift", {"backward": "gim"}, "it is computed by Captum"),
        ("allennlp_simple_gradient", {"backward": "gim"}, "it reproduces another system"),
        ("smooth_integrated_gradients", {"backward": "gim", "statistic": "variance"}, "multiplied by the input and not squared"),
    ],
)  # fmt: skip
def test_a_rule_without_a_meaning_is_refused_by_both_in_one_sentence(model, method, given, said):
    for refusal in refusals(model, method, **given):
        assert said in refusal
        assert "\n" not in refusal


def test_methods_either_take_rules_or_are_refused():
    takes = {name for name in METHODS.names() if ABOUT[name].backward}
    assert takes == {
        "vanilla", "input_x_gradient", "input_baseline_x_gradient", "smoothgrad", "smoothgrad_x_input",
        "integrated_gradients", "smooth_integrated_gradients", "sequential_integrated_gradients",
        "expected_gradients", "gradient_shap",
    }  # fmt: skip


def scored(score):
    return scored_by(score, tokenizer=FrameTokenizer())


@pytest.mark.parametrize(
    ("score", "rule", "said"),
    [
        (lambda e: e.sum((1, 2)), "attnlrp", "has no normalisation, no nonlinearity, no product"),
        (lambda e: e.sigmoid().sum((1, 2)), "attnlrp", "Sigmoid is not 0 at 0"),
        (lambda e: (e[:, :1] * e[:, 1:2]).sum((1, 2)), "cp_lrp", "neither is a gate"),
        (lambda e: (e / (1 + e.square().sum(-1, keepdim=True).cumsum(1))).sum((1, 2)), "gim", "divides by an activation"),
        (lambda e: torch.logsumexp(e.sum(-1), 1), "gim", "Logsumexp is no operation that the rule knows"),
        (lambda e: (e.sum((1, 2)).detach() * 0 + e.sum(-1).softmax(1)[:, 0]), "cp_lrp", "that it takes as a constant"),
        (lambda e: (2 * e).tanh_().sum((1, 2)), "attnlrp", "the input of a tanh was not kept"),
    ],
)  # fmt: skip
def test_a_model_beyond_a_rule_is_refused_by_the_name_of_the_part(score, rule, said):
    with pytest.raises(InputError) as refusal:
        sb.attribute(scored(score), token_inputs(4), "input_x_gradient", backward=rule)
    assert said in str(refusal.value) and f"backward={rule}" in str(refusal.value)


def test_a_compiled_module_is_refused_by_name(model):
    compiled = torch.compile(tiny_bert(), backend="eager")
    with pytest.raises(InputError, match="compile"):
        sb.attribute(
            sb.wrap_model(compiled, FrameTokenizer()), token_inputs(4), "vanilla", backward="gim"
        )


@pytest.mark.filterwarnings("ignore")  # PyTorch says that it will not quantise in this way for ever
def test_a_quantised_module_is_refused_by_name(model):
    quantised = torch.ao.quantization.quantize_dynamic(tiny_bert(torch.float32), {torch.nn.Linear})
    with pytest.raises(InputError, match="is quantised"):
        sb.attribute(
            sb.wrap_model(quantised, FrameTokenizer()), token_inputs(4), "vanilla", backward="gim"
        )


# -- where the parts are ------------------------------------------------------------------------------------------


def test_a_map_says_in_which_modules_its_rule_acts(model):
    """Against the modules themselves: a LayerNorm and a GELU are in the modules that are these."""
    (plain, ruled) = sb.attribute(
        model, token_inputs(4), "input_x_gradient", backward=["plain", "cp_lrp"]
    )
    parts = backward_parts(ruled.setting)
    assert backward_parts(plain.setting) == {} and "backward_parts" not in plain.setting["facts"]
    paths = dict(model.module.named_modules())
    norms = Counter(
        re.sub(r"\.\d+\.", ".*.", path)
        for path, module in paths.items()
        if isinstance(module, torch.nn.LayerNorm)
    )
    assert parts["normalisation"] == norms
    assert parts["nonlinearity"] == {
        "bert.encoder.layer.*.intermediate.intermediate_act_fn": 2,
        "bert.pooler.activation": 1,
    }
    assert parts["softmax"] == {"bert.encoder.layer.*.attention.self": 2}
    assert parts["product"] == {}  # named as absent: BERT has no gates
    said = "cp_lrp acts at 5 normalisation, 3 nonlinearity, no product, 2 softmax"
    assert said in ruled._repr_html_()
    assert ruled.to_record()["setting"]["facts"]["backward_parts"] == parts


def test_seeing_where_parts_are_leaves_no_hook(model):
    def hooks():
        return [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.module.modules()]

    before = hooks()
    sb.attribute(model, token_inputs(4), "attnlrp")
    assert hooks() == before
    with pytest.raises(RuntimeError, match="stop"), noted_makers(model.module):
        raise RuntimeError("stop")
    assert hooks() == before
