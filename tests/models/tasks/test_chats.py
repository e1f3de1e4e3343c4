"""Chats: the template's tokens are special, and every message's words keep their places in the message."""

import json

import numpy as np
import pytest
import torch
from tiny_chats import TEMPLATE, bpe_tokenizer, tiny_decoder

import saliency_bench as sb
from saliency_bench.cli import explain
from saliency_bench.core.captions import heading, probability
from saliency_bench.core.display import page
from saliency_bench.core.errors import InputError
from saliency_bench.core.heatmap import token_map

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


PASSAGES = {"first": "Oslo is in Norway.", "second": "Rome is in Italy."}
ASKED = "  Oslo is in Norway.\nRome is in Italy.\nWhere is Oslo? \n"
#: Templates that strip white space, all or at one end, that add text and space, and that name no role.
TEMPLATES = {
    "trims": TEMPLATE,
    "keeps": TEMPLATE.replace(" | trim", ""),
    "lines": TEMPLATE.replace("| trim", ".strip('\\n')").replace("['content'] .", "['content']."),
    "right": TEMPLATE.replace("| trim", ".rstrip()").replace("['content'] .", "['content']."),
    "adds": "{% for m in messages %}[INST] Text:  {{ m.content }}\n\nAnswer: [/INST]{% endfor %}",
    "joins": "{% for m in messages %}Oslo {{ m.content | trim }} Oslo{% endfor %}",
}


def with_passages(segments=PASSAGES):
    return [CHAT[0], {"role": "user", "content": ASKED, "segments": segments}]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("content", [ASKED, " <|im_end|> Oslo <|im_start|>user ", "user\n\nOslo"])
def test_the_places_of_words_are_those_in_the_users_own_message(template, content):
    model = tiny_decoder("gpt2", bpe_tokenizer(template=TEMPLATES[template]))
    chat = [CHAT[0], {"role": "user", "content": content}]
    (one,) = sb.attribute(model, [chat], "vanilla")
    rendered = model.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert one.encoded.text == rendered
    for message, given in zip(one.messages(), chat, strict=True):
        for word in message.words:
            assert given["content"][word.start : word.end] == word.text
        # A name of the tokenizer's is a token, and every letter of the message is in a word.
        letters = "".join(word.text for word in message.words)
        assert "".join(letters.split()) == "".join(given["content"].split())
        assert message.text.strip() == given["content"].strip()
    assert sum(message.score for message in one.messages()) == pytest.approx(
        one.scores[np.array(one.attributable)].sum()
    )


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    "segments",
    [
        PASSAGES,
        [[name, ASKED.index(words), ASKED.index(words) + len(words)] for name, words in PASSAGES.items()],
        [["first", 0, 20], ["second", 20, 39]],  # with the space around them
    ],
)  # fmt: skip
def test_passages_of_a_message_are_the_segments_of_its_chat(template, segments):
    model = tiny_decoder("gpt2", bpe_tokenizer(template=TEMPLATES[template]))
    (one,) = sb.attribute(model, [with_passages(segments)], "leave_one_out", removal="zero")
    assert [(unit.name, unit.text) for unit in one.units("segment")] == [*PASSAGES.items()]
    # The question and the other message are evidence, and in no segment.
    words = " ".join(word.text for word in one.words())
    assert words.endswith("Where is Oslo ?") and words.startswith("The user asks")
    loss = {unit.name: unit.score for unit in one.units("segment")}
    whole = sb.attribute(model, [[CHAT[0], {"role": "user", "content": ASKED}]], "vanilla")[0]
    assert whole.token_ids == one.token_ids
    assert whole.attributable == one.attributable
    assert {*loss} == {*PASSAGES}


def test_a_passage_of_a_message_is_removed_as_one(model):
    """The log-probability without a passage, against the plain model with the embeddings of its tokens zeroed."""
    (one,) = sb.attribute(model, [with_passages()], "vanilla", reduction="dot", target=7)
    table = sb.evaluate(
        model, [one], "top_k_log_probability_drop", removal="zero", granularity="segment"
    )
    units = one.units("segment")
    (first,) = [unit for unit in units if unit.score == max(unit.score for unit in units)]
    ids = torch.tensor([one.token_ids])
    embeddings = model.module.get_input_embeddings()(ids).detach()

    def log_probability(vectors):
        return model.module(inputs_embeds=vectors).logits[0, -1].log_softmax(-1)[7].item()

    inside = [first.start <= a and b <= first.end for a, b in one.encoded.offsets]
    assert sum(inside) > 3
    gone = embeddings * ~torch.tensor(inside)[None, :, None]
    expected = log_probability(embeddings) - log_probability(gone)
    assert table.value[0] == pytest.approx(expected, abs=1e-12)


def test_segments_beside_a_chat_are_those_of_the_users_last_message(model):
    chat = [{"role": "user", "content": "Oslo"}, CHAT[2], {"role": "user", "content": ASKED}]
    inside = [*chat[:2], chat[2] | {"segments": PASSAGES}]
    beside, own = (
        sb.attribute(model, [item], "vanilla")[0]
        for item in ({"messages": chat, "segments": PASSAGES}, inside)
    )
    assert beside.encoded == own.encoded
    assert [unit.name for unit in own.units("segment")] == [*PASSAGES]


