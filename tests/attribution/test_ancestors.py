"""AllenNLP's and koren-v's numbers: their formulas written out one text at a time, and Captum where it has the same."""

import numpy as np
import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients
from scipy.stats import spearmanr
from tiny import FrameTokenizer, framed, tiny_bert, token_inputs
from torch.nn import functional

import saliency_bench as sb
from saliency_bench.cli import config
from saliency_bench.core.errors import InputError
from saliency_bench.core.random import generator_for
from saliency_bench.core.seeding import token_hash
from saliency_bench.models.loading import wrap_model

INPUTS = framed(*token_inputs(5, 8, 5, 3))


@pytest.fixture(scope="module")
def model():
    return wrap_model(tiny_bert(), tokenizer=FrameTokenizer())


def one_by_one(model, own):
    """A formula of (embeddings [T D], gradient of the loss, class) on each text alone, as these systems run."""
    found = []
    for ids in INPUTS:
        tensor = torch.tensor([ids["input_ids"]])
        start = model.module.get_input_embeddings()(tensor).detach()[0]

        def logits(points):
            return model.module.eval()(inputs_embeds=points[None]).logits

        label = int(logits(start).argmax())

        def gradient(points, label=label, relabel=False, logits=logits):
            points = points.detach().requires_grad_()
            said = logits(points)
            if relabel:
                label = int(said.argmax())
            loss = functional.cross_entropy(said, torch.tensor([label]))
            return torch.autograd.grad(loss, points)[0]

        raw = own(start, gradient, ids["input_ids"]).sum(-1).abs()
        found.append((raw / raw.sum()).numpy())
    return found


def check(maps, expected, rtol=1e-9):
    for one, wanted in zip(maps, expected, strict=True):
        np.testing.assert_allclose(one.scores, wanted, rtol=rtol, atol=1e-12)
        assert one.scores.sum() == pytest.approx(1, abs=1e-12)


def test_simple_gradient_is_gradient_times_the_tokens_own_embedding(model):
    maps = sb.attribute(model, INPUTS, "allennlp_simple_gradient", multiplied_by="own")
    check(maps, one_by_one(model, lambda e, g, _: g(e) * e))


def test_simple_gradient_as_shipped_takes_the_first_tokens_embedding_for_all(model):
    maps = sb.attribute(model, INPUTS, "allennlp_simple_gradient", multiplied_by="first")
    check(maps, one_by_one(model, lambda e, g, _: g(e) * e[0]))


@pytest.mark.parametrize("relabel", [False, True])
@pytest.mark.parametrize("n_steps", [10, 20])
def test_integrated_gradient_is_the_left_rule_from_zero(model, n_steps, relabel):
    maps = sb.attribute(
        model, INPUTS, "allennlp_integrated_gradient", n_steps=n_steps, relabel=relabel
    )

    def own(e, g, _):
        alphas = np.linspace(0, 1, n_steps, endpoint=False)
        return e * sum(g(alpha * e, relabel=relabel) for alpha in alphas) / n_steps

    check(maps, one_by_one(model, own))


def test_the_drifting_target_changes_the_numbers(model):
    fixed, drifting = (
        sb.attribute(model, INPUTS, "allennlp_integrated_gradient", n_steps=20, relabel=relabel)
        for relabel in (False, True)
    )
    apart = [np.abs(a.scores - b.scores).max() for a, b in zip(fixed, drifting, strict=True)]
    assert max(apart) > 0.01


