"""The next token and given continuations: against the plain model's gradient at the last token."""

import numpy as np
import pytest
import torch
from tiny_heads import WORDS, gradient_lengths, tiny_model, word_tokenizer

import saliency_bench as sb
from saliency_bench.core.errors import InputError

TASK = "text-generation"
PROMPT = "the capital of france is"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(TASK, "gpt2", word_tokenizer(tmp_path_factory.mktemp("words")))


def ids_of(model, text):
    return [2, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]


@pytest.mark.parametrize(
    ("target", "of"),
    [
        ("predicted", lambda z, _: z.max()),
        ("paris", lambda z, index: z[index("paris")]),
        (("paris", "rome"), lambda z, index: z[index("paris")] - z[index("rome")]),
    ],
)
def test_the_next_token_is_read_at_the_last_one(model, target, of):
    (one,) = sb.attribute(model, PROMPT, "vanilla", target=target)
    assert list(one.token_ids) == ids_of(model, PROMPT)  # without the [SEP] at the end
    index = model.tokenizer.convert_tokens_to_ids
    score = gradient_lengths(model.module, one.token_ids, lambda out: of(out.logits[0, -1], index))
    np.testing.assert_allclose(one.scores, score, rtol=1e-9)


def test_each_token_of_a_continuation_has_a_map_of_all_before_it(model):
    maps = sb.attribute(model, PROMPT, "vanilla", continuation=" paris , capitals .")
    ids = ids_of(model, f"{PROMPT} paris , capitals .")
    n = len(ids_of(model, PROMPT))
    assert [one.target for one in maps] == ids[n:]
    assert [one.token_ids for one in maps] == [tuple(ids[:k]) for k in range(n, len(ids))]
    assert [one.example_id for one in maps] == [f"0@{k - 1}" for k in range(n, len(ids))]
    for one in maps:
        score = gradient_lengths(
            model.module, one.token_ids, lambda out, own=one: out.logits[0, -1, own.target]
        )
        np.testing.assert_allclose(one.scores, score, rtol=1e-9)
    assert [word.text for word in maps[-1].words()] == [*PROMPT.split(), "paris", ",", "capitals"]


def test_the_probabilities_of_a_continuation_multiply_to_the_plain_models(model):
    maps = sb.attribute(model, [(PROMPT, " paris .")], "vanilla")
    ids = torch.tensor([ids_of(model, f"{PROMPT} paris .")])
    logs = model.module(input_ids=ids).logits[0].log_softmax(-1)
    n = len(ids_of(model, PROMPT))
    expected = sum(logs[k - 1, ids[0, k]].item() for k in range(n, ids.shape[1]))
    assert sum(np.log(one.probability) for one in maps) == pytest.approx(expected, rel=1e-9)


def test_a_later_token_of_the_continuation_can_be_contrasted(model):
    maps = sb.attribute(
        model, PROMPT, "vanilla", continuation=" paris .", target="contrast:predicted|rome"
    )
    rome = model.tokenizer.convert_tokens_to_ids("rome")
    for one in maps:
        score = gradient_lengths(
            model.module,
            one.token_ids,
            lambda out, own=one: out.logits[0, -1, own.target] - out.logits[0, -1, rome],
        )
        np.testing.assert_allclose(one.scores, score, rtol=1e-9)


def test_the_last_token_is_replaced_and_still_asks(model):
    (one,) = sb.attribute(
        model, PROMPT, "leave_one_out", removal="mask", target="paris", output="probability"
    )
    ids = list(one.token_ids)

    def said(ids):
        out = model.module(input_ids=torch.tensor([ids])).logits[0, -1]
        return out.softmax(-1)[one.target].item()

    for place in range(1, len(ids)):
        changed = [*ids[:place], model.tokenizer.mask_token_id, *ids[place + 1 :]]
        assert one.scores[place] == pytest.approx(said(ids) - said(changed), abs=1e-12)


def test_removals_that_ask_for_another_token_are_rows_with_the_reason(model):
    maps = sb.attribute(model, PROMPT, "vanilla")
    table = sb.evaluate(model, maps, "srg", removal=["delete", "attention", "zero"])
    assert list(table.status) == ["not_applicable", "not_applicable", "ok"]
    assert table.reason[0] == "without its last token a text asks for another next token"


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        (PROMPT, {"target": "capitals"}, "expected one token"),
        (PROMPT, {"at": 2}, "give no at"),
        ((PROMPT, " "), {}, "has no token of its own after the prompt: give it a word"),
        (PROMPT, {"continuation": ""}, "the continuation is empty: give the text that follows"),
        (("the capital", "s"), {}, None),
        (" ".join(WORDS * 8), {}, "takes 64"),
        ({"input_ids": [5, 6]}, {"continuation": "paris"}, "prompts that are texts"),
    ],
)
def test_what_makes_no_sense_is_refused(model, text, options, reason):
    if reason is None:  # the pieces of a word part cleanly: nothing is wrong
        assert len(sb.attribute(model, [text], "vanilla", **options)) == 1
        return
    with pytest.raises(InputError, match=reason) as error:
        sb.attribute(model, [text], "vanilla", **options)
    assert ". " not in str(error.value)


def test_a_continuation_that_changes_the_prompts_tokens_is_refused(model):
    with pytest.raises(InputError, match=r"in the token \w+: move the space [^.]*$"):
        sb.attribute(model, [("the capi", "tal of")], "vanilla")
