"""Class, probability, F(x) and the gradient at x from one pass, against the passes made one by one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from laws.oracles import bert, encoded
from tiny import FrameTokenizer, framed, token_inputs

from saliency_bench.attribution.settings import expand
from saliency_bench.core.conf import method_defaults
from saliency_bench.models.references import References
from saliency_bench.studies.block import open_block

#: Rounding of passes of one size, of which one keeps what a gradient needs.
CLOSE = 1e-12
NAMES = ("vanilla", "input_x_gradient", "input_baseline_x_gradient", "integrated_gradients")


@pytest.fixture(scope="module")
def model():
    return replace(bert(torch.float64), tokenizer=FrameTokenizer())


def settings_of(outputs, **changes):
    entries = {}
    for name in NAMES:
        entry = method_defaults(name) | {"output": outputs}
        if "baseline" in entry:
            entry["baseline"] = "zero"
        if "n_steps" in entry:
            entry |= {"n_steps": 3, "quadrature": "clenshaw_curtis"}
        entries[name] = entry | changes
    return expand(entries)


@pytest.mark.parametrize("outputs", [["logit"], ["logit", "probability"]])
@pytest.mark.parametrize("target", ["predicted", 1, ("0", "2")])
def test_one_pass_gives_what_passes_one_by_one_give(model, outputs, target):
    texts = encoded(model, framed(*token_inputs(4, 6, 6)))  # a block with padding
    settings = [setting.at(target) for setting in settings_of(outputs)]
    with model.frozen():
        apart = open_block(References(model), texts, target, 1000)
        together = open_block(References(model), texts, target, 1000, settings)
        assert together.explained_classes.tolist() == apart.explained_classes.tolist()
        np.testing.assert_allclose(together.logits, apart.logits, rtol=0, atol=CLOSE)
        assert not together.logits.requires_grad
        expected, found = apart.explain(settings), together.explain(settings)
    for key, maps in found.items():
        for one, other in zip(maps, expected[key], strict=True):
            np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=CLOSE)
            assert (one.label, one.n_gradients) == (other.label, other.n_gradients)


def test_a_text_is_passed_once_for_all_that_the_gradient_at_it_can_say(model, monkeypatch):
    texts = encoded(model, framed(*token_inputs(6, 6)))
    settings = settings_of(["logit", "probability"])[:4]  # vanilla and gradient x input
    assert {setting.method for setting in settings} == {"vanilla", "input_x_gradient"}
    with model.frozen():
        refs = References(model)
        open_block(refs, texts, "predicted", 1000, settings).explain(settings)  # learns the model
        seen = []
        note = lambda *shape, gradient: seen.append((*shape, gradient))  # noqa: E731
        monkeypatch.setattr(model.ledger, "note", note)
        open_block(refs, texts, "predicted", 1000, settings).explain(settings)
    assert seen == [(2, len(texts[0]), True)]


def test_a_backward_rule_has_its_own_gradient(model):
    texts = encoded(model, framed(*token_inputs(6)))
    plain = expand({"vanilla": method_defaults("vanilla")})
    with model.frozen():
        block = open_block(References(model), texts, "predicted", 1000, plain)
        context = block.context("logit", 0)
        assert context.clean_gradients.keys() == {"logit"}
        assert context.under("attnlrp").clean_gradients == {}
        assert block.context("probability", 0).clean_gradients.get("probability") is None


def test_where_the_joint_pass_does_not_fit_in_memory_it_is_made_in_parts(model, monkeypatch):
    def too_large(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    texts, settings = encoded(model, framed(*token_inputs(6, 6))), settings_of(["logit"])
    with model.frozen():
        expected = open_block(References(model), texts, "predicted", 1000).explain(settings)
        with monkeypatch.context() as patch:
            patch.setattr("saliency_bench.studies.block.logits_fn", too_large)
            block = open_block(References(model), texts, "predicted", 1000, settings)
        found = block.explain(settings)
    for key, maps in found.items():
        for one, other in zip(maps, expected[key], strict=True):
            np.testing.assert_array_equal(one.scores, other.scores)
