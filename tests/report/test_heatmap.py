"""Token maps: the text as it was written, colours that can be read, and no text that acts."""

import html
import math
import re

import numpy as np
import pytest
from rich.console import Console
from shown import attribution, read

from saliency_bench.core.display import fragment, to_rich
from saliency_bench.core.errors import InputError
from saliency_bench.core.heatmap import (
    DARK,
    LIGHT,
    Span,
    TokenMap,
    ink,
    luminance,
    only_top,
    spans_to_html,
    spans_to_rich,
    token_map,
    visible,
)
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.scored_text import ScoredText
from saliency_bench.core.text import Encoded


def map_of(text, pieces, scores, pair=None, signed=True, token=None, special_tokens=False):
    """A map of `text` whose tokens are character ranges (start, end[, segment]), between [CLS] and [SEP]."""
    special = (True, *(False for _ in pieces), True)
    encoded = Encoded(
        example_id="x",
        input_ids=tuple(range(len(special))),
        token_type_ids=None,
        special=special,
        tokens=("[CLS]", *(f"t{i}" for i in range(len(pieces))), "[SEP]"),
        offsets=((-1, -1), *(piece[:2] for piece in pieces), (-1, -1)),
        segments=(-1, *(piece[2] if len(piece) > 2 else 0 for piece in pieces), -1),
        words=(-1, *range(len(pieces)), -1),
        text=text,
        text_pair=pair,
        gold=None,
        position=token,
    )
    setting = {"method": "vanilla", "reduction": "dot" if signed else "l2"}
    scores = np.array([0.0, *scores, 0.0])
    map_ = ScoredText(encoded, setting, scores, target=0, label="x", probability=0.5)
    return token_map(map_, special_tokens)


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


def test_pieces_of_a_word_have_a_score_each():
    tokens = map_of("charmles film", [(0, 5), (5, 8), (9, 13)], [0.25, 0.5, -1.0])
    assert [span.score for span in tokens.spans] == [0.25, 0.5, None, -1.0]


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


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_zero_is_the_panel_and_the_largest_scores_are_the_ends_of_the_scale(palette):
    tokens = TokenMap((Span("a", -2.0), Span("b", 0.0), Span("c", 2.0)), signed=True)
    assert tokens.scale == 2.0
    assert [tokens.color(score, palette) for score in (-2.0, 0.0, 2.0)] == [
        palette.negative,
        palette.zero,
        palette.positive,
    ]


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_scores_without_a_sign_have_one_colour_that_no_sign_has(palette):
    tokens = TokenMap((Span("a", 0.0), Span("b", 1.0), Span("c", 2.0)), signed=False)
    colours = [tokens.color(score, palette) for score in (0.0, 1.0, 2.0)]
    assert colours[0] == palette.zero and colours[2] == palette.size
    halfway = [(zero + end) / 2 for zero, end in zip(palette.zero, palette.size, strict=True)]
    assert colours[1] == pytest.approx(halfway, abs=0.5)
    assert palette.size not in (palette.positive, palette.negative)


def test_equal_distances_from_zero_are_equally_strong():
    tokens = TokenMap((Span("a", -1.0), Span("b", 4.0)), signed=True)
    red, blue = tokens.color(1.0), tokens.color(-1.0)
    strengths = [
        (255 - c[2]) / (255 - end[2]) if end[2] < 255 else 0
        for c, end in ((red, LIGHT.positive), (blue, LIGHT.negative))
    ]
    # A quarter of the way, up to rounding of one of at least 83 steps of a channel.
    assert strengths == pytest.approx([0.25, 0.25], abs=1 / 83)


def test_a_map_of_zeros_has_no_colour():
    assert TokenMap((Span("a", 0.0),), signed=True).color(0.0) == (255, 255, 255)


