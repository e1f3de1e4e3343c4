"""What decoders have of their own: a pad token that ends texts, token types that are words, checkpoints in bfloat16."""

import numpy as np
import pytest
import torch
from tiny_heads import tiny_head, word_tokenizer

import saliency_bench as sb
from saliency_bench.core.rows import Setting
from saliency_bench.models.references import References
from saliency_bench.studies.block import open_block

SHORT, LONG = "what is a", "the capital of france is paris of rome"
#: Both ways are float64 arithmetic in another order; scores are of the size of a logit.
SAME = 1e-12
UNKNOWN, END = 1, 3


@pytest.fixture(params=["llama", "gpt2", "opt"])
def model(request, tmp_path):
    """A decoder whose pad token is the one that ends texts."""
    tokenizer = word_tokenizer(tmp_path)
    tokenizer.pad_token = tokenizer.sep_token
    module = tiny_head("text-generation", request.param)
    module.config.pad_token_id = module.config.eos_token_id = END
    return sb.wrap_model(module, tokenizer, task="text-generation")


def logit_without(module, ids, place, target):
    """Of a text with the unknown word at a place: one row, no cache, no mask."""
    changed = [*ids[:place], UNKNOWN, *ids[place + 1 :]] if place is not None else ids
    with torch.no_grad():
        return float(
            module(input_ids=torch.tensor([changed]), use_cache=False).logits[0, -1, target]
        )


def test_a_text_is_the_same_beside_a_longer_one_where_pads_end_texts(model):
    questions = [sb.attribute(model, text, "vanilla")[0].encoded for text in (SHORT, LONG)]
    setting = Setting(
        "v", "vanilla", "native", "l2", "predicted", "logit", 0, {"backward": "plain"}
    )
    with model.frozen():
        found = [
            open_block(References(model), texts, "predicted", 10_000).explain([setting])[setting.id]
            for texts in (questions[:1], questions)
        ]
    (alone,), (beside, _) = found
    np.testing.assert_allclose(beside.scores, alone.scores, rtol=0, atol=SAME)


def test_an_end_inside_a_text_is_a_word_and_no_padding(model):
    """As between the turns of a chat."""
    ids = [2, 5, 6, END, 8, 9]
    (one,) = sb.attribute(model, {"input_ids": ids}, "leave_one_out", removal="unk")
    whole = logit_without(model.module, ids, None, one.target)
    for place in np.flatnonzero(one.attributable):
        expected = whole - logit_without(model.module, ids, int(place), one.target)
        assert one.scores[place] == pytest.approx(expected, abs=SAME)
    with torch.no_grad():
        logits = model.module(input_ids=torch.tensor([ids])).logits[0, -1]
    assert one.probability == pytest.approx(float(logits.softmax(-1)[one.target]))


def test_token_types_that_a_tokenizer_makes_are_not_looked_up_as_words(model):
    """GPT-2 adds the embedding of word 0 for each token type of 0."""
    assert "token_type_ids" in model.tokenizer(LONG)
    (one,) = sb.attribute(model, LONG, "leave_one_out", removal="unk")
    assert one.encoded.token_type_ids is None
    ids = list(one.token_ids)
    whole = logit_without(model.module, ids, None, one.target)
    for place in np.flatnonzero(one.attributable):
        expected = whole - logit_without(model.module, ids, int(place), one.target)
        assert one.scores[place] == pytest.approx(expected, abs=SAME)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_a_checkpoint_in_bfloat16_is_computed_with_in_the_type_that_is_asked_for(dtype, tmp_path):
    module = tiny_head("text-generation", "llama").bfloat16()
    module.save_pretrained(tmp_path)
    word_tokenizer(tmp_path).save_pretrained(tmp_path)
    model = sb.load_model(tmp_path, task="text-generation", dtype=dtype, device="cpu")
    asked = getattr(torch, dtype)
    loaded = model.module.state_dict()
    for name, weight in module.state_dict().items():
        assert loaded[name].dtype == asked
        assert torch.equal(loaded[name].double(), weight.double()), name
    ids = {"input_ids": [2, 5, 6, 8]}
    (one,) = sb.attribute(model, ids, "vanilla")
    plain = type(module).from_pretrained(tmp_path, dtype=asked).eval()
    with torch.no_grad():
        logits = plain(input_ids=torch.tensor([[2, 5, 6, 8]])).logits[0, -1]
    # The logits are widened before the softmax, which is computed in float32 at least.
    probability = float(logits.double().softmax(-1)[one.target])
    assert one.probability == pytest.approx(probability, rel=1e-6)
