"""Names of examples: made from the texts, whatever the order of the rows."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saliency_bench.data.records import Columns, to_examples


def examples(rows, **columns):
    return to_examples(enumerate(rows, start=1), Columns(**columns), "data")


@given(
    rows=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), min_size=1, max_size=8),
    seed=st.integers(0, 9),
)
def test_ids_do_not_depend_on_the_order_of_rows(rows, seed):
    rows = [{"text": text, "label": label} for text, label in rows]
    before, after = (
        Counter((e.id, e.text, e.label) for e in examples(order, text="text", label="label"))
        for order in (rows, random.Random(seed).sample(rows, len(rows)))
    )
    assert before == after


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=8))
def test_no_two_examples_share_an_id(texts):
    found = examples([{"text": text} for text in texts], text="text")
    assert len({e.id for e in found}) == len(texts)
    assert [e.text for e in found] == texts


def test_an_id_is_the_hash_of_the_text_and_repeats_are_numbered():
    found = examples([{"text": text} for text in ("hello", "world", "hello")], text="text")
    # printf hello | sha256sum
    assert [e.id for e in found] == ["2cf24dba5fb0", "486ea46224d1", "2cf24dba5fb0-2"]


@pytest.mark.parametrize("between", ["", " ", "\n"])
def test_where_a_pair_is_cut_is_part_of_its_id(between):
    rows = [{"a": f"x{between}y", "b": "z"}, {"a": "x", "b": f"y{between}z"}]
    first, second = examples(rows, text="a", text_pair="b")
    assert first.id.partition("-")[0] != second.id.partition("-")[0]


def test_whole_numbers_are_ids():
    rows = [{"text": "a", "n": 7}, {"text": "b", "n": 8}]
    assert [e.id for e in examples(rows, text="text", id="n")] == ["7", "8"]
