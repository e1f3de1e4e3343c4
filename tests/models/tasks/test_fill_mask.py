"""A word at a mask: against the plain model's gradients and answers, wherever the mask stands after a removal."""

import numpy as np
import pytest
import torch
from tiny_heads import gradient_lengths, tiny_model, word_tokenizer

import saliency_bench as sb
from saliency_bench.core.errors import InputError

TASK = "fill-mask"
TEXT = "the capital of france is [MASK] ."
PLACE = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(TASK, "bert", word_tokenizer(tmp_path_factory.mktemp("words")))


def plain(model, ids):
    """The plain model's probabilities at the mask."""
    ids = torch.tensor([ids])
    (place,) = (ids[0] == model.tokenizer.mask_token_id).nonzero()[:, 0].tolist()
    return model.module(input_ids=ids).logits[0, place].softmax(-1)


@pytest.mark.parametrize(
    ("target", "of"),
    [
        ("predicted", lambda z, _: z.max()),
        ("paris", lambda z, index: z[index("paris")]),
        (7, lambda z, _: z[7]),
        (("paris", "rome"), lambda z, index: z[index("paris")] - z[index("rome")]),
        ("contrast:predicted|rome", lambda z, index: z.max() - z[index("rome")]),
    ],
)
def test_a_word_at_the_mask_is_the_gradient_of_its_logit(model, target, of):
    (one,) = sb.attribute(model, TEXT, "vanilla", target=target)
    index = model.tokenizer.convert_tokens_to_ids
    score = gradient_lengths(
        model.module, one.token_ids, lambda out: of(out.logits[0, PLACE], index)
    )
    np.testing.assert_allclose(one.scores, score, rtol=1e-9)
    assert one.encoded.position == PLACE


def test_the_word_and_its_probability_are_the_plain_models(model):
    (one,) = sb.attribute(model, TEXT, "vanilla")
    said = plain(model, one.token_ids)
    assert one.label == model.tokenizer.convert_ids_to_tokens(int(said.argmax()))
    assert one.probability == pytest.approx(said.max().item(), rel=1e-9)


def test_the_mask_is_no_evidence_for_itself(model):
    maps = sb.attribute(model, TEXT, "leave_one_out", removal="zero")
    maps += sb.attribute(model, TEXT, "integrated_gradients", baseline="zero", n_steps=64)
    for one in maps:
        assert not one.attributable[PLACE]
        assert one.scores[PLACE] == 0
        assert [word.text for word in one.words()] == ["the", "capital", "of", "france", "is", "."]


def test_a_deleted_word_moves_the_mask_and_the_answer_with_it(model):
    (one,) = sb.attribute(model, TEXT, "leave_one_out", removal="delete", output="probability")
    full = plain(model, one.token_ids)[one.target].item()
    for place in (1, 2, 3, 4, 5, 7):
        left = [token for p, token in enumerate(one.token_ids) if p != place]
        expected = full - plain(model, left)[one.target].item()
        assert one.scores[place] == pytest.approx(expected, abs=1e-12)


def test_a_word_that_is_not_attended_to_leaves_the_mask_where_it_is(model):
    (one,) = sb.attribute(model, TEXT, "leave_one_out", removal="attention", output="logit")
    ids = torch.tensor([one.token_ids])
    full = model.module(input_ids=ids).logits[0, PLACE, one.target].item()
    for place in (1, 5, 7):
        mask = torch.ones_like(ids)
        mask[0, place] = 0
        out = model.module(input_ids=ids, attention_mask=mask).logits[0, PLACE, one.target].item()
        assert one.scores[place] == pytest.approx(full - out, abs=1e-9)


def test_all_removals_are_judged(model):
    maps = sb.attribute(model, TEXT, "vanilla")
    removals = ["mask", "zero", "delete", "attention"]
    table = sb.evaluate(model, maps, ["srg", "comprehensiveness"], removal=removals)
    assert set(table.status) == {"ok"}
    assert len(table) == 8


def test_several_masks_are_asked_about_by_place(model):
    text = "the [MASK] of france is [MASK] ."
    maps = sb.attribute(model, text, "vanilla", at="all")
    maps += sb.attribute(model, text, "vanilla", at=6)
    assert [one.encoded.position for one in maps] == [2, 6, 6]
    for one in maps:
        place = one.encoded.position
        score = gradient_lengths(
            model.module, one.token_ids, lambda out, p=place: out.logits[0, p].max()
        )
        np.testing.assert_allclose(one.scores, score, rtol=1e-9)


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("paris is a capital", {}, r"expected one mask \(\[MASK\]\) in the text, found none"),
        ("[MASK] is a [MASK]", {}, r"found 2, at \[1, 4\]"),
        (TEXT, {"at": 2}, r"at=2 is no mask; masks are at \[6\]"),
        (TEXT, {"target": "films"}, "expected one token of .* vocabulary, got"),
        (TEXT, {"target": "capitals"}, "got 2: capital ##s"),
        (TEXT, {"target": 40}, r"expected a token id, 0 \.\.\. 39"),
        (TEXT, {"target": "all"}, "several maps"),
        (TEXT, {"target": "gold"}, "needs a label"),
        ("[MASK]", {}, "no word beside the mask|no token"),
        (("a text", "[MASK]"), {"continuation": "paris"}, "continuation= is for task"),
    ],
)
def test_what_makes_no_sense_is_refused(model, text, options, reason):
    with pytest.raises(InputError, match=reason):
        sb.attribute(model, [text], "vanilla", **options)