def contrast(a, b):
    """WCAG 2.2."""
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_text_has_a_contrast_of_at_least_four_and_a_half_on_every_colour(palette, signed):
    tokens = TokenMap((Span("a", 1.0),), signed=signed)
    for score in [*np.linspace(-1 if signed else 0, 1, 401), math.nan]:
        background = tokens.color(float(score), palette)
        assert contrast(ink(background), background) >= 4.5
    assert contrast(palette.text, palette.zero) >= 4.5


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_a_larger_score_stands_out_more_from_the_panel(palette, signed):
    tokens = TokenMap((Span("a", 1.0),), signed=signed)
    for sign in (1, -1) if signed else (1,):
        found = [contrast(tokens.color(sign * x / 20, palette), palette.zero) for x in range(21)]
        assert found == sorted(found) and found[-1] > 3


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


def test_html_shows_text_and_exact_numbers_and_runs_none_of_it():
    text = "<script>alert(1)</script> & \"q\" 'q'"
    pieces = [(i, i + 1) for i in range(len(text)) if text[i] != " "]
    tokens = map_of(text, pieces, np.linspace(-1, 1, len(pieces)).tolist())
    found = read(spans_to_html(tokens))
    assert found.text == text
    assert set(found.tags) == {"bdi", "span"}
    assert found.titles[0] == "-1.0" and found.titles[-1] == "+1.0"


@pytest.mark.parametrize("score", [1 / 3, -0.030238743871450424, 1e-300, 12345678.9, -0.0])
def test_a_tooltip_holds_the_score_itself(score):
    for signed in (True, False):
        (title,) = read(spans_to_html(map_of("a", [(0, 1)], [score], signed=signed))).titles
        assert float(title) == score and title.startswith(("+", "-")) == (signed or score < 0)


def declared(page, key):
    """What a page says of a property, light and dark, in order."""
    return re.findall(rf"[;\"]{key}:light-dark\((#\w+),(#\w+)\)", page)


def hexadecimal(color):
    return "#" + "".join(f"{channel:02x}" for channel in color)


def test_a_page_has_the_colours_of_a_light_and_of_a_dark_panel():
    shown = fragment(attribution())
    panel, *tokens = declared(shown, "background")
    assert panel == (hexadecimal(LIGHT.zero), hexadecimal(DARK.zero))
    assert tokens[0] == (hexadecimal(LIGHT.positive), hexadecimal(DARK.positive))
    for (back, dark_back), (text, dark_text) in zip(
        declared(shown, "background"), declared(shown, "color"), strict=True
    ):
        for a, b in ((back, text), (dark_back, dark_text)):
            assert contrast(*(tuple(bytes.fromhex(one[1:])) for one in (a, b))) >= 4.5
    # What cannot tell light from dark shows the light panel whole: each declaration has one without a choice before it.
    assert shown.count("background:#") == len(declared(shown, "background"))


def test_what_is_no_number_is_grey_and_says_so():
    one = attribution(scores=(0.0, math.nan, -0.25, math.inf))
    tokens = token_map(one)
    assert tokens.scale == 0.25
    assert tokens.color(math.nan) == tokens.color(-math.inf) == LIGHT.missing
    shown = one.to_html(special_tokens=True)
    assert read(shown).titles == ["+0.0", "no number: nan", "-0.25", "no number: inf"]
    assert hexadecimal(LIGHT.missing) in shown
    assert "no number in 2 of 4 scores (NaN or infinite): grey" in shown
    assert "no number in 1 of 2 scores (NaN): grey" in one.to_html()
    assert "good(+nan) film(-0.25)" in spans_to_rich(tokens, colored=False).plain
    with terminal().capture() as _:
        terminal().print(to_rich(one))


def test_a_score_of_nothing_takes_the_colours_of_the_terminal_which_may_be_dark():
    shown = spans_to_rich(TokenMap((Span("a", 0.0), Span("b", 1e-9), Span("c", 1.0)), signed=True))
    assert [str(span.style) for span in shown.spans if " on " in str(span.style)] == [
        f"{hexadecimal(LIGHT.zero)} on {hexadecimal(LIGHT.positive)}"
    ]


def test_a_map_without_any_number_has_no_largest_score():
    shown = read(attribution(scores=(math.nan,) * 4).to_html())
    assert "largest score" not in shown.text and "no number in 2 of 2 scores" in shown.text


