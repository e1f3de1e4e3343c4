"""Token maps as coloured text: the words as they were written, for a page and for a terminal."""

import html
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from saliency_bench.report.labels import backend_label, method_label

if TYPE_CHECKING:
    from rich.text import Text

    from saliency_bench.maps import AttributionMap

#: Ends of ColorBrewer's RdBu, which colour-blind readers can tell apart, and white for 0.
POSITIVE, NEGATIVE, WHITE = (178, 24, 43), (33, 102, 172), (255, 255, 255)
UNSIGNED = ("l1", "l2")  # reductions whose scores cannot be negative
_PER_TOKEN = ("tokens", "starts", "ends", "segments", "words", "scores")
#: They would reorder or hide the text around them.
_INVISIBLE = {
    *"\u061c\u200b\u200e\u200f\ufeff",
    *(chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))),
}

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Span:
    """A piece of text with its score; None between tokens and for text that the model did not see."""

    text: str
    score: float | None = None


#: Between a text and its pair; a line break of a text itself is shown as a sign for it.
BREAK = Span("\n")


@dataclass(frozen=True)
class TokenMap:
    """A text cut into spans. Colours are relative to `scale`, the largest absolute score; 0 is white."""

    spans: tuple[Span, ...]
    signed: bool

    @property
    def scale(self) -> float:
        """The score of the darkest colour."""
        return max((abs(span.score) for span in self.spans if span.score is not None), default=0.0)

    def color(self, score: float) -> Color:
        """Red for positive, blue for negative scores, white for 0, the darker the larger."""
        strength = abs(score) / self.scale if self.scale else 0.0
        end = POSITIVE if score > 0 else NEGATIVE
        red, green, blue = (round(w + strength * (e - w)) for w, e in zip(WHITE, end, strict=True))
        return red, green, blue


def token_map(
    *,
    texts: Sequence[str | None],
    tokens: Sequence[str],
    starts: Sequence[int],
    ends: Sequence[int],
    segments: Sequence[int],
    words: Sequence[int],
    scores: Sequence[float],
    signed: bool,
    unit: str = "token",
    special_tokens: bool = False,
) -> TokenMap:
    """The map of one input.

    Args:
        texts: the text and its pair, if any, as they were written.
        tokens: as the tokenizer writes them; shown where the place in the text is not known.
        starts: first character of each token in its text; -1 for special tokens, or where unknown.
        ends: one after its last character.
        segments: 0: text, 1: pair, -1: special token.
        words: the word each token is a piece of.
        scores: one per token.
        signed: whether negative scores are possible.
        unit: token, or word: pieces of a word are one span with the sum of their scores.
        special_tokens: whether special tokens are shown.
    """
    pieces = [
        _Piece(*values)
        for values in zip(tokens, starts, ends, segments, words, scores, strict=True)
        if special_tokens or values[3] >= 0
    ]
    spans: list[Span] = []
    for segment, own in groupby(_merged(pieces, unit), key=lambda piece: piece.segment):
        text = texts[segment] if segment >= 0 else None
        # A text and its pair are two: each begins a line.
        spans += [BREAK if segment == 1 else Span(" ")] if spans else []
        spans += _spans(list(own), text or "")
    return TokenMap(tuple(spans), signed)


class _Piece(NamedTuple):
    text: str
    start: int
    end: int
    segment: int
    word: int
    score: float


def _merged(pieces: Iterable[_Piece], unit: str) -> list[_Piece]:
    """Pieces of a word as one, if asked for, and tokens that share a character of the text."""
    merged: list[_Piece] = []
    for piece in pieces:
        before = merged[-1] if merged and merged[-1].segment == piece.segment >= 0 else None
        one_word = before and unit == "word" and piece.word == before.word >= 0
        if before and (one_word or 0 <= piece.start < before.end):
            merged[-1] = before._replace(
                text=before.text + piece.text,
                end=max(before.end, piece.end),
                score=before.score + piece.score,
            )
        else:
            merged.append(piece)
    return merged


def _spans(pieces: Sequence[_Piece], text: str) -> Iterator[Span]:
    """The whole text of a segment; tokens whose place in it is unknown as the tokenizer writes them, apart."""
    cursor = 0
    for number, piece in enumerate(pieces):
        known = piece.start >= 0 and bool(text)
        between = text[cursor : piece.start] if known else " " if number else ""
        if between:
            yield Span(between)
        yield Span(text[piece.start : piece.end] if known else piece.text, float(piece.score))
        cursor = piece.end if known else cursor
    if cursor and text[cursor:]:
        yield Span(text[cursor:])


