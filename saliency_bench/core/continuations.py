"""Groups the maps of a continuation's tokens, which are shown together. Imports no torch."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from saliency_bench.core.heatmap import BREAK, NEXT, Span, TokenMap
from saliency_bench.core.scored_text import ScoredText
from saliency_bench.core.text import Encoded

CONTINUATION = 1  # the segment of the text that follows a prompt
#: Signs for spaces and line breaks in labels and vocabularies.
_SPACES = str.maketrans({"␣": " ", "Ġ": " ", "▁": " ", "Ċ": "\n"})


def runs(maps: Sequence[ScoredText]) -> list[list[ScoredText]]:
    """Groups maps in their order: those of one continuation's tokens together, every other map alone."""
    groups: list[list[ScoredText]] = []
    for map_ in maps:
        if groups and _goes_on(groups[-1][-1], map_):
            groups[-1].append(map_)
        else:
            groups.append([map_])
    return groups


def _goes_on(before: ScoredText, after: ScoredText) -> bool:
    """Whether a map explains the next token after that of the map before it: its text has one token more."""
    first, second = before.encoded, after.encoded
    return (
        first.position is not None
        and first.boundary is None
        and second.text_pair is not None
        and (first.text, first.text_pair) == (second.text, second.text_pair)
        and first.input_ids == second.input_ids[:-1]
        and before.setting == after.setting
    )


def written(run: Sequence[ScoredText]) -> list[str]:
    """Returns each token of a continuation as it is written, with the space before it.

    A token that is a part of a character, or whose place in the text is unknown, is written as the tokenizer writes it. The
    last token is the explained class, since a run may stop before the end of the text. If another class is explained, the
    last token is the rest of the text.
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
    """Returns the map of a token with that token and the rest of the continuation after the words with scores.

    Args:
        tokens: the map of the words before the token.
        encoded: these words.
        token: the token as `written` returns it.
    """
    end, begun = _end(encoded), CONTINUATION in encoded.segments
    rest = str(encoded.text_pair)[end:] if end or not begun else ""
    spans = tuple(replace(span, marked=False) if span.marked else span for span in tokens.spans)
    spans = spans if begun else (*spans, BREAK)
    if spans[-1] == Span(rest):
        spans = spans[:-1]
    later = rest.removeprefix(token) if rest.startswith(token) else ""
    return replace(tokens, spans=(*spans, Span(token, role=NEXT), Span(later)))


def _end(encoded: Encoded) -> int:
    """Returns the end of the continuation in its text, in characters; 0 if the places of its tokens are unknown."""
    ends = [
        end
        for (_, end), segment in zip(encoded.offsets, encoded.segments, strict=True)
        if segment == CONTINUATION
    ]
    return max([0, *ends])
