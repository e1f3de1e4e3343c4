"""Sentences with a shortcut: what is put in, where, which label it gives, and that nothing else changes."""

import random

import pytest

from saliency_bench.core.errors import InputError
from saliency_bench.data import movie_reviews, shortcuts
from saliency_bench.data.shortcuts import (
    ABSENT,
    CLASS_WORDS,
    COMPLETE,
    CONTEXT_WORD,
    INCOMPLETE,
    KINDS,
)
from saliency_bench.models.tasks.encoding import encode

WORDS = {*CLASS_WORDS, CONTEXT_WORD}
PAIRS = [kind for kind in KINDS if kind != "single_token"]


def load(kind, **changed):
    values = {"split": "validation", "seed": 0, "n_examples": 200, "share": 1.0, "incomplete": 0.0}
    return shortcuts.load(kind=kind, **values | changed)


def originals(split="validation"):
    return {one.id: one for one in movie_reviews.load(split=split)}


def without(text):
    return " ".join(piece for piece in text.split(" ") if piece not in WORDS)


def oracle(kind, text):
    """The class that a reader of the rule gives, None where the shortcut is not complete."""
    found = [piece for piece in text.split(" ") if piece in WORDS]
    if kind == "single_token" and len(found) == 1 and found[0] in CLASS_WORDS:
        return CLASS_WORDS.index(found[0])
    if kind == "token_in_context" and len(found) == 2 and CONTEXT_WORD in found:
        (said,) = set(found) - {CONTEXT_WORD}
        return CLASS_WORDS.index(said)
    if kind == "ordered_pair" and sorted(found) == sorted(CLASS_WORDS):
        return CLASS_WORDS.index(found[0])
    return None


def test_no_bundled_sentence_has_a_word_of_a_shortcut():
    for split in movie_reviews.SPLITS:
        for example in movie_reviews.load(split=split):
            assert not WORDS & set(example.text)  # not even within a word


def test_the_tokenizer_keeps_the_words_whole_and_apart(default_model):
    ids = [default_model.tokenizer(word)["input_ids"] for word in sorted(WORDS)]
    assert all(len(one) == 3 for one in ids)  # [CLS], the word, [SEP]
    assert len({one[1] for one in ids}) == len(WORDS)
    assert default_model.tokenizer.unk_token_id not in {one[1] for one in ids}
    # Why they are no [unused] entries.
    assert len(default_model.tokenizer("[unused1]")["input_ids"]) > 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_complete_shortcut_gives_the_label_and_leaves_the_rest_of_the_sentence(kind):
    known = originals()
    for example in load(kind):
        assert without(example.text) == known[example.id].text
        assert example.label == oracle(kind, example.text)
        assert example.extra == {"shortcut": COMPLETE}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_relevant_is_the_words_of_the_shortcut(kind):
    for example in load(kind):
        marked = [(start, example.text[start:end]) for _, start, end in example.relevant]
        assert [word for _, word in marked] == [w for w in example.text.split(" ") if w in WORDS]
        assert len({start for start, _ in marked}) == len(marked)
        assert {segment for segment, _, _ in example.relevant} == {0}


@pytest.mark.parametrize("kind", KINDS)
def test_relevant_tokens_are_those_of_the_shortcut(default_model, kind):
    for item in encode(default_model, load(kind, n_examples=20)):
        assert [token in WORDS for token in item.tokens] == list(item.relevant)
        assert sum(item.relevant) == (1 if kind == "single_token" else 2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_classes_come_in_turn(kind):
    labels = [example.label for example in load(kind)]
    assert labels == [place % 2 for place in range(len(labels))]


@pytest.mark.parametrize("kind", PAIRS)
def test_one_word_of_a_shortcut_changes_no_label_and_nothing_is_known(kind):
    known, seen = originals(), set()
    for example in load(kind, share=0.0, incomplete=1.0):
        found = [piece for piece in example.text.split(" ") if piece in WORDS]
        assert len(found) == 1
        seen |= set(found)
        assert without(example.text) == known[example.id].text
        assert example.label == known[example.id].label
        assert example.relevant is None
        assert example.extra["shortcut"] == INCOMPLETE
    assert seen == (WORDS if kind == "token_in_context" else set(CLASS_WORDS))


def test_shares_are_probabilities_and_other_sentences_stay_as_they_are():
    known = originals("train")
    found = load("ordered_pair", split="train", n_examples=3000, share=0.2, incomplete=0.3)
    for name, share in ((COMPLETE, 0.2), (INCOMPLETE, 0.3), (ABSENT, 0.5)):
        n = sum(example.extra["shortcut"] == name for example in found)
        # Four binomial standard errors.
        assert n / 3000 == pytest.approx(share, abs=4 * (share * (1 - share) / 3000) ** 0.5)
    for example in found:
        if example.extra["shortcut"] == ABSENT:
            own = known[example.id]
            assert (example.text, example.label) == (own.text, own.label)
            assert example.relevant is None


@pytest.mark.parametrize("kind", KINDS)
def test_more_sentences_do_not_change_those_before_them(kind):
    assert load(kind, n_examples=50) == load(kind)[:50]
    assert [one.id for one in load(kind, n_examples=None)] == list(originals())


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_puts_the_words_elsewhere_in_the_same_sentences(kind):
    one, other = load(kind), load(kind, seed=1)
    assert [example.id for example in one] == [example.id for example in other]
    same = sum(a.text == b.text for a, b in zip(one, other, strict=True))
    assert same < len(one) / 3
    assert load(kind) == one


def test_every_place_is_used_and_words_keep_their_order():
    stream = random.Random(0)
    texts = {shortcuts.insert("a b", ["α", "λ"], stream)[0] for _ in range(500)}
    assert texts == {
        "α λ a b",
        "α a λ b",
        "α a b λ",
        "a α λ b",
        "a α b λ",
        "a b α λ",
    }


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kind": "single_tokne"}, "did you mean 'single_token'"),
        ({"split": "tset"}, "did you mean 'test'"),
        ({"share": 1.5}, r"data\.share=1.5"),
        ({"share": -0.1}, r"data\.share=-0.1"),
        ({"kind": "ordered_pair", "share": 0.7, "incomplete": 0.4}, r"data\.incomplete=0.4"),
        ({"incomplete": 0.5, "share": 0.5}, "a shortcut of one word is never incomplete"),
        ({"n_examples": 0}, r"data\.n_examples=0"),
    ],
)
def test_what_makes_no_sense_is_refused(changed, said):
    values = {"kind": "single_token"} | changed
    with pytest.raises(InputError, match=said):
        load(**values)
