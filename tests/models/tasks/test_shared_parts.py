"""What tokenised texts have in common is held once, and that changes none of them."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from saliency_bench.core.text import Encoded, Shared
from saliency_bench.models.tasks.encoding import encode


def reached(items):
    """Bytes of all that texts hold, each object counted once."""
    seen, waiting, total = set(), list(items), 0
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        total += sys.getsizeof(one)
        if isinstance(one, Encoded):
            waiting += [getattr(one, name) for name in Encoded.__slots__]
        elif isinstance(one, tuple):
            waiting += one
    return total


def test_a_text_of_a_study_takes_less_than_two_kilobytes_and_is_equal_to_what_was_tokenised(
    default_model,
):
    from saliency_bench.data.movie_reviews import load

    plain = encode(default_model, load(split="train")[:2000])
    share = Shared()
    shared = [share(item) for item in plain]
    assert shared == plain
    assert [repr(item) for item in shared] == [repr(item) for item in plain]  # True is not 1
    # The ten thousand words of a vocabulary stand apart from what each text adds.
    grown = (reached(shared) - reached(shared[:1000])) / 1000
    assert grown < 1900
    assert reached(plain) > 2 * reached(shared)


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6))
def test_parts_of_other_kinds_are_not_confused_where_they_are_equal(pairs):
    ids, flags = zip(*pairs, strict=True)
    places = tuple((one, one + 1) for one in ids)
    item = Encoded("e", ids, ids, flags, tuple(map(str, ids)), places, ids, ids, "text", None, None)
    share = Shared()
    for _ in range(2):
        assert repr(share(item)) == repr(item)
