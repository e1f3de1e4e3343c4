"""Rated words: as the lexicon has them, matched whole, and with the sign that was asked for."""

import pytest

from saliency_bench.core.errors import InputError
from saliency_bench.data import lexicon, movie_reviews


def words(text, positive, least=1.0):
    return [text[start:end] for _, start, end in lexicon.rated(text, positive, least)]


def test_ratings_are_the_means_of_the_ten_people():
    found = lexicon.ratings()
    assert len(found) > 7000
    lines = lexicon.FILE.read_text("utf-8").splitlines()
    for line in lines[100::500]:
        word, mean, _, ten = line.split("\t")
        people = [int(one) for one in ten.strip("[]").split(",")]
        assert len(people) == 10
        assert found[word] == float(mean) == pytest.approx(sum(people) / 10)


def test_words_are_matched_whole_and_whatever_their_case():
    text = "GREAT fun, funnel; a much-loved horror"
    assert words(text, True) == ["GREAT", "fun", "loved"]
    assert words(text, False) == ["horror"]


def test_only_words_with_the_sentences_sign_and_enough_of_it_count():
    text = "a good but terrible film"
    assert words(text, True) == ["good"]
    assert words(text, False) == ["terrible"]
    assert words(text, True, least=3.0) == []


def test_the_bundled_sentences_are_marked_only_where_asked():
    assert all(one.relevant is None for one in movie_reviews.load(split="validation")[:20])
    marked = movie_reviews.load(split="validation", lexicon=1.0)
    for one in marked[:100]:
        sign = 1 if one.label else -1
        for segment, start, end in one.relevant:
            assert segment == 0
            assert sign * lexicon.ratings()[one.text[start:end].lower()] >= 1
    share = sum(bool(one.relevant) for one in marked) / len(marked)
    assert 0.3 < share < 1


@pytest.mark.parametrize("least", [0.0, -1.0, 5.0])
def test_a_rating_that_no_word_can_have_is_refused(least):
    with pytest.raises(InputError, match="lexicon="):
        movie_reviews.load(split="test", lexicon=least)