def test_smooth_gradient_averages_sums_under_noise_of_the_texts_own_range():
    # A model without LayerNorm after its embedding, where the sum is no rounding noise.
    class Bag(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.words = torch.nn.Embedding(60, 6, dtype=torch.float64)
            self.out = torch.nn.Linear(6, 3, dtype=torch.float64)

        def forward(self, input_ids):
            return self.out(torch.tanh(self.words(input_ids)).sum(1))

    module = Bag()
    model = wrap_model(module, tokenizer=FrameTokenizer())
    maps = sb.attribute(
        model, INPUTS, "allennlp_smooth_gradient", n_samples=5, stdev=0.2, relabel=False
    )
    for one, ids in zip(maps, INPUTS, strict=True):
        e = module.words(torch.tensor(ids["input_ids"])).detach()
        label = int(module(torch.tensor([ids["input_ids"]])).argmax())
        sigma = 0.2 * (e.max() - e.min())
        total = torch.zeros_like(e)
        for sample in range(5):
            stream = generator_for("cpu", "allennlp", 0, token_hash(ids["input_ids"]), sample)
            noise = torch.randn(e.shape, generator=stream, dtype=torch.float64)
            points = (e + sigma * noise).requires_grad_()
            said = module.out(torch.tanh(points).sum(0))
            loss = functional.cross_entropy(said[None], torch.tensor([label]))
            total += torch.autograd.grad(loss, points)[0]
        raw = total.sum(-1).abs().numpy()
        np.testing.assert_allclose(one.scores, raw / raw.sum(), rtol=1e-9)


def test_they_are_captums_left_rule_and_input_x_gradient_of_the_same_loss(model):
    ids = torch.tensor([INPUTS[1]["input_ids"]])
    start = model.module.get_input_embeddings()(ids).detach().requires_grad_()
    label = model.module.eval()(input_ids=ids).logits.argmax(-1)

    def loss(points):
        said = model.module(inputs_embeds=points).logits
        return -functional.cross_entropy(said, label.expand(len(points)), reduction="none")

    options = {"method": "riemann_left", "n_steps": 10}
    for name, theirs in (
        (
            "allennlp_integrated_gradient",
            IntegratedGradients(loss).attribute(start, 0 * start, **options),
        ),
        ("allennlp_simple_gradient", InputXGradient(loss).attribute(start)),
    ):
        raw = theirs.detach()[0].sum(-1).abs().numpy()
        (ours,) = sb.attribute(model, [INPUTS[1]], name)
        np.testing.assert_allclose(ours.scores, raw / raw.sum(), rtol=1e-6, atol=1e-9)


def test_with_layer_norm_after_the_embedding_the_sum_of_smooth_gradient_is_rounding_noise(model):
    # f(e + c) = f(e) for any number c, so that the sum over dimensions of the gradient at any point is 0.
    def own(e, g, _):
        sums = g(e + 0.01 * torch.randn(e.shape, dtype=e.dtype))
        assert sums.sum(-1).abs().max() < 1e-12 * sums.abs().sum(-1).max()
        return sums

    one_by_one(model, own)
    with pytest.raises(InputError, match="rounding noise"):
        sb.attribute(model, INPUTS, "smoothgrad", reduction="sum")


def test_behind_the_layer_norm_that_the_article_hooks_the_sum_is_a_number_that_seeds_agree_on():
    # bert.embeddings ends in its LayerNorm: what reads it is changed by a constant, so that the sum is no 0.
    hooked = wrap_model(tiny_bert(), tokenizer=FrameTokenizer(), encoder="bert")
    (longer,) = framed(*token_inputs(30))
    first, second = (
        sb.attribute(hooked, [longer], "allennlp_smooth_gradient", seed=seed)[0].scores
        for seed in (0, 1)
    )
    # Ranks of 32 tokens by chance: a correlation of 0 with a standard deviation of 1 / sqrt(31) = 0.18.
    assert spearmanr(first, second).statistic > 4 * 0.18
    assert sb.attribute(
        hooked, [longer], "smoothgrad", reduction="sum", noise_std=None, noise_range=0.01
    )


def test_what_they_cannot_explain_is_refused(model):
    with pytest.raises(InputError, match="contrast"):
        sb.attribute(model, INPUTS, "allennlp_simple_gradient", target=(0, 1))
    with pytest.raises(InputError, match="'first'"):
        sb.attribute(model, INPUTS, "allennlp_simple_gradient", multiplied_by="frist")


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        (
            "allennlp",
            {
                "allennlp_simple_gradient": 2,
                "allennlp_smooth_gradient": 1,
                "allennlp_integrated_gradient": 1,
            },
        ),
        ("koren", {"allennlp_smooth_gradient": 1, "allennlp_integrated_gradient": 1}),
        (
            "captum",
            {"vanilla": 1, "input_x_gradient": 1, "smoothgrad": 1, "integrated_gradients": 1},
        ),
    ],
)
def test_a_preset_asks_for_these_methods(preset, settings):
    cfg = config.load([f"preset={preset}", "~experiment"])
    config.validate(cfg)
    found = [one.name for one in config.settings(cfg)]
    both = {"random": 1, "leave_one_out": 1}
    assert {name: found.count(name) for name in found} == settings | both
    if preset == "koren":
        assert all(one.hyper.get("relabel", True) for one in config.settings(cfg))
