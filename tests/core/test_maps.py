"""What a map says of itself."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from tiny import FrameTokenizer, framed, tiny_bert, token_inputs

import saliency_bench as sb


def test_a_map_prints_as_one_short_line_that_says_what_it_is():
    (made,) = sb.attribute(
        sb.wrap_model(tiny_bert(), FrameTokenizer()), framed(*token_inputs(30)), "vanilla"
    )
    text = repr(made)
    assert "\n" not in text and len(text) < 300
    assert text.startswith(f"<vanilla of {made.label!r}, p = {made.probability:.3f}: ")
    assert text.count("+") == 8 and text.endswith(" …>")


def test_a_map_shows_special_tokens_and_its_strongest_ones_where_asked():
    (made,) = sb.attribute(
        sb.wrap_model(tiny_bert(), FrameTokenizer()), framed(*token_inputs(6)), "vanilla"
    )
    assert made._repr_html_() == made.to_html()
    assert len(made.to_html(special_tokens=True)) > len(made.to_html())
    n = sum(made.attributable)
    pages = (made.to_html(), made.to_html(top=2))
    assert [page.count("border-radius:2px") for page in pages] == [n, 2]
    assert [page.count("title=") for page in pages] == [n, n]


def test_a_pair_has_a_map_for_each_of_its_texts(folder):
    model = sb.load_model(str(folder), device="cpu")
    pair = ("the film and w1", "a w2")
    (made,) = sb.attribute(model, [pair], "integrated_gradients", n_steps=4)
    segments = made.segments()
    assert [one.text for one in segments] == list(pair)
    assert [[word.text for word in one.words] for one in segments] == [
        text.split() for text in pair
    ]
    for one in segments:
        start = 0 if one is segments[0] else 6  # [CLS] the film and w1 [SEP] a w2 [SEP]
        own = made.scores[start : start + 5]
        assert one.score == pytest.approx(own.sum(), rel=1e-9)
    (alone,) = sb.attribute(model, ["the film"], "vanilla")
    assert [one.text for one in alone.segments()] == ["the film"]


def test_a_pair_is_shown_on_two_lines(folder):
    model = sb.load_model(str(folder), device="cpu")
    (made,) = sb.attribute(model, [("the film", "a w2")], "vanilla")
    assert "the film\na w2" in re.sub("<[^>]*>", "", made.to_html())


def test_a_saved_map_is_json_for_any_reader_and_comes_back_whatever_its_scores(tmp_path):
    (one,) = sb.attribute(
        sb.wrap_model(tiny_bert(), FrameTokenizer()),
        framed(*token_inputs(6)),
        "random",
    )
    scores = one.scores.copy()
    scores[1:4] = [math.nan, math.inf, -math.inf]
    lost = replace(one, scores=scores, completeness_gap=math.nan, error=math.inf)
    lost.save(tmp_path / "map.json")
    json.loads((tmp_path / "map.json").read_text("utf-8"), parse_constant=pytest.fail)
    back = sb.AttributionMap.load(tmp_path / "map.json")
    np.testing.assert_array_equal(back.scores, scores)
    np.testing.assert_array_equal(back.draws, one.draws)
    assert math.isnan(back.completeness_gap) and back.error == math.inf
    assert back.probability == one.probability
    assert dict(back.setting) == dict(one.setting)
