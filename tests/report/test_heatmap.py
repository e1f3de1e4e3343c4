"""Token maps: the text as it was written, colours that can be read, and no text that acts."""

import html
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from saliency_bench.encoded import Encoded
from saliency_bench.maps import AttributionMap
from saliency_bench.report.heatmap import (
    NEGATIVE,
    POSITIVE,
    Span,
    TokenMap,
    ink,
    luminance,
    map_of_attribution,
    map_to_html,
    map_to_rich,
    spans_to_html,
    spans_to_rich,
    token_map,
    visible,
)


def map_of(text, pieces, scores, pair=None, words=None, signed=True, **options):
    """A map of `text` whose tokens are character ranges (start, end[, segment]), between [CLS] and [SEP]."""
    starts = [-1, *(piece[0] for piece in pieces), -1]
    ends = [-1, *(piece[1] for piece in pieces), -1]
    segments = [-1, *(piece[2] if len(piece) > 2 else 0 for piece in pieces), -1]
    return token_map(
        texts=(text, pair),
        tokens=["[CLS]", *(f"t{i}" for i in range(len(pieces))), "[SEP]"],
        starts=starts,
        ends=ends,
        segments=segments,
        words=[-1, *(words or range(len(pieces))), -1],
        scores=[0.0, *scores, 0.0],
        signed=signed,
        **options,
    )


def written(tokens):
    return "".join(span.text for span in tokens.spans)


def test_a_text_is_shown_as_it_was_written():
    text = "  Très  BON, film\n(2024)… "
    tokens = map_of(text, [(2, 6), (8, 11), (11, 12), (13, 17)], [0.1, 0.2, 0.3, 0.4])
    # What stands before the first and after the last token was read by nobody, but was written.
    assert written(tokens) == text
    assert [span.text for span in tokens.spans if span.score is not None] == [
        "Très",
        "BON",
        ",",
        "film",
    ]


def test_pieces_of_a_word_are_summed_where_words_are_asked_for():
    pieces, scores, words = [(0, 5), (5, 8), (9, 13)], [0.25, 0.5, -1.0], [0, 0, 1]
    tokens = map_of("grippin gly", [(0, 7), (8, 11)], [0.25, 0.5], words=[0, 0], unit="word")
    assert tokens.spans == (Span("grippin gly", 0.75),)
    by_word = map_of("charmles film", pieces, scores, words=words, unit="word")
    assert by_word.spans == (Span("charmles", 0.75), Span(" "), Span("film", -1.0))
    by_token = map_of("charmles film", pieces, scores, words=words)
    assert [span.score for span in by_token.spans] == [0.25, 0.5, None, -1.0]


def test_tokens_that_share_a_character_are_one_span():
    # Byte-level tokens of one emoji all have the emoji's place.
    tokens = map_of("a🙂b", [(0, 1), (1, 2), (1, 2), (2, 3)], [0.1, 0.25, 0.5, 0.2])
    assert tokens.spans == (Span("a", 0.1), Span("🙂", 0.75), Span("b", 0.2))


def test_a_pair_of_texts_is_shown_one_after_the_other():
    tokens = map_of("ab cd", [(0, 2), (3, 5), (0, 2, 1)], [0.1, 0.2, 0.3], pair="ef gh")
    assert written(tokens) == "ab cd\nef gh"
    assert tokens.spans[-2:] == (Span("ef", 0.3), Span(" gh"))


def test_special_tokens_are_shown_only_if_asked_for():
    assert written(map_of("ab", [(0, 2)], [1.0])) == "ab"
    assert written(map_of("ab", [(0, 2)], [1.0], special_tokens=True)) == "[CLS] ab [SEP]"


def test_tokens_without_a_place_are_shown_as_the_tokenizer_writes_them():
    tokens = map_of("", [(-1, -1), (-1, -1)], [0.1, 0.2])
    assert written(tokens) == "t0 t1"


def test_zero_is_white_and_the_largest_scores_are_the_ends_of_the_scale():
    tokens = TokenMap((Span("a", -2.0), Span("b", 0.0), Span("c", 2.0)), signed=True)
    assert tokens.scale == 2.0
    assert [tokens.color(score) for score in (-2.0, 0.0, 2.0)] == [
        NEGATIVE,
        (255, 255, 255),
        POSITIVE,
    ]


def test_equal_distances_from_zero_are_equally_strong():
    tokens = TokenMap((Span("a", -1.0), Span("b", 4.0)), signed=True)
    red, blue = tokens.color(1.0), tokens.color(-1.0)
    strengths = [
        (255 - c[2]) / (255 - end[2]) if end[2] < 255 else 0
        for c, end in ((red, POSITIVE), (blue, NEGATIVE))
    ]
    # A quarter of the way, up to rounding of one of at least 83 steps of a channel.
    assert strengths == pytest.approx([0.25, 0.25], abs=1 / 83)


def test_a_map_of_zeros_is_white():
    assert TokenMap((Span("a", 0.0),), signed=True).color(0.0) == (255, 255, 255)


