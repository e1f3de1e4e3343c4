"""The message for an unknown name is one that can be read, and names what was meant."""

import pytest

from saliency_bench.core.errors import unknown

MANY = [f"method_{letter}" for letter in "abcdefghijklmnop"]


def test_a_misprint_of_one_of_many_names_is_answered_without_the_list():
    message = str(unknown("method", "smothgrad", [*MANY, "smoothgrad"]))
    assert message == "unknown method 'smothgrad'; did you mean 'smoothgrad'?"


@pytest.mark.parametrize("name", ["ig", "foo"])
def test_what_is_no_plain_misprint_is_answered_with_all_names(name):
    message = str(unknown("method", name, [*MANY, "dig", "integrated_gradients"]))
    assert "integrated_gradients" in message and all(method in message for method in MANY)


def test_few_names_are_always_listed():
    assert str(unknown("sampler", "iidd", ["iid", "centred"])).endswith("Known: centred, iid.")


def test_initials_mean_the_name_that_they_are_of():
    names = ["idg", "integrated_gradients", "leave_one_out"]
    for name, meant in (("ig", "integrated_gradients"), ("loo", "leave_one_out"), ("idk", "idg")):
        assert f"did you mean {meant!r}" in str(unknown("method", name, names))
