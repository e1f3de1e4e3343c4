"""Maps of a continuation, one for each of its tokens, put together as they are shown. Imports no torch."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from saliency_bench.core.heatmap import BREAK, NEXT, Span, TokenMap
from saliency_bench.core.text import Encoded

if TYPE_CHECKING:
    from saliency_bench.core.maps import AttributionMap

CONTINUATION = 1  # the segment of what was given to follow a prompt
#: How labels and vocabularies write spaces and line breaks.
_SPACES = str.maketrans({"␣": " ", "Ġ": " ", "▁": " ", "Ċ": "\n"})


def runs(maps: "Sequence[AttributionMap]") -> "list[list[AttributionMap]]":
    """The maps in their order, those of one continuation's tokens together and every other map alone."""
    found: list[list[AttributionMap]] = []
    for map_ in maps:
        if found and _goes_on(found[-1][-1], map_):
            found[-1].append(map_)
        else:
            found.append([map_])
    return found


def _goes_on(before: "AttributionMap", after: "AttributionMap") -> bool:
    """Whether a map is of the token after that of the map before it: its text has one token more."""
    first, second = before.encoded, after.encoded
    return (
        first.position is not None
        and first.boundary is None
        and second.text_pair is not None
        and (first.text, first.text_pair) == (second.text, second.text_pair)
        and first.input_ids == second.input_ids[:-1]
        and before.setting == after.setting
    )


def written(run: "Sequence[AttributionMap]") -> list[str]:
    """Each token of a continuation as it is written, with the space before it.

    A token of which only bytes are a letter is written as the tokenizer has it, and so is one of which the place in the
    text is not known. The last token is the class that is explained, since a run may stop before the end of the text; where
    another class is explained, it is all that is left of the text.
    """
    last = run[-1]
    first = len(run[0].encoded)
    tokens = [*last.encoded.tokens[first:], last.label]
    ends = [end for _, end in last.encoded.offsets[first:]]
    if any(end < 0 for end in ends):
        return tokens
    text = str(last.encoded.text_pair)
    words = [text[start:end] for start, end in pairwise([_end(run[0].encoded), *ends, len(text)])]
    if last.target == last.encoded.default_class and words[-1].strip():
        words[-1] = last.label.translate(_SPACES)
    return [word or token for word, token in zip(words, tokens, strict=True)]


def with_token(tokens: TokenMap, encoded: Encoded, token: str) -> TokenMap:
    """The map of a token with that token, and the rest of the continuation, behind the words that it has scores for.

    Args:
        tokens: the map of the words before it.
        encoded: these words.
        token: as `written` has it.
    """
    end, begun = _end(encoded), CONTINUATION in encoded.segments
    rest = str(encoded.text_pair)[end:] if end or not begun else ""
    spans = tuple(replace(span, asked=False) if span.asked else span for span in tokens.spans)
    spans = spans if begun else (*spans, BREAK)
    if spans[-1] == Span(rest):
        spans = spans[:-1]
    later = rest.removeprefix(token) if rest.startswith(token) else ""
    return replace(tokens, spans=(*spans, Span(token, role=NEXT), Span(later)))


def _end(encoded: Encoded) -> int:
    """How many characters of a continuation stand in a text; 0 where the places of its tokens are not known."""
    ends = [
        end
        for (_, end), segment in zip(encoded.offsets, encoded.segments, strict=True)
        if segment == CONTINUATION
    ]
    return max([0, *ends])