def test_only_the_largest_magnitudes_keep_their_colour_and_all_their_numbers():
    spans = (Span("a", 0.1), Span(" "), Span("b", -0.9), Span("c", 0.5), Span("d", 0.5))
    shown = only_top(TokenMap((*spans, Span("e", math.nan)), signed=True), 2)
    assert [span.colored for span in shown.spans] == [False, True, True, True, False, True]
    assert [(span.text, span.score) for span in shown.spans[:5]] == [
        (span.text, span.score) for span in spans
    ]
    page = read(spans_to_html(shown))
    assert page.titles == ["+0.1", "-0.9", "+0.5", "+0.5", "no number: nan"]
    assert declared(spans_to_html(shown), "background") != []
    assert spans_to_rich(shown, colored=False).plain == "a b(-0.9)c(+0.5)de(+nan)"
    assert only_top(shown, None) is shown


@pytest.mark.parametrize("top", [-1, 0, "3", 1.5, True])
def test_a_number_of_tokens_that_makes_no_sense_is_refused(top):
    with pytest.raises(InputError, match=r"top=.*at least 1"):
        only_top(token_map(attribution()), top)
    with pytest.raises((InputError, TypeError)):  # types are checked at run time in tests
        attribution().to_html(top=top)


def test_a_token_that_is_a_tag_is_text():
    tag = "<script>alert(1)</script>"
    found = read(spans_to_html(map_of(f"a {tag} <b>", [(0, 1), (2, 2 + len(tag))], [1.0, -1.0])))
    assert found.text == f"a {tag} <b>"
    assert set(found.tags) == {"bdi", "span"}


def test_an_unsigned_score_has_no_sign():
    assert read(spans_to_html(map_of("a", [(0, 1)], [0.5], signed=False))).titles == ["0.5"]
    assert read(spans_to_html(map_of("a", [(0, 1)], [0.5]))).titles == ["+0.5"]


def test_a_notebook_shows_a_map_with_what_it_explains():
    page = fragment(attribution())
    assert "Vanilla gradient: positive (0.875)good film" in read(page).text
    assert read(page).titles == ["+0.5", "-0.25"]
    label = html.escape("<b>")
    shown = fragment(AttributionMap(**vars(attribution()) | {"label": "<b>"}))
    assert f"{label} (0.875)" in shown


def test_reductions_that_cannot_be_negative_make_unsigned_maps():
    assert not token_map(attribution(reduction="l2")).signed
    assert token_map(attribution(reduction="sum")).signed


def terminal(**options):
    return Console(force_terminal=True, color_system="truecolor", width=80, **options)


def test_a_terminal_shows_the_text_in_colours():
    console = terminal()
    with console.capture() as capture:
        console.print(to_rich(attribution()))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", capture.get())
    assert plain.split("\n")[:2] == ["Vanilla gradient: positive (0.875)", "good film"]
    assert "48;2;178;24;43" in capture.get()  # the background of the largest score


def test_no_control_code_of_a_text_reaches_the_terminal():
    console = terminal()
    one = attribution(text="\x1b]0;x\x07film")
    with console.capture() as capture:
        console.print(to_rich(one))
    left = re.sub(r"\x1b\[[0-9;]*m", "", capture.get())
    assert "\x1b" not in left and "\x07" not in left


def test_without_colours_each_score_follows_its_word():
    text = spans_to_rich(token_map(attribution()), colored=False)
    assert text.plain == "good(+0.5) film(-0.25)"


def test_the_token_of_the_question_is_underlined():
    tokens = map_of("good film", [(0, 4), (5, 9)], [0.1, 0.2], token=2)
    assert [span.marked for span in tokens.spans] == [False, False, True]
    assert spans_to_html(tokens).count("underline") == 1
    assert "underline" in str(spans_to_rich(tokens).spans)
    shared = map_of("abcd", [(0, 3), (2, 4)], [0.1, 0.2], token=2)
    assert [span.marked for span in shared.spans] == [True]
