"""Agreement items: a reader of the grammar finds the subject, its number and the nouns between."""

import pytest

from saliency_bench.core import conf
from saliency_bench.core.errors import InputError
from saliency_bench.data import agreement
from saliency_bench.data.agreement import ATTRACTORS, PREPOSITIONS, SUBJECTS


def load(**changed):
    values = {"n_items": 240, "number": "both", "attractors": [0, 1, 2, 3], "seed": 0}
    return agreement.load(**values | changed)


def plural(noun):
    return {"story": "stories"}.get(noun, f"{noun}s")


def nouns_in(text):
    """Every noun of the text as (noun, number), in order."""
    numbers = {noun: (noun, "singular") for noun in (*SUBJECTS, *ATTRACTORS)}
    numbers |= {plural(noun): (noun, "plural") for noun in (*SUBJECTS, *ATTRACTORS)}
    return [numbers[word] for word in text.split() if word in numbers]


def test_the_first_noun_is_the_subject_and_all_others_have_the_other_number():
    for item in load():
        (subject, number), *others = nouns_in(item.text)
        assert subject in SUBJECTS
        assert item.label == {"singular": " is", "plural": " are"}[number]
        assert item.extra == {"number": number, "attractors": len(others)}
        assert all(noun in ATTRACTORS and other != number for noun, other in others)
        ((_, start, end),) = item.relevant
        assert item.text[start:end] == (subject if number == "singular" else plural(subject))


def test_the_text_ends_before_the_verb_and_in_front_of_each_attractor_is_a_preposition():
    for item in load(n_items=40, attractors=[2]):
        assert item.text == item.text.strip()
        assert sum(item.text.count(f" {one} the ") for one in PREPOSITIONS) == 2


def test_items_are_different_and_every_kind_is_there_equally_often():
    items = load()
    assert len({item.text for item in items}) == len({item.id for item in items}) == 240
    kinds = [(item.extra["number"], item.extra["attractors"]) for item in items]
    assert {kinds.count(kind) for kind in kinds} == {30}


def test_more_items_begin_with_the_same_ones_and_another_seed_has_others():
    assert load(n_items=240)[:100] == load(n_items=100)
    assert load(seed=1) != load()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"number": "dual"}, r"data\.number"),
        ({"attractors": [4]}, "0 to 3"),
        ({"attractors": []}, "Give at least one value"),
        ({"attractors": [0], "n_items": 301}, "only 300 different"),
    ],
)
def test_what_cannot_be_made_is_refused(changed, words):
    with pytest.raises(InputError, match=words):
        load(**changed)


@pytest.mark.parametrize("number", ["singular", "plural", "both"])
def test_the_items_of_the_shipped_configuration_can_be_made(number):
    entry = conf.read("data", "agreement") | {"number": number}
    entry.pop("dataset")
    assert len(agreement.load(**entry)) == entry["n_items"] == 500


def test_no_noun_is_a_subject_and_an_attractor():
    assert {*SUBJECTS}.isdisjoint(ATTRACTORS)
