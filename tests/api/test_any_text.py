"""Whatever text is written: tokens, words, units and what is removed cover it, and nothing is counted twice or lost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saliency_bench.core.errors import InputError
from saliency_bench.core.heatmap import token_map
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.units import NONE, heads, summed, units
from saliency_bench.data.example import Example
from saliency_bench.evaluation.ranking import rank
from saliency_bench.models.loading import load_model
from saliency_bench.models.tasks.registry import task_of

WORDS = [
    "the",
    "film",
    "unseen",
    "w1w2",
    "naïve",
    "é",
    "e\u0301",
    "👩‍👩‍👧",
    "🙂",
    "日本語",
    "שלום",
    "a\u200db",
    "it's",
]
SPACES = [" ", "  ", "\t", "\n", "\u00a0", "", ", "]
texts = st.lists(
    st.tuples(st.sampled_from(WORDS) | st.text(max_size=4), st.sampled_from(SPACES)),
    min_size=1,
    max_size=9,
).map(lambda parts: "".join(word + space for word, space in parts))


@pytest.fixture(scope="module")
def model(folder):
    return load_model(str(folder), device="cpu")


def encoded(model, text, pair=None):
    """The text as tokens; None where it is refused, as one without a token is."""
    try:
        return task_of(model).encode(model, Example("x", text, pair), "truncate")
    except InputError:
        return None


def map_of(text, draw):
    scores = np.random.default_rng(draw).normal(size=len(text))
    setting = {"name": "scores", "method": "vanilla", "reduction": "sum"}
    return AttributionMap(text, setting, scores, 0, "yes", 0.5)


@settings(max_examples=150, derandomize=True)
@given(texts, st.none() | texts, st.integers(0, 99))
def test_words_lie_in_the_text_in_order_and_hold_every_score_once(model, text, pair, draw):
    found = encoded(model, text, pair)
    if found is None:
        return
    one = map_of(found, draw)
    sources = [text] if pair is None else [text, pair]
    assert [segment.text for segment in one.segments()] == sources
    for source, segment in zip(sources, one.segments(), strict=True):
        ends = 0
        for word in segment.words:
            assert ends <= word.start < word.end <= len(source)
            assert source[word.start : word.end] == word.text
            ends = word.end
    inner = one.scores[list(one.attributable)].sum()
    assert sum(word.score for word in one.words()) == pytest.approx(inner, abs=1e-12)


@settings(max_examples=150, derandomize=True)
@given(texts, st.none() | texts)
def test_a_shown_map_is_the_text_as_it_was_written(model, text, pair):
    found = encoded(model, text, pair)
    if found is None or found.truncated:
        return
    shown = "".join(span.text for span in token_map(map_of(found, 0)).spans)
    assert shown == (text if pair is None or 1 not in found.segments else f"{text}\n{pair}")


@settings(max_examples=150, derandomize=True)
@given(texts, st.sampled_from(["token", "word"]), st.integers(0, 99), st.booleans())
def test_what_is_removed_grows_by_whole_units_until_only_special_tokens_stay(
    model, text, granularity, draw, signed
):
    found = encoded(model, text)
    if found is None:
        return
    unit_of = units(found, granularity)
    special = np.array(found.special)
    assert (special == (unit_of == NONE)).all()
    scores = summed(np.random.default_rng(draw).normal(size=len(found)), unit_of)
    ranked = rank(scores, heads(unit_of), signed=signed, tie_seed=text)
    assert sorted(ranked) == sorted({*unit_of[unit_of != NONE]})
    before = np.ones(len(found), bool)
    for k in range(len(ranked) + 1):
        stays = np.isin(unit_of, [NONE, *ranked[k:]])
        assert not (stays & ~before).any()  # nothing comes back
        gone = before & ~stays
        assert (unit_of[gone] == (ranked[k - 1] if k else NONE)).all()  # one unit, whole
        assert gone.any() == (k > 0)
        before = stays
    assert (before == special).all()
