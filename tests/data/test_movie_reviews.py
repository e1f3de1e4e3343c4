"""The bundled sentences: what the data card says, and a split that depends on the texts alone."""

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from saliency_bench.core.errors import InputError
from saliency_bench.data import movie_reviews
from training.prepare_movie_reviews import prepare

COUNTS = {"train": (8566, 4258), "validation": (1000, 502), "test": (1000, 481)}  # all, positive


@pytest.fixture(scope="module")
def splits():
    return {split: movie_reviews.load(split=split) for split in movie_reviews.SPLITS}


def lines_of(splits):
    """The original file's lines, as far as they were kept."""
    return [
        f"{example.id.removeprefix('movie-')}\t{example.extra['rating']!r}\t{example.text}"
        for examples in splits.values()
        for example in examples
    ]


@pytest.mark.parametrize("split", movie_reviews.SPLITS)
def test_the_data_card_counts_right(splits, split):
    labels = [example.label for example in splits[split]]
    assert (len(labels), sum(labels)) == COUNTS[split]
    card = (movie_reviews.FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"| {split} | {len(labels):,} | {sum(labels):,} (" in card


def test_splits_are_disjoint_and_no_text_or_id_repeats(splits):
    examples = [example for split in splits.values() for example in split]
    assert len({example.text for example in examples}) == len(examples) == 10_566
    assert len({example.id for example in examples}) == len(examples)


def test_the_label_is_the_sign_of_the_rating(splits):
    for split in splits.values():
        for example in split:
            assert example.extra["rating"] != 0
            assert movie_reviews.LABELS[example.label] == (
                "positive" if example.extra["rating"] > 0 else "negative"
            )


def test_the_smallest_hashes_are_the_test_split_then_validation(splits):
    def digests(split):
        return [hashlib.sha256(example.text.encode()).hexdigest() for example in splits[split]]

    for split in movie_reviews.SPLITS:
        assert digests(split) == sorted(digests(split))
    assert digests("test")[-1] < digests("validation")[0]
    assert digests("validation")[-1] < digests("train")[0]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_of_the_original_file_does_not_matter(splits, seed):
    lines = lines_of(splits)
    shuffled = random.Random(seed).sample(lines, len(lines))
    assert_frame_equal(prepare(shuffled), prepare(lines))


def test_the_shipped_table_is_a_fixed_point_of_its_preparation(splits):
    table = prepare(lines_of(splits))
    for split, examples in splits.items():
        assert list(table.text[table.split == split]) == [example.text for example in examples]


@settings(deadline=None, max_examples=20)
@given(
    rows=st.lists(st.tuples(st.sampled_from([-1.5, 0.0, 0.5]), st.sampled_from("abc")), max_size=9),
    seed=st.integers(0, 9),
)
def test_neutral_and_repeated_sentences_go_and_the_smallest_id_stays(rows, seed):
    lines = [f"{number}\t{rating}\t{text}" for number, (rating, text) in enumerate(rows)]
    kept = {}
    for number, (rating, text) in enumerate(rows):
        if rating and text not in kept:
            kept[text] = (number, rating)
    table = prepare(random.Random(seed).sample(lines, len(lines)))
    assert dict(zip(table.text, zip(table.id, table.rating, strict=True), strict=True)) == kept


def test_an_unknown_split_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"data\.split 'tset'; did you mean 'test'\?"):
        movie_reviews.load(split="tset")
