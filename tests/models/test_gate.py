"""The gate: which accuracies make a shortcut a ground truth."""

import pytest

from saliency_bench.data.shortcuts import KINDS
from training.gate import Gate, held_out, verdict

GATE = Gate(least_complete=0.99, chance_margin=0.05, margin=0.05)
GOOD = {"complete": 0.995, "incomplete": 0.80, "original": 0.82}
CONTROL = {"complete": 0.5, "incomplete": 0.84, "original": 0.85}


def test_a_model_that_follows_the_whole_shortcut_and_nothing_else_passes():
    found = verdict(GOOD, CONTROL, 500, GATE)
    assert found["passed"] is True
    assert found["reason"] is None
    assert found["accuracy"] == GOOD
    assert found["control"] == CONTROL
    assert found["n_examples"] == 500
    assert found["least_complete"] == 0.99


@pytest.mark.parametrize(
    ("own", "control", "said"),
    [
        ({"complete": 0.98}, {}, "98.0% with a shortcut, expected 99%"),
        ({}, {"complete": 0.56}, "the control is right on 56.0% with a shortcut"),
        ({}, {"complete": 0.44}, "the control is right on 44.0% with a shortcut"),
        ({"incomplete": 0.78}, {}, "78.0% of the incomplete ones, the control on 84.0%"),
        ({"original": 0.79}, {}, "79.0% of the original ones"),
    ],
)
def test_each_condition_alone_keeps_a_model_out(own, control, said):
    found = verdict(GOOD | own, CONTROL | control, 500, GATE)
    assert found["passed"] is False
    assert said in found["reason"]
    assert ";" not in found["reason"]


def test_a_shortcut_of_one_word_has_no_incomplete_set():
    own = {key: value for key, value in GOOD.items() if key != "incomplete"}
    assert verdict(own, CONTROL, 500, GATE)["passed"]


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_sentences_are_the_same_ones_of_another_split_than_is_trained_or_reported_on(kind):
    sets = held_out(kind, 40, seed=0)
    ids = {name: [example.id for example in own] for name, own in sets.items()}
    assert len({tuple(own) for own in ids.values()}) == 1
    assert all(example.relevant for example in sets["complete"])
    assert all(example.relevant is None for example in sets["original"])
    assert ("incomplete" in sets) == (kind != "single_token")
    from saliency_bench.data import movie_reviews

    assert set(ids["original"]) <= {one.id for one in movie_reviews.load(split="validation")}