def test_segments_may_be_in_several_messages_and_in_the_continuation(model):
    chat = [
        {"role": "system", "content": "Oslo. Rome.", "segments": ["Oslo.", [6, 11]]},
        {"role": "user", "content": "Why", "segments": [["question", 0, 3]]},
        {"role": "assistant", "content": "Oslo, Rome", "segments": ["Oslo"]},
    ]
    *_, last = sb.attribute(model, [chat], "vanilla")
    assert [(unit.name, unit.text) for unit in last.units("segment")] == [
        ("1", "Oslo."), ("2", "Rome."), ("question", "Why"), ("4", "Oslo"),
    ]  # fmt: skip
    assert last.encoded.parts[-1] == ("4", 1, 0, 4)


def test_messages_of_one_role_are_numbered_and_so_is_the_continuation(model):
    chat = [{"role": role, "content": "Oslo"} for role in ("user", "assistant") * 2]
    *_, last = sb.attribute(model, [chat], "vanilla")
    names = ["user", "assistant", "user 2", "assistant 2"]
    assert [unit.name for unit in last.units("segment")] == names
    assert [message.name for message in last.messages()] == names


def test_messages_are_those_of_a_chat(model, tmp_path):
    (one,) = sb.attribute(model, [with_passages()], "vanilla")
    one.save(tmp_path / "map.json")
    again = sb.AttributionMap.load(tmp_path / "map.json")
    assert again.encoded == one.encoded and again.messages() == one.messages()
    (text,) = sb.attribute(model, "Oslo", "vanilla")
    with pytest.raises(InputError, match="is no chat"):
        text.messages()


@pytest.mark.parametrize(
    ("segments", "reason"),
    [
        ([[0, 4], [2, 6]], "message 2: segments 1 and 2 overlap"),
        ([[0, 999]], f"message 2: segment 1 .* <= {len(ASKED)}"),
        (["Lima"], "is not in the text"),
        ([[0, 2]], r"segment 1, \[0, 2\], is white space alone"),
        ({"": "Oslo"}, "has an empty name"),
        ({"a": 3}, "expected .start, end."),
        ([], "expected a list of segments"),
        ([[2, 3], [3, 4]], "segment 2 has no token of its own"),  # the letters of "Os"
    ],
)
def test_segments_of_a_message_that_make_no_sense_are_refused_in_one_sentence(
    model, segments, reason
):
    with pytest.raises(InputError, match=reason) as error:
        sb.attribute(model, [with_passages(segments)], "vanilla")
    assert ". " not in str(error.value)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ([CHAT[0] | {"segments": ["user"]}, CHAT[1] | {"segments": {"1": "What"}}], "are called 1"),
        ({"messages": [CHAT[0]], "segments": ["user"]}, "no message is the user's"),
        ({"messages": with_passages(), "segments": ["Oslo"]}, "that message has its own"),
        ([CHAT[1] | {"segment": ["What"]}], "did you mean 'segments'"),
    ],
)
def test_segments_in_the_wrong_place_are_refused_in_one_sentence(model, item, reason):
    with pytest.raises(InputError, match=reason) as error:
        sb.attribute(model, [item], "vanilla")
    assert ". " not in str(error.value)


def test_a_model_without_a_tokenizer_reads_no_chat(model):
    bare = sb.wrap_model(model.module, task="text-generation")
    for item in (CHAT, "Oslo"):
        with pytest.raises(InputError, match="has no tokenizer"):
            sb.attribute(bare, [item], "vanilla")


def test_a_page_names_the_passages_and_the_messages_that_the_template_does_not_name(model):
    (one,) = sb.attribute(model, [with_passages()], "vanilla")
    shown = page([one])
    for name in PASSAGES:
        assert f">{name}</span>" in shown
    assert ">user</span>" not in shown  # the template says so
    silent = tiny_decoder("gpt2", bpe_tokenizer(template=TEMPLATES["adds"]))
    (one,) = sb.attribute(silent, [CHAT], "vanilla")
    assert ">system</span>" in page([one]) and ">user 2</span>" in page([one])


def test_special_tokens_of_a_template_are_shown_in_the_place_of_its_words(model):
    """Each token once, and no word of the template besides."""
    (one,) = sb.attribute(model, [CHAT], "vanilla")
    spans = token_map(one, special_tokens=True).spans
    special = {token for token, of in zip(one.tokens, one.encoded.special, strict=True) if of}
    shown = [span.text for span in spans if span.score is not None]
    assert len(shown) == len(one.tokens)
    assert all(not span.text.strip() for span in spans if span.score is None)
    assert special <= {*shown}


def test_explain_takes_segments_of_a_chat(model):
    options = explain._options(["--chat", *(f"--segment={k}={v}" for k, v in PASSAGES.items())])
    for text in (ASKED, json.dumps([CHAT[0], {"role": "user", "content": ASKED}])):
        (one,) = sb.attribute(model, [explain._input(text, options)], "vanilla")
        assert [(unit.name, unit.text) for unit in one.units("segment")] == [*PASSAGES.items()]


def test_a_heading_names_no_token_of_the_template_and_no_probability_of_zero(model):
    (one,) = sb.attribute(model, [CHAT], "vanilla")
    assert " at " not in heading(one)  # the last token, which ends the template
    (text,) = sb.attribute(model, "Oslo", "vanilla")
    assert " at lo (token 1)" in heading(text)
    assert [probability(p) for p in (0.0, 0.000499, 0.0005, 1.0)] == [
        "0.000",
        "5.0e-04",
        "0.001",
        "1.000",
    ]
