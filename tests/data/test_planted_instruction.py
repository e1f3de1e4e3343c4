"""Planted instructions: the span is the instruction, and without it the rest is a prompt as the controls have it."""

import pytest

from saliency_bench.core.errors import InputError
from saliency_bench.data import planted_instruction
from saliency_bench.data.planted_instruction import (
    HARMLESS,
    INSTRUCTIONS,
    POSITIONS,
    REQUESTS,
    TEXTS,
)


def load(**changed):
    return planted_instruction.load(**{"n_prompts": 120, "controls": 0.25, "seed": 0} | changed)


def parsed(text):
    """The request, the text and the added sentence of a prompt, and how many sentences stand before that."""
    (added,) = [one for one in (*INSTRUCTIONS, *HARMLESS) if one in text]
    pieces = text.replace(added, "|").split("|")
    (request,) = [one for one in REQUESTS if text.startswith(one)]
    rest = " ".join(piece.strip() for piece in pieces if piece.strip())
    assert rest.startswith(request)
    sentences = tuple(TEXTS)[[" ".join(one) for one in TEXTS].index(rest[len(request) :].strip())]
    before = 1 + sum(one in pieces[0] for one in sentences)
    return request, sentences, added, before


def test_the_truth_is_the_instruction_and_a_control_has_none():
    for prompt in load():
        _, _, added, before = parsed(prompt.text)
        assert prompt.extra["position"] == POSITIONS[before - 1]
        if added in INSTRUCTIONS:
            ((_, start, end),) = prompt.relevant
            assert (prompt.label, prompt.text[start:end]) == (1, added)
        else:
            assert (prompt.label, prompt.relevant) == (0, ())


def test_prompts_are_different_with_shares_as_they_were_asked_for():
    prompts = load()
    assert len({one.text for one in prompts}) == len({one.id for one in prompts}) == 120
    assert sum(one.label == 0 for one in prompts) == 30
    places = [one.extra["position"] for one in prompts if one.label == 1]
    assert [places.count(one) for one in POSITIONS] == [30, 30, 30]
    assert len(load(n_prompts=300, controls=0.0)) == 300


def test_no_harmless_sentence_is_longer_or_shorter_than_instructions_are():
    lengths = [len(one.split()) for one in INSTRUCTIONS]
    assert all(min(lengths) <= len(one.split()) <= max(lengths) for one in HARMLESS)


def test_another_seed_makes_other_prompts_and_more_of_them_begin_alike():
    assert load(seed=1) != load()
    assert load(n_prompts=8, controls=0.0) == load(n_prompts=20, controls=0.0)[:8]


def test_more_prompts_than_there_are_is_refused():
    with pytest.raises(InputError, match=r"data\.n_prompts: there are 1200 .* 1201"):
        load(n_prompts=1201, controls=0.0)
