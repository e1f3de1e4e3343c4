"""Every task on several architectures: Captum's numbers, no dependence on neighbours, and a sum that comes out."""

import numpy as np
import pytest
import torch
from finding import PASSES, SAME
from heads import TEXTS, examine
from tiny_heads import EVERY_HEAD, tiny_model, word_tokenizer

import saliency_bench as sb


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return word_tokenizer(tmp_path_factory.mktemp("words"))


@pytest.mark.parametrize(("task", "kind"), EVERY_HEAD)
def test_every_head_has_captums_numbers_alone_beside_others_or_padded_and_adds_up(task, kind):
    found = examine(task, kind)
    assert found.status == PASSES, found
    # These heads compute in float64 throughout, so that neither neighbours nor padding change more than its rounding.
    assert max(found.beside, found.padded) <= SAME


@pytest.mark.parametrize("task", ["token-classification", "fill-mask", "question-answering"])
def test_attention_is_that_of_the_token_asked_about(task, tokenizer):
    """By the plain model's own attention: the row of the token whose answer is explained."""
    model = tiny_model(task, "bert", tokenizer)
    model.module.config._attn_implementation = "eager"
    at = {"at": "all"} if task == "token-classification" else {}
    found = sb.attribute(model, TEXTS[task][:1], "raw_attention", **at)
    assert len(found) >= 1
    for one in found:
        place = one.encoded.position if one.encoded.position is not None else one.target
        encoded = one.encoded
        inputs = {"input_ids": torch.tensor([encoded.input_ids])}
        if encoded.token_type_ids is not None:
            inputs["token_type_ids"] = torch.tensor([encoded.token_type_ids])
        with torch.no_grad():
            plain = model.module(**inputs, output_attentions=True).attentions[-1]
        np.testing.assert_allclose(one.scores, plain[0].mean(0)[place].numpy(), rtol=1e-9)


@pytest.mark.parametrize("task", TEXTS)
def test_where_a_rule_cannot_be_learnt_another_is_taken_and_it_is_said(task, tokenizer):
    model = tiny_model(task, EVERY_HEAD[[t for t, _ in EVERY_HEAD].index(task)][1], tokenizer)
    with pytest.warns(UserWarning, match="calibrated for classifiers alone.*50 of Gauss-Legendre"):
        learnt = sb.attribute(
            model, TEXTS[task], "integrated_gradients", quadrature="calibrated", n_steps=6
        )
    fixed = sb.attribute(
        model, TEXTS[task], "integrated_gradients", quadrature="gauss_legendre", n_steps=50
    )
    for one, other in zip(learnt, fixed, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
