"""Gold labels against the classes of a model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saliency_bench.core.errors import InputError
from saliency_bench.data.labels import as_label, resolve_label

SENTIMENT = ("negative", "positive")


@given(
    st.lists(st.text(st.characters(categories=["Lu", "Ll"]), min_size=1), min_size=1, unique=True)
)
def test_every_class_is_found_by_its_name_and_by_its_number(labels):
    for index, name in enumerate(labels):
        # "nan" is how a missing label is written, and true and false are no names here.
        if name.lower() != "nan":
            assert resolve_label(name, labels, "here") == index
        assert resolve_label(index, labels, "here") == index


@pytest.mark.parametrize(
    "label",
    [1, 1.0, True, "1", "1.0", " 1 ", "+1", "positive", "Positive", " POSITIVE", "true", "True"],
)
def test_ways_to_say_one(label):
    assert resolve_label(label, SENTIMENT, "here") == 1


@pytest.mark.parametrize(
    "label", [np.int64(1), np.float32(1), np.bool_(True), np.array(1), np.str_("positive")]
)
def test_numbers_of_numpy_are_numbers(label):
    assert resolve_label(label, SENTIMENT, "here") == 1


def test_the_same_case_comes_before_any_case():
    assert [resolve_label(label, ("us", "US"), "here") for label in ("us", "US")] == [0, 1]


def test_a_name_comes_before_a_number_in_text():
    stars = ("1", "2", "3", "4", "5")
    assert resolve_label("5", stars, "here") == 4
    assert resolve_label(3, stars, "here") == 3


def test_a_name_comes_before_a_boolean_in_text():
    assert resolve_label("true", ("true", "false"), "here") == 0


def test_a_name_in_another_case_that_fits_two_classes_is_refused():
    with pytest.raises(
        InputError, match=r"data\.csv:3: label 'Us' fits classes 0 and 1: give the number"
    ):
        resolve_label("Us", ("us", "US"), "data.csv:3")


@pytest.mark.parametrize("label", [2, -1, "2", "-1", "neutral", "½", "１", "9" * 5000])
def test_a_label_the_model_lacks_is_refused_with_the_classes_it_has(label):
    with pytest.raises(InputError) as caught:
        resolve_label(label, SENTIMENT, "data.csv:3")
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert message.startswith("data.csv:3: label ")
    assert "0 = 'negative', 1 = 'positive'" in message


def test_the_nearest_class_is_suggested():
    with pytest.raises(InputError, match="Did you mean 'positive'"):
        resolve_label("positiv", SENTIMENT, "here")


def test_of_many_classes_some_are_listed():
    with pytest.raises(InputError, match=r"19 = 'c19', \.\.\. \(1000 in all\)"):
        resolve_label("x", [f"c{index}" for index in range(1000)], "here")


@pytest.mark.parametrize("label", [None, float("nan"), "", "  ", "nan"])
def test_a_missing_label_is_refused(label):
    with pytest.raises(InputError, match=r"data\.csv:3: the label is missing"):
        as_label(label, "data.csv:3")


def test_classes_without_names_of_their_own_say_how_they_get_some():
    with pytest.raises(InputError, match=r"0 = 'LABEL_0'.*model\.labels=.*labels="):
        resolve_label("positive", ["LABEL_0", "LABEL_1"], "a.csv:2")
    with pytest.raises(InputError) as named:
        resolve_label("positive", ["good", "LABEL_1"], "a.csv:2")
    assert "model.labels" not in str(named.value)
