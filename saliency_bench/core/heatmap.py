"""Token maps as coloured text, for a page and for a terminal."""

import html
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from numbers import Integral
from typing import TYPE_CHECKING, NamedTuple

from saliency_bench.core.errors import InputError
from saliency_bench.core.method_facts import signed as has_sign
from saliency_bench.core.scored_text import ScoredText

if TYPE_CHECKING:
    from rich.text import Text

Color = tuple[int, int, int]


class Palette(NamedTuple):
    """The colours of maps: `zero` is the panel behind the text, `size` is for scores without a sign."""

    zero: Color
    positive: Color
    negative: Color
    size: Color
    missing: Color
    text: Color


#: Ends of ColorBrewer's RdBu, which colour-blind readers can distinguish, and of its PuOr for scores without a sign.
LIGHT = Palette(
    zero=(255, 255, 255),
    positive=(178, 24, 43),
    negative=(33, 102, 172),
    size=(84, 39, 136),
    missing=(214, 214, 214),
    text=(17, 17, 17),
)
#: The same hues, as bright as white text allows: on a dark panel it is the larger score that is brighter.
DARK = Palette(
    zero=(28, 33, 38),
    positive=(214, 40, 57),
    negative=(33, 118, 199),
    size=(136, 84, 208),
    missing=(88, 94, 101),
    text=(228, 232, 236),
)

#: They would reorder or hide the text around them.
_INVISIBLE = {
    *"\u061c\u200b\u200e\u200f\ufeff",
    *(chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))),
}


#: Roles of text without a score: the name of a segment, or the token of a continuation that a map explains.
NAME, NEXT = "name", "next"
#: Styles by role. Text without a role is the words of a chat's template, or text that the model did not read.
_ROLES = {
    NAME: "font-size:.7em;opacity:.8;border:1px solid;border-radius:3px;padding:0 .3em;margin-right:.35em",
    NEXT: "font-weight:600;border:2px solid;border-radius:4px;padding:0 .15em",
    "": "opacity:.65",
}


@dataclass(frozen=True)
class Span:
    """A piece of text with its score; None between tokens and for text that the model did not see.

    `colored` is False if other scores are to stand out. `marked` is True for the token that the question of the text is
    about. Without a score, `role` is `NAME` for the name of the segment that begins here, and `NEXT` for the token that the
    map explains.
    """

    text: str
    score: float | None = None
    colored: bool = True
    marked: bool = False
    role: str = ""


#: Stands between a text and its pair; a line break inside a text is shown as a sign.
BREAK = Span("\n")


@dataclass(frozen=True)
class TokenMap:
    """A text cut into spans. Colours are relative to `scale`, the largest absolute score that is a number."""

    spans: tuple[Span, ...]
    signed: bool

    @property
    def scale(self) -> float:
        """The largest magnitude of a finite score, which has the strongest colour."""
        return max((abs(score) for score in self.scores if math.isfinite(score)), default=0.0)

    @property
    def scores(self) -> list[float]:
        """The scores of all spans that have one, in order."""
        return [span.score for span in self.spans if span.score is not None]

    def color(self, score: float, palette: Palette = LIGHT) -> Color:
        """Returns red for positive and blue for negative scores, or one hue without signs; 0 has the panel's colour."""
        if not math.isfinite(score):
            return palette.missing
        strength = abs(score) / self.scale if self.scale else 0.0
        end = palette.positive if score > 0 else palette.negative
        red, green, blue = (
            round(z + strength * (e - z))
            for z, e in zip(palette.zero, end if self.signed else palette.size, strict=True)
        )
        return red, green, blue


