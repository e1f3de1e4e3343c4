"""Units of a text: each token in one, or in none; sums of their scores; removed together, against a loop over texts."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_chats import bpe_tokenizer, tiny_decoder

import saliency_bench as sb
from saliency_bench.core.display import page
from saliency_bench.core.errors import InputError
from saliency_bench.core.units import GRANULARITIES, NONE, sentences, units, units_of

TEXT = "Oslo is the capital of Norway. It rains there, e.g. in Bergen! The capital of France is"
PASSAGES = {"first": "Oslo is the capital of Norway.", "second": "It rains there, e.g. in Bergen!"}


@pytest.fixture(scope="module")
def model():
    return tiny_decoder("gpt2", bpe_tokenizer())


@pytest.fixture(scope="module")
def one(model):
    (made,) = sb.attribute(
        model, [{"text": TEXT, "segments": PASSAGES}], "vanilla", reduction="dot"
    )
    return made


def test_sentences_are_what_a_reader_would_cut(one):
    assert [unit.text for unit in one.units("sentence")] == [
        "Oslo is the capital of Norway.",
        "It rains there, e.g. in Bergen!",
        "The capital of France is",
    ]


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("One. Two", ["One. ", "Two"]),
        ("Pi is 3.14 exactly", ["Pi is 3.14 exactly"]),
        ('He said "No!" Then left.', ['He said "No!" ', "Then left."]),
        ("本。二つ", ["本。", "二つ"]),
        ("a list\n- one\n- two", ["a list\n", "- one\n", "- two"]),
    ],
)
def test_a_sentence_ends_at_its_marks_or_at_a_line_break(one, text, cut):
    from dataclasses import replace

    places = sentences(replace(one.encoded, text=text, parts=()))
    assert [text[start:end] for _, start, end in places] == cut


def test_segments_bear_their_names_and_the_rest_is_in_no_unit(one):
    found = one.units("segment")
    assert [(unit.name, unit.text) for unit in found] == [*PASSAGES.items()]
    assert TEXT[found[1].start : found[1].end] == PASSAGES["second"]
    outside = units(one.encoded, "segment") == NONE
    words = "".join(np.array(one.tokens)[outside]).replace("Ġ", " ")
    assert words == " The capital of France is"


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_every_token_is_in_one_unit_and_its_score_is_counted_once(one, granularity):
    unit_of = units(one.encoded, granularity)
    names = [unit for unit in range(len(unit_of)) if unit_of[unit] == unit]
    assert {*unit_of.tolist()} - {NONE} == {*names}
    total = sum(unit.score for unit in one.units(granularity))
    assert total == pytest.approx(one.scores[unit_of != NONE].sum(), abs=1e-9)
    tokens = [token for unit in units_of(one.encoded, granularity) for token in unit.tokens]
    assert sorted(tokens) == np.flatnonzero(unit_of != NONE).tolist()


@given(text=st.text(alphabet="aB.!? \n。é", min_size=1, max_size=40).filter(str.strip))
def test_sentences_cover_any_text_once(text):
    model = tiny_decoder("gpt2", bpe_tokenizer())
    (made,) = sb.attribute(model, text, "random", n_rankings=1)
    places = sentences(made.encoded)
    assert "".join(text[start:end] for _, start, end in places) == text
    assert (units(made.encoded, "sentence") >= 0).all()


def test_a_passage_is_removed_as_one(model, one):
    """SRG over two passages, against the plain model with their embeddings zeroed."""
    table = sb.evaluate(model, [one], "srg", removal="zero", granularity="segment")
    embeddings = model.module.get_input_embeddings()(torch.tensor([one.token_ids])).detach()
    found = units_of(one.encoded, "segment")

    def probability(gone):
        changed = embeddings.clone()
        for unit in gone:
            changed[0, [*found[unit].tokens]] = 0
        logits = model.module(inputs_embeds=changed).logits[0, -1]
        return logits.softmax(-1)[one.target].item()

    scores = [unit.score for unit in one.units("segment")]
    first, second = np.argsort(scores)[::-1]
    deleted = [probability(gone) for gone in ([first], [first, second])]
    kept = [probability(gone) for gone in ([second], [])]
    # comprehensiveness - sufficiency, each a mean over k = 1, 2, where sufficiency removes the least relevant first
    expected = np.mean([probability([second]), probability([first, second])]) - np.mean(deleted)
    assert kept[0] == probability([second])
    assert table.value[0] == pytest.approx(expected, abs=1e-12)


def test_messages_of_a_chat_are_segments_and_pages_name_them(model):
    chat = [{"role": "user", "content": "Oslo? Rome?"}, {"role": "assistant", "content": "Oslo."}]
    chat.append({"role": "user", "content": "Why"})
    (made,) = sb.attribute(model, [chat], "vanilla")
    assert [unit.name for unit in made.units("segment")] == ["user", "assistant", "user 2"]
    assert [unit.text for unit in made.units("sentence")] == ["Oslo?", "Rome?", "Oslo.", "Why"]
    shown = page([made])
    for unit in made.units("segment"):
        assert f"> {unit.name} {unit.score:.4g} </span>" in shown


@pytest.mark.parametrize(
    ("granularity", "reason"),
    [("segment", "has no segments"), ("sentences", "did you mean 'sentence'")],
)
def test_units_that_a_text_does_not_have_are_refused(model, granularity, reason):
    (made,) = sb.attribute(model, "Oslo", "vanilla")
    with pytest.raises(InputError, match=reason):
        made.units(granularity)
    with pytest.raises(InputError, match=reason):
        sb.evaluate(model, [made], "srg", granularity=granularity)


def test_a_text_without_places_has_no_sentences(model):
    from dataclasses import replace

    (made,) = sb.attribute(model, "Oslo", "vanilla")
    lost = replace(made.encoded, offsets=((-1, -1),) * len(made.encoded))
    with pytest.raises(InputError, match="does not say where its tokens stand"):
        units(lost, "sentence")


@pytest.mark.parametrize(
    ("segments", "reason"),
    [
        ([[0, 4], [2, 6]], "overlap"),
        ([[0, 999]], "expected 0 <= start < end"),
        (["Lima"], "not in the text"),
    ],
)
def test_segments_that_overlap_or_leave_the_text_are_refused_in_one_sentence(
    model, segments, reason
):
    with pytest.raises(InputError, match=reason) as error:
        sb.attribute(model, [{"text": TEXT, "segments": segments}], "vanilla")
    assert str(error.value).count(". ") == 0


def test_white_space_alone_is_no_sentence(model):
    text = "\n\n" + "\n".join(PASSAGES.values()) + "\n"
    (made,) = sb.attribute(model, [{"text": text, "segments": PASSAGES}], "vanilla")
    assert [unit.text for unit in made.units("sentence")] == [*PASSAGES.values()]
    assert (units(made.encoded, "sentence") != NONE).all()
