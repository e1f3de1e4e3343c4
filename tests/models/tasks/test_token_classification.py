"""Every entity token its own map: against the plain model's gradient, and what is asked where."""

import numpy as np
import pytest
from tiny_heads import gradient_lengths, tiny_head, tiny_model, word_tokenizer

import saliency_bench as sb
from saliency_bench.core.errors import InputError
from saliency_bench.models.loading import wrap_model

TASK = "token-classification"
LABELS = ("O", "B-LOC", "I-LOC")
TEXT = "the capital of france is paris ."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return word_tokenizer(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_model(TASK, "bert", tokenizer, labels=LABELS)


def said(model, ids):
    """The plain model's class of every token."""
    import torch

    return model.module(input_ids=torch.tensor([ids])).logits[0].argmax(-1).tolist()


def test_every_token_predicted_as_an_entity_has_a_map_of_its_own(model):
    maps = sb.attribute(model, TEXT, "vanilla")
    own = said(model, maps[0].token_ids)
    expected = [p for p, c in enumerate(own) if c != 0 and 0 < p < len(own) - 1]
    assert 0 < len(expected) < len(own) - 2  # the random model predicts both kinds
    assert [one.encoded.position for one in maps] == expected
    for one, place in zip(maps, expected, strict=True):
        score = gradient_lengths(
            model.module, one.token_ids, lambda out, p=place: out.logits[0, p].max()
        )
        np.testing.assert_allclose(one.scores, score, rtol=1e-9)
        assert (one.target, one.label) == (own[place], LABELS[own[place]])
        assert one.example_id == f"0@{place}"


@pytest.mark.parametrize(
    ("at", "places"),
    [(6, [6]), ([1, 6], [1, 6]), ("all", [1, 2, 3, 4, 5, 6, 7]), ("paris", [6]), ("of france", [3, 4])],
)  # fmt: skip
def test_places_are_named_by_number_or_by_words(model, at, places):
    maps = sb.attribute(model, TEXT, "vanilla", at=at, target="B-LOC")
    assert [one.encoded.position for one in maps] == places
    for one, place in zip(maps, places, strict=True):
        score = gradient_lengths(
            model.module, one.token_ids, lambda out, p=place: out.logits[0, p, 1]
        )
        np.testing.assert_allclose(one.scores, score, rtol=1e-9)


def test_a_label_names_the_tokens_predicted_as_it(model):
    (first, *_) = sb.attribute(model, TEXT, "vanilla", at="all")
    own = said(model, first.token_ids)
    for index, label in enumerate(LABELS):
        expected = [p for p in range(1, len(own) - 1) if own[p] == index]
        if expected:
            maps = sb.attribute(model, TEXT, "vanilla", at=label)
            assert [one.encoded.position for one in maps] == expected


def test_words_of_either_text_of_a_pair_can_be_asked_about(model):
    pair = ("paris is a capital", "what is rome ?")  # [CLS] 4 [SEP] 4 [SEP]
    for at, places in (("rome", [8]), ("paris", [1]), ("?", [9]), ("what is", [6, 7])):
        maps = sb.attribute(model, [pair], "vanilla", at=at)
        assert [one.encoded.position for one in maps] == places
    (one,) = sb.attribute(model, [pair], "vanilla", at="rome")
    assert one.tokens[8] == "rome"


def test_without_a_class_for_the_outside_every_token_is_asked_about(tokenizer):
    model = tiny_model(TASK, "bert", tokenizer, labels=("NOUN", "VERB", "DET"))
    assert len(sb.attribute(model, TEXT, "vanilla")) == 7


def test_several_texts_targets_and_settings_come_in_their_order(model):
    texts = ["paris is a capital", "the capital"]
    maps = sb.attribute(
        model, texts, "integrated_gradients", n_steps=[2, 3], target=[0, "all"], at=[1, 2]
    )
    asked = [
        (one.input_index, one.setting["n_steps"], one.target, one.encoded.position) for one in maps
    ]
    assert asked == [
        (text, steps, target, place)
        for text in (0, 1)
        for steps in (2, 3)
        for target in (0, 0, 1, 2)
        for place in (1, 2)
    ]


def test_replacing_all_but_the_token_is_asked_of_the_plain_model(model):
    """Sufficiency of keeping one token: the others are [MASK], the answer is still read at the token."""
    import torch

    (one,) = sb.attribute(model, TEXT, "vanilla", at=6)
    scores = np.arange(len(one.tokens), dtype=float)  # the last word, ".", is most relevant
    given = sb.AttributionMap.from_scores(scores, one)
    table = sb.evaluate(model, [given], "comprehensiveness", grid=[0.01])
    ids = torch.tensor([one.token_ids])
    without = ids.clone()
    without[0, 7] = model.tokenizer.mask_token_id
    full, less = (
        model.module(input_ids=asked).logits[0, 6].softmax(-1)[one.target].item()
        for asked in (ids, without)
    )
    assert table.value.item() == pytest.approx(full - less, abs=1e-12)


@pytest.mark.parametrize("removal", ["delete", "attention"])
def test_what_would_remove_the_token_asked_about_is_a_row_with_the_reason(model, removal):
    maps = sb.attribute(model, TEXT, "vanilla", at=6)
    table = sb.evaluate(model, maps, ["srg", "comprehensiveness"], removal=[removal, "mask"])
    refused = table[table.removal == removal]
    assert set(refused.status) == {"not_applicable"}
    assert refused.value.isna().all()
    assert refused.reason.str.contains("its prediction with it").all()
    assert set(table[table.removal == "mask"].status) == {"ok"}
    with pytest.raises(InputError, match="Use mask or zero"):
        sb.attribute(model, TEXT, "leave_one_out", removal=removal, at=6)


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (40, r"at=40: expected the place of a token, 0 \.\.\. 8"),
        (-1, "at=-1"),
        ("berlin", "neither entities, all, a label"),
    ],
)
def test_what_is_not_in_the_text_cannot_be_asked_about(model, at, reason):
    with pytest.raises(InputError, match=reason):
        sb.attribute(model, TEXT, "vanilla", at=at)


def test_a_text_without_entities_says_so(tokenizer):
    module = tiny_head(TASK, "bert")
    module.classifier.bias.data[0] = 1e3
    model = wrap_model(module, tokenizer, task=TASK, labels=LABELS)
    with pytest.raises(InputError, match="predicts nothing to explain"):
        sb.attribute(model, TEXT, "vanilla")


def test_what_other_tasks_have_is_refused(model, bert):
    with pytest.raises(InputError, match="labels are of texts"):
        sb.attribute(model, [TEXT], "vanilla", labels=[1])
    with pytest.raises(InputError, match="one prediction for a text"):
        sb.attribute(bert, [{"input_ids": [5, 6]}], "vanilla", at=0)
    with pytest.raises(InputError, match="expected logits of at least two classes for every token"):
        sb.attribute(wrap_model(bert.module, task=TASK), [{"input_ids": [5, 6]}], at=0)