def token_map(map_: ScoredText, special_tokens: bool = False) -> TokenMap:
    """Returns the text of a map, cut into tokens with their scores and the words between them.

    Tokens stand in their text as it was written, and as the tokenizer writes them if their place in it is unknown. The
    names of segments (`Encoded.parts`) are put before their first token. The token that the question of the text is about
    is marked; for a boundary of an answer, that is the explained token.

    Args:
        map_: the map.
        special_tokens: whether special tokens such as [CLS] are shown.
    """
    encoded, scores = map_.encoded, map_.scores.tolist()
    marked = encoded.position if encoded.boundary is None else map_.target
    segments = _of_template(encoded.segments) if encoded.turns else encoded.segments
    pieces = [
        _Piece(text, start, end, segment, score, place == marked)
        for place, (text, (start, end), segment, score) in enumerate(
            zip(encoded.tokens, encoded.offsets, segments, scores, strict=True)
        )
        if special_tokens or encoded.segments[place] >= 0
    ]
    spans: list[Span] = []
    for segment, of_segment in groupby(_merged(pieces), key=lambda piece: piece.segment):
        text = {0: encoded.text, 1: encoded.text_pair}.get(segment)
        # A text and its pair begin a line each.
        spans += [BREAK if segment == 1 else Span(" ")] if spans else []
        names = [(start, name) for name, of, start, _ in encoded.parts if of == segment]
        spans += _spans(list(of_segment), text or "", names)
    return TokenMap(tuple(spans), has_sign(map_.setting, scores))


def _of_template(segments: Sequence[int]) -> list[int]:
    """Returns the segments of tokens where those of a chat's template are in the text that they are in: the prompt."""
    return [max(segment, 0) for segment in segments]


class _Piece(NamedTuple):
    text: str
    start: int
    end: int
    segment: int
    score: float
    marked: bool


def _merged(pieces: Iterable[_Piece]) -> list[_Piece]:
    """Merges tokens that share a character of the text, and adds their scores."""
    merged: list[_Piece] = []
    for piece in pieces:
        before = merged[-1] if merged and merged[-1].segment == piece.segment >= 0 else None
        if before and 0 <= piece.start < before.end:
            merged[-1] = before._replace(
                text=before.text + piece.text,
                end=max(before.end, piece.end),
                score=before.score + piece.score,
                marked=before.marked or piece.marked,
            )
        else:
            merged.append(piece)
    return merged


def _spans(
    pieces: Sequence[_Piece], text: str, names: Sequence[tuple[int, str]] = ()
) -> Iterator[Span]:
    """Yields the whole text of a segment; tokens whose place in it is unknown follow as the tokenizer writes them.

    `names` are the first characters and the names of its parts. A part gets no name if the words of a chat's template before
    it have that name ("user 2" is named by "user"). Text between two tokens is left out where tokens without a place, such as
    those of the template, spell it.
    """
    cursor, waiting = 0, sorted(names)
    for number, piece in enumerate(pieces):
        has_place = piece.start >= 0 and bool(text)
        between = text[cursor : piece.start] if has_place else " " if number else ""
        if between:
            yield Span(" " if number and pieces[number - 1].start < 0 else between)
        while has_place and waiting and waiting[0][0] < piece.end:
            _, name = waiting.pop(0)
            role = re.escape(re.sub(r" \d+$", "", name))
            if not re.search(rf"(?<!\w){role}(?!\w)", between):
                yield Span(name, role=NAME)
        written = text[piece.start : piece.end] if has_place else piece.text
        yield Span(written, float(piece.score), marked=piece.marked)
        cursor = piece.end if has_place else cursor
    if cursor and text[cursor:] and pieces[-1].start >= 0:
        yield Span(text[cursor:])


def only_top(tokens: TokenMap, k: object) -> TokenMap:
    """Returns the map with colours for its k largest magnitudes alone, the first of equal ones; for all if k is None.

    Raises:
        InputError: k is not a whole number of at least 1.
    """
    if k is None:
        return tokens
    if not isinstance(k, Integral) or isinstance(k, bool) or k < 1:
        raise InputError(f"top={k!r}: expected a whole number of at least 1")
    sizes = [math.nan if span.score is None else abs(span.score) for span in tokens.spans]
    finite = [place for place, size in enumerate(sizes) if math.isfinite(size)]
    smaller = set(sorted(finite, key=lambda place: -sizes[place])[int(k) :])
    spans = tuple(
        replace(span, colored=False) if place in smaller else span
        for place, span in enumerate(tokens.spans)
    )
    return replace(tokens, spans=spans)


def visible(text: str) -> str:
    """Replaces every character that would act on a page or terminal by a symbol for it."""
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if character in _INVISIBLE or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
        return "�"
    return character


