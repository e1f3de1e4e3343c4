"""Every task on several architectures: Captum's numbers, no dependence on neighbours, and a sum that comes out."""

from copy import copy

import numpy as np
import pytest
import torch
from tiny_heads import EVERY_HEAD, tiny_model, word_tokenizer

import saliency_bench as sb
from saliency_bench.errors import InputError

MASKED = "the capital of france is [MASK] ."
TEXTS = {
    "token-classification": ["the capital of france is paris .", "what is a w1"],
    "question-answering": [
        ("what is the capital ?", "the capital of france is paris ."),
        ("what ?", "a w1"),
    ],
    "fill-mask": [MASKED, "w1 [MASK]"],
    "text-generation": ["the capital of france is", "what is"],
}
PATH = {"baseline": "unk", "n_steps": 300, "quadrature": "gauss_legendre"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return word_tokenizer(tmp_path_factory.mktemp("words"))


def untyped(tokenizer):
    """One that tells the texts of a pair not apart, as GPT-2's, which would look token types up among words."""
    own = copy(tokenizer)
    own.model_input_names = ["input_ids", "attention_mask"]
    return own


def maps(model, task, texts=None, **options):
    at = {"at": "all"} if task == "token-classification" else {}
    given = TEXTS[task] if texts is None else texts
    return sb.attribute(model, given, "integrated_gradients", **PATH, **at, **options)


@pytest.mark.parametrize(("task", "kind"), EVERY_HEAD)
def test_every_head_has_captums_numbers_alone_or_not_and_adds_up(task, kind, tokenizer):
    model = tiny_model(task, kind, tokenizer if kind != "gpt2" else untyped(tokenizer))
    ours = maps(model, task)
    theirs = maps(model, task, backend="captum")
    alone = [one for text in TEXTS[task] for one in maps(model, task, [text])]
    assert len(ours) == len(theirs) == len(alone) >= 2
    for mine, captum, single in zip(ours, theirs, alone, strict=True):
        scale = np.abs(mine.scores).max()
        # Captum's nodes and weights are float32.
        np.testing.assert_allclose(captum.scores, mine.scores, rtol=0, atol=1e-5 * scale)
        np.testing.assert_allclose(single.scores, mine.scores, rtol=0, atol=1e-12 * scale)
        # A path crosses the kinks of OPT's ReLUs, where no rule is quick.
        assert abs(mine.completeness_gap) < 0.01 * max(abs(mine.output_difference), scale)


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
def test_a_rule_that_must_be_learnt_is_refused_by_name(task, tokenizer):
    model = tiny_model(task, EVERY_HEAD[[t for t, _ in EVERY_HEAD].index(task)][1], tokenizer)
    with pytest.raises(InputError, match=r"quadrature=calibrated.*midpoint"):
        sb.attribute(model, TEXTS[task], "integrated_gradients", quadrature="calibrated", n_steps=6)