def map_of_row(
    row: Mapping[str, Any], example: Mapping[str, Any], setting: Mapping[str, Any], **options: Any
) -> TokenMap:
    """The map in a line of the table `maps`, with the text in a line of `examples`."""
    pair = example["text_pair"]
    return token_map(
        texts=(example["text"], pair if isinstance(pair, str) else None),
        signed=setting["reduction"] not in UNSIGNED,
        **{key: np.asarray(row[key]).tolist() for key in _PER_TOKEN},
        **options,
    )


def map_of_attribution(one: "AttributionMap", **options: Any) -> TokenMap:
    """The map in an `AttributionMap`."""
    encoded = one.encoded
    return token_map(
        texts=(encoded.text, encoded.text_pair),
        tokens=encoded.tokens,
        starts=[start for start, _ in encoded.offsets],
        ends=[end for _, end in encoded.offsets],
        segments=encoded.segments,
        words=encoded.words,
        scores=one.scores.tolist(),
        signed=one.setting.get("reduction") not in UNSIGNED,
        **options,
    )


def only_top(tokens: TokenMap, k: int) -> TokenMap:
    """The map with the colours of its k largest magnitudes; the first of equal ones."""
    scored = [place for place, span in enumerate(tokens.spans) if span.score is not None]
    order = sorted(scored, key=lambda place: -abs(tokens.spans[place].score or 0.0))
    kept = set(order[:k])
    spans = tuple(
        span if place in kept or span.score is None else Span(span.text)
        for place, span in enumerate(tokens.spans)
    )
    return replace(tokens, spans=spans)


def visible(text: str) -> str:
    """The text with everything that would act on a page or terminal replaced by a symbol for it."""
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
    """Black or white, whichever is easier to read on a background: at least 4.5:1 on any (WCAG 2.2, 1.4.3)."""
    # The contrast with white falls below that with black where (1.05 / (l + 0.05)) = (l + 0.05) / 0.05.
    return (0, 0, 0) if luminance(background) > 0.05**0.5 * 1.05**0.5 - 0.05 else (255, 255, 255)


def luminance(color: Color) -> float:
    """Relative luminance of an sRGB colour, from 0 to 1 (WCAG 2.2)."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (x / 255 for x in color)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def spans_to_html(tokens: TokenMap) -> str:
    """Spans of HTML, escaped, each score in the title of its span; the whole isolated from text around it."""
    inner = "".join(_span_to_html(tokens, span) for span in tokens.spans)
    return f'<bdi dir="auto" style="white-space:pre-wrap">{inner}</bdi>'


def _span_to_html(tokens: TokenMap, span: Span) -> str:
    text = span.text if span is BREAK else html.escape(visible(span.text))
    if span.score is None:
        return text
    color = tokens.color(span.score)
    style = f"background:{_hex(color)};color:{_hex(ink(color))};border-radius:2px"
    return f'<span style="{style}" title="{number(tokens, span.score)}">{text}</span>'


def number(tokens: TokenMap, score: float) -> str:
    """A score with a sign where signs have a meaning."""
    return f"{score:+.4g}" if tokens.signed else f"{score:.4g}"


def _hex(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def spans_to_rich(tokens: TokenMap, colored: bool = True) -> "Text":
    """Coloured text for a terminal; without colours each score follows its word."""
    from rich.text import Text

    text = Text(overflow="fold")
    for span in tokens.spans:
        if span.score is None:
            text.append(span.text if span is BREAK else visible(span.text))
        elif colored:
            color = tokens.color(span.score)
            text.append(visible(span.text), style=f"{_hex(ink(color))} on {_hex(color)}")
        else:
            text.append(f"{visible(span.text)}({number(tokens, span.score)})")
    return text


def heading(one: "AttributionMap") -> str:
    """What a map shows: method, backend, explained class."""
    name = str(one.setting.get("name") or one.setting.get("method"))
    backend = backend_label(str(one.setting.get("backend", "")))
    method = method_label(name) + (f" ({backend})" if backend else "")
    return visible(f"{method}: {one.label} ({one.probability:.3f})")


def map_to_html(
    one: "AttributionMap", *, top: int | None = None, special_tokens: bool = False
) -> str:
    """A map with its heading, as a notebook shows it; see `AttributionMap.to_html`."""
    tokens = map_of_attribution(one, special_tokens=special_tokens)
    body = spans_to_html(tokens if top is None else only_top(tokens, top))
    return (
        '<div style="background:#fff;color:#111;padding:.5em;line-height:1.7">'
        f"<div><small>{html.escape(heading(one))}</small></div><div>{body}</div></div>"
    )


def map_to_rich(one: "AttributionMap") -> "Text":
    """A map with its heading, as a terminal shows it."""
    from rich.text import Text

    return Text.assemble((heading(one), "bold"), "\n", spans_to_rich(map_of_attribution(one)))