def ink(background: Color) -> Color:
    """Returns black or white, whichever is easier to read on a background: at least 4.5:1 (WCAG 2.2, 1.4.3)."""
    # The contrast with white falls below that with black where (1.05 / (l + 0.05)) = (l + 0.05) / 0.05.
    return (0, 0, 0) if luminance(background) > 0.05**0.5 * 1.05**0.5 - 0.05 else (255, 255, 255)


def luminance(color: Color) -> float:
    """Returns the relative luminance of an sRGB colour, from 0 to 1 (WCAG 2.2)."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (x / 255 for x in color)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def spans_to_html(tokens: TokenMap) -> str:
    """Returns escaped HTML with each score in the title of its span, isolated from the direction of the text around it.

    It has colours for a light panel and for a dark one; CSS `color-scheme` decides.
    """
    inner = "".join(_span_to_html(tokens, span) for span in tokens.spans)
    inner = inner.replace("\n</span>\n", "\n</span>")  # a text that ends its line itself
    return f'<bdi dir="auto" style="white-space:pre-wrap">{inner}</bdi>'


def _span_to_html(tokens: TokenMap, span: Span) -> str:
    # A line break is a sign and a break after it, so that a prompt of many lines can be read.
    text = span.text if span is BREAK else html.escape(visible(span.text)).replace("␊", "↵\n")
    if span.score is None:
        return (
            f'<span style="{_ROLES[span.role]}">{text}</span>'
            if span.role or text.strip()
            else text
        )
    style = "text-decoration:underline;" if span.marked else ""
    if span.colored:
        light, dark = (tokens.color(span.score, palette) for palette in (LIGHT, DARK))
        style += either("background", light, dark) + either("color", ink(light), ink(dark))
        style += "border-radius:2px"
    attribute = f' style="{style}"' if style else ""
    return f'<span{attribute} title="{exact(tokens, span.score)}">{text}</span>'


def either(key: str, light: Color, dark: Color) -> str:
    """Returns a CSS declaration for both colour schemes; browsers from before 2024 take the light one throughout."""
    return f"{key}:{_hex(light)};{key}:light-dark({_hex(light)},{_hex(dark)});"


def panel() -> str:
    """Returns CSS declarations of the panel behind maps: the colour of 0, and of text without a score."""
    return either("background", LIGHT.zero, DARK.zero) + either("color", LIGHT.text, DARK.text)


def bar(signed: bool) -> str:
    """Returns the CSS declaration of a bar with the colours of maps, from the smallest score to the largest."""
    light, dark = (
        [p.negative, p.zero, p.positive] if signed else [p.zero, p.size] for p in (LIGHT, DARK)
    )
    plain = ",".join(map(_hex, light))
    choice = ",".join(f"light-dark({_hex(a)},{_hex(b)})" for a, b in zip(light, dark, strict=True))
    return "".join(f"background:linear-gradient(90deg,{stops});" for stops in (plain, choice))


def number(tokens: TokenMap, score: float) -> str:
    """Returns a score in four digits, with a sign if signs have a meaning."""
    return f"{score:+.4g}" if tokens.signed else f"{score:.4g}"


def exact(tokens: TokenMap, score: float) -> str:
    """Returns a score in the fewest digits that give exactly this number."""
    if not math.isfinite(score):
        return f"no number: {score}"
    return f"{score + 0.0:+}" if tokens.signed else f"{score + 0.0}"  # 0.0: no negative zero


def _hex(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def spans_to_rich(tokens: TokenMap, colored: bool = True) -> "Text":
    """Returns coloured text for a terminal; without colours each score follows its word."""
    from rich.text import Text

    text = Text(overflow="fold")
    for span in tokens.spans:
        written = span.text if span is BREAK else visible(span.text)
        styles = ["underline"] if span.marked else ["dim"] if span.score is None else []
        written = f"[{written}] " if span.role == NAME else written
        if span.score is not None and span.colored:
            color = tokens.color(span.score)
            if not colored:
                written += f"({number(tokens, span.score)})"
            elif color != LIGHT.zero:  # 0 has no colour, and the terminal may be dark
                styles.append(f"{_hex(ink(color))} on {_hex(color)}")
        text.append(written, style=" ".join(styles))
    return text
