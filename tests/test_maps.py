"""What a map says of itself."""

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
    coloured = [page.count("title=") for page in (made.to_html(), made.to_html(top=2))]
    assert coloured == [sum(made.attributable), 2]
