"""Every task on several architectures: Captum's numbers, no dependence on neighbours, and a sum that comes out."""

from copy import copy

import numpy as np
import pytest
from tiny_heads import EVERY_HEAD, tiny_model, word_tokenizer

import saliency_bench as sb

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