def contrast(a, b):
    """WCAG 2.2."""
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_has_a_contrast_of_at_least_four_and_a_half_on_every_colour():
    tokens = TokenMap((Span("a", 1.0),), signed=True)
    for score in np.linspace(-1, 1, 401):
        background = tokens.color(float(score))
        assert contrast(ink(background), background) >= 4.5


def test_luminance_by_hand():
    assert luminance((255, 255, 255)) == pytest.approx(1.0)
    assert luminance((0, 0, 0)) == 0.0
    # sRGB 127 is ((127/255 + 0.055) / 1.055)^2.4 = 0.2122 linear.
    assert luminance((127, 127, 127)) == pytest.approx(0.2122, abs=5e-5)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", "a␛[31mb"),
        ("a\nb\tc\r\x00\x7f", "a␊b␉c␍␀␡"),
        ("a\x9b31mb", "a�31mb"),
        ("a\u202eb\u2066c\u200f", "a�b�c�"),
        ("\ud800", "�"),
        ("愛 é 👩‍👧", "愛 é 👩‍👧"),
    ],
)
def test_what_would_act_on_a_page_or_terminal_is_a_symbol(text, shown):
    assert visible(text) == shown


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.titles = [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.titles += [value for key, value in attrs if key == "title"]

    def handle_data(self, data):
        self.text += data


def read(page):
    reader = Reader()
    reader.feed(page)
    return reader


def test_html_shows_text_and_exact_numbers_and_runs_none_of_it():
    text = "<script>alert(1)</script> & \"q\" 'q'"
    pieces = [(i, i + 1) for i in range(len(text)) if text[i] != " "]
    tokens = map_of(text, pieces, np.linspace(-1, 1, len(pieces)).tolist())
    found = read(spans_to_html(tokens))
    assert found.text == text
    assert set(found.tags) == {"bdi", "span"}
    assert found.titles[0] == "-1" and found.titles[-1] == "+1"


def test_a_token_that_is_a_tag_is_text():
    tag = "<script>alert(1)</script>"
    found = read(spans_to_html(map_of(f"a {tag} <b>", [(0, 1), (2, 2 + len(tag))], [1.0, -1.0])))
    assert found.text == f"a {tag} <b>"
    assert set(found.tags) == {"bdi", "span"}


def test_an_unsigned_score_has_no_sign():
    assert read(spans_to_html(map_of("a", [(0, 1)], [0.5], signed=False))).titles == ["0.5"]
    assert read(spans_to_html(map_of("a", [(0, 1)], [0.5]))).titles == ["+0.5"]


def attribution(text="good film", scores=(0.0, 0.5, -0.25, 0.0), **setting):
    encoded = Encoded(
        example_id="e",
        input_ids=(1, 2, 3, 4),
        token_type_ids=None,
        special=(True, False, False, True),
        tokens=("[CLS]", "good", "film", "[SEP]"),
        offsets=((-1, -1), (0, 4), (5, 9), (-1, -1)),
        segments=(-1, 0, 0, -1),
        words=(-1, 0, 1, -1),
        text=text,
        text_pair=None,
        gold=None,
    )
    given = {"name": "vanilla", "backend": "native", "reduction": "dot"} | setting
    return AttributionMap(encoded, given, np.array(scores), 1, "positive", 0.875)


def test_a_notebook_shows_a_map_with_what_it_explains():
    page = map_to_html(attribution())
    assert read(page).text == "Vanilla gradient (native): positive (0.875)good film"
    assert read(page).titles == ["+0.5", "-0.25"]
    label = html.escape("<b>")
    shown = map_to_html(AttributionMap(**vars(attribution()) | {"label": "<b>"}))
    assert f"{label} (0.875)" in shown


def test_reductions_that_cannot_be_negative_make_unsigned_maps():
    assert not map_of_attribution(attribution(reduction="l2")).signed
    assert map_of_attribution(attribution(reduction="sum")).signed


def terminal(**options):
    return Console(force_terminal=True, color_system="truecolor", width=80, **options)


def test_a_terminal_shows_the_text_in_colours():
    console = terminal()
    with console.capture() as capture:
        console.print(map_to_rich(attribution()))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", capture.get())
    assert plain.split("\n")[:2] == ["Vanilla gradient (native): positive (0.875)", "good film"]
    assert "48;2;178;24;43" in capture.get()  # the background of the largest score


def test_no_control_code_of_a_text_reaches_the_terminal():
    console = terminal()
    one = attribution(text="\x1b]0;x\x07film")
    with console.capture() as capture:
        console.print(map_to_rich(one))
    left = re.sub(r"\x1b\[[0-9;]*m", "", capture.get())
    assert "\x1b" not in left and "\x07" not in left


def test_without_colours_each_score_follows_its_word():
    text = spans_to_rich(map_of_attribution(attribution()), colored=False)
    assert text.plain == "good(+0.5) film(-0.25)"
