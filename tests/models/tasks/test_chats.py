"""Chats: the template's tokens are special, and every message's words keep their places in the message."""

import numpy as np
import pytest
from tiny_chats import TEMPLATE, bpe_tokenizer, tiny_decoder

import saliency_bench as sb
from saliency_bench.core.display import page
from saliency_bench.core.errors import InputError

CHAT = [
    {"role": "system", "content": "The user asks; the system answers."},
    {"role": "user", "content": " What is the capital of Norway? "},
    {"role": "assistant", "content": "Oslo."},
    {"role": "user", "content": "user"},
]


@pytest.fixture(scope="module")
def model():
    return tiny_decoder("gpt2", bpe_tokenizer())


def turns(one):
    """The words of each part, as the tokens that are evidence spell them."""
    text, found = one.encoded.text, {}
    for (start, end), special in zip(one.encoded.offsets, one.encoded.special, strict=True):
        if special:
            continue
        name = next(n for n, _, a, b in one.encoded.parts if a <= start < b)
        found[name] = found.get(name, "") + text[start:end]
    return found


def test_a_chat_is_what_its_template_makes_of_it_and_its_words_are_the_evidence(model):
    (one,) = sb.attribute(model, [CHAT], "vanilla")
    ids = model.tokenizer.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"]
    assert list(one.token_ids) == list(ids)
    assert turns(one) == {
        "system": CHAT[0]["content"],
        "user": CHAT[1]["content"].strip(),  # as the template has it
        "assistant": "Oslo.",
        "user 2": "user",
    }
    texts = [one.encoded.text[start:end] for _, _, start, end in one.encoded.parts]
    assert texts == [message["content"].strip() for message in CHAT]


def test_the_templates_own_tokens_are_not_ranked_and_not_removed(model):
    (one,) = sb.attribute(model, CHAT, "leave_one_out", removal="zero")
    template = [not ranked for ranked in one.attributable]
    marks = [token.startswith("<|im_") for token in one.tokens]
    assert sum(template) > sum(marks) > 0
    assert all(t for t, mark in zip(template, marks, strict=True) if mark)
    assert not one.scores[np.array(template)].any()


def test_a_template_may_add_a_system_message_of_its_own(model):
    (one,) = sb.attribute(model, [[{"role": "user", "content": "Be kind."}]], "vanilla")
    assert one.encoded.text.count("Be kind.") == 2
    assert turns(one) == {"user": "Be kind."}
    assert one.encoded.parts[0][2] == one.encoded.text.rindex("Be kind.")


def test_a_last_message_of_the_assistants_is_the_continuation(model):
    chat = CHAT[:3]
    maps = sb.attribute(model, [chat], "vanilla")
    answer = model.tokenizer("Oslo.", add_special_tokens=False)["input_ids"]
    assert [one.target for one in maps] == answer
    assert "assistant" not in turns(maps[0])
    assert maps[-1].encoded.parts[-1] == ("assistant", 1, 0, 5)
    (whole,) = sb.attribute(model, [chat], "vanilla", at="sum")
    assert np.log(whole.probability) == pytest.approx(
        sum(np.log(one.probability) for one in maps), rel=1e-9
    )
    again = sb.attribute(model, [chat[:2]], "vanilla", continuation="Oslo.")
    assert [one.probability for one in again] == [one.probability for one in maps]


def test_options_may_follow_a_chat(model):
    (one,) = sb.attribute(
        model,
        [{"messages": CHAT[:2], "options": ["Oslo.", "Bergen."], "label": 1}],
        "vanilla",
        target="gold",
    )
    assert one.label == "Bergen."


def test_a_page_shows_the_template_without_colour(model):
    (one,) = sb.attribute(model, [CHAT], "vanilla")
    shown = page([one])
    assert "&lt;|im_start|&gt;system↵\n" in shown
    assert ">&lt;|im_start|&gt;<" not in shown


@pytest.mark.parametrize(
    ("chat", "options", "reason"),
    [
        (CHAT[:3], {"continuation": "Oslo."}, "ends with a message of the assistant's"),
        ([{"role": "user", "content": " "}], {}, "has no words"),
        ([{"role": "user", "content": 3}], {}, "expected texts as content"),
        ({"messages": CHAT, "text": "Oslo"}, {}, "give one of these"),
        ({"messages": [{"content": "Oslo"}]}, {}, "role and content"),
    ],
)
def test_what_is_no_chat_is_refused_in_one_sentence(model, chat, options, reason):
    with pytest.raises(InputError, match=reason):
        sb.attribute(model, [chat], "vanilla", **options)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "has no chat template"),
        (TEMPLATE.replace("| trim", "| upper"), "changes the words of these messages"),
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", "changes the words"),
        (
            "{{ raise_exception('roles must alternate') }}",
            "refuses these messages .roles must alternate",
        ),
    ],
)
def test_a_template_that_does_not_fit_is_refused_in_one_sentence(template, reason):
    model = tiny_decoder("gpt2", bpe_tokenizer(template=template))
    with pytest.raises(InputError, match=reason):
        sb.attribute(model, [CHAT], "vanilla")


def test_a_classifier_reads_no_chat(bert):
    with pytest.raises(InputError):
        sb.attribute(bert, [CHAT], "vanilla")
