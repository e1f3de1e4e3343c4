"""What is known to matter in a text, from characters to tokens."""

import pytest

from saliency_bench.data.example import Example
from saliency_bench.models.tasks.encoding import encode


def relevant(model, text, spans, pair=None):
    (item,) = encode(model, [Example("one", text, pair, relevant=spans)])
    return None if item.relevant is None else list(zip(item.tokens, item.relevant, strict=True))


@pytest.mark.parametrize(
    ("spans", "found"),
    [
        (((0, 0, 1),), ["a"]),
        (((0, 2, 9),), ["grip", "##ing"]),  # every piece of the word
        (((0, 8, 13),), ["##ing", "film"]),  # a piece that is only touched
        (((0, 1, 2),), []),  # a space
        ((), []),
        (((1, 0, 4),), []),  # another segment
    ],
)
def test_tokens_that_share_a_character_with_a_span_are_relevant(default_model, spans, found):
    tokens = relevant(default_model, "a griping film", spans)
    assert [token for token, flag in tokens if flag] == found


def test_nothing_known_is_another_thing_than_nothing_relevant(default_model):
    assert relevant(default_model, "a film", None) is None
    assert not any(flag for _, flag in relevant(default_model, "a film", ()))


def test_spans_of_a_pair_lie_in_their_own_text(default_model):
    tokens = relevant(default_model, "a film", ((1, 0, 3),), "the film")
    assert [place for place, (_, flag) in enumerate(tokens) if flag] == [4]
    assert tokens[4][0] == "the"
