"""The units of a text that are ranked and removed: tokens, words, sentences or named segments. Imports no torch.

Special tokens are in no unit, and neither are tokens outside of all segments (an instruction around the passages that are
ranked): they are never removed.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple
from unicodedata import category

import numpy as np
from jaxtyping import Bool, Float, Int

from saliency_bench.core.errors import InputError, unknown
from saliency_bench.core.text import MARKS, NO_OFFSET, Encoded

TOKEN, WORD, SENTENCE, SEGMENT = GRANULARITIES = ("token", "word", "sentence", "segment")
NONE = -1  # the unit of a token that is in none

#: The end of a sentence: after its marks, closing quotes and space, unless a small letter follows; after an ideographic
#: mark; at a line break (Unicode Standard Annex 29, sentence boundaries, without its lists of abbreviations).
_ENDS = re.compile(
    r"""[.!?…]+["'”’»)\]]*\s+(?![\s\da-zà-öø-ÿ])|[。！？]+["”’」』）]*\s*|\s*[\n\r]+\s*"""
)

#: A stretch of a text: segment, first character and end.
_Place = tuple[int, int, int]


class Unit(NamedTuple):
    """A unit of a text: its name, its words, its characters (-1: unknown) in the text or its pair, and its tokens' positions."""

    name: str
    text: str
    start: int
    end: int
    segment: int
    tokens: tuple[int, ...]


def units(encoded: Encoded, granularity: str) -> Int[np.ndarray, " T"]:
    """Returns the unit of each token, numbered by the position of its first token; `NONE` for a token in no unit.

    Raises:
        InputError: see `refuse_without_units`.
    """
    refuse_without_units(encoded, granularity)
    special = np.array(encoded.special, dtype=bool)
    if granularity == TOKEN:
        return np.where(special, NONE, np.arange(len(encoded)))
    if granularity == WORD:
        words = np.array(encoded.words)
        # A token that is of no word is a unit of its own.
        alone = words.max(initial=0) + 1 + np.arange(len(words))
        return _first_of(np.where(words < 0, alone, words), ranked=~special)
    sentence = granularity == SENTENCE
    place_of = _place_of(encoded, sentences(encoded)) if sentence else part_of_token(encoded)
    return _first_of(place_of, ranked=~special)


def part_of_token(encoded: Encoded) -> Int[np.ndarray, " T"]:
    """Returns the index in `Encoded.parts` of each token's segment; `NONE` for a token in none."""
    return _place_of(encoded, [part[1:] for part in encoded.parts])


def units_of(encoded: Encoded, granularity: str) -> list[Unit]:
    """Returns the units of a text in order; segments have names of their own, other units are named by their text."""
    unit_of = units(encoded, granularity)
    names = {}
    if granularity == SEGMENT:
        places = enumerate(part_of_token(encoded))
        names = {token: encoded.parts[part][0] for token, part in places if part >= 0}
    ordered = []
    for first in np.flatnonzero(heads(unit_of)).tolist():
        tokens = tuple(np.flatnonzero(unit_of == first).tolist())
        text, start, end = text_of_tokens(encoded, tokens)
        ordered.append(
            Unit(names.get(first, text), text, start, end, encoded.segments[first], tokens)
        )
    return ordered


def refuse_without_units(encoded: Encoded, granularity: str) -> None:
    """Checks that a text has units of a granularity.

    Raises:
        InputError: there is no such granularity; the tokenizer's marks and offsets do not say what the words are; the
            places of the tokens are unknown; or the text has no segments.
    """
    if granularity not in GRANULARITIES:
        raise unknown("granularity", granularity, list(GRANULARITIES))
    where = f"granularity={granularity}: {encoded.example_id}"
    if granularity == WORD and not encoded.words_known:
        raise InputError(
            f"{where}: the tokenizer does not say what the words are. Use granularity=token, or a fast tokenizer"
        )
    if granularity == SEGMENT and not encoded.parts:
        raise InputError(
            f"{where} has no segments: give them with the text (segments in Python, data.segments of a file), or use "
            "granularity=sentence"
        )
    if granularity in (SENTENCE, SEGMENT) and unplaced(encoded):
        raise InputError(
            f"{where}: the tokenizer does not say where its tokens stand in the text. Use granularity=token, or a fast tokenizer"
        )


def unplaced(encoded: Encoded) -> bool:
    """Whether the place of a token in its text is unknown."""
    return any(
        place == NO_OFFSET and not special
        for place, special in zip(encoded.offsets, encoded.special, strict=True)
    )


def sentences(encoded: Encoded) -> list[_Place]:
    """Returns the sentences of a text and its pair, each with the space after it.

    They end where segments of the text and messages of a chat end. White space alone is no sentence.
    """
    places = []
    for segment, text in enumerate((encoded.text, encoded.text_pair)):
        cuts = {0, len(text or "")} | {match.end() for match in _ENDS.finditer(text or "")}
        stretches = [*encoded.parts, *(turn[:4] for turn in encoded.turns)]
        for _, of_segment, start, end in stretches:
            cuts |= {start, end} if of_segment == segment else set()
        between = [
            cut
            for cut, end in pairwise(sorted(cuts))
            if (text or "")[cut:end].strip() and (text or "")[:cut].strip()
        ]
        places += [(segment, a, b) for a, b in pairwise([0, *between, len(text or "")]) if a < b]
    return places


def heads(unit_of: Int[np.ndarray, " T"]) -> Bool[np.ndarray, " T"]:
    """Whether each token is the first of its unit."""
    return np.asarray(unit_of == np.arange(len(unit_of)))


def summed(
    scores: Float[np.ndarray, "... T"], unit_of: Int[np.ndarray, " T"]
) -> Float[np.ndarray, "... T"]:
    """Returns the sum of each unit's scores at its first token; 0 elsewhere."""
    sums = np.zeros_like(scores)
    ranked = unit_of != NONE
    np.add.at(sums.T, unit_of[ranked], scores.T[ranked])
    return sums


def _first_of(
    groups: Int[np.ndarray, " T"], ranked: Bool[np.ndarray, " T"]
) -> Int[np.ndarray, " T"]:
    """Returns the first token of each token's group; `NONE` for a token that is in none or not ranked."""
    first: dict[int, int] = {}
    unit_of = np.full(len(groups), NONE)
    for position, group in enumerate(groups.tolist()):
        if group >= 0 and ranked[position]:
            unit_of[position] = first.setdefault(group, position)
    return unit_of


def _place_of(encoded: Encoded, places: Sequence[_Place]) -> Int[np.ndarray, " T"]:
    """Returns the index of the first place that each token shares a character with, space aside; `NONE` if there is none."""
    place_of_token = np.full(len(encoded), NONE)
    texts = (encoded.text, encoded.text_pair or "")
    for token, (segment, (start, end)) in enumerate(
        zip(encoded.segments, encoded.offsets, strict=True)
    ):
        if segment < 0 or start < 0:
            continue
        written = texts[segment][start:end]
        begins = start + len(written) - len(written.lstrip()) if written.strip() else start
        for index, (of_segment, first, last) in enumerate(places):
            if of_segment == segment and begins < last and first < max(end, begins + 1):
                place_of_token[token] = index
                break
    return place_of_token


def text_of_tokens(encoded: Encoded, tokens: Sequence[int]) -> tuple[str, int, int]:
    """Returns the text of some tokens, its first character and its end, without the space around it.

    Marks that a tokenizer drops (an accent, a variation selector, a joiner) belong to the character before them. Where the
    place of the tokens is unknown, the text is as the tokenizer writes it and the characters are -1.
    """
    segment, start = encoded.segments[tokens[0]], encoded.offsets[tokens[0]][0]
    source = encoded.text if segment == 0 else encoded.text_pair
    if start < 0 or not source:
        return "".join(encoded.tokens[token] for token in tokens), -1, -1
    end = max(encoded.offsets[token][1] for token in tokens)
    later = [
        first
        for (first, _), of in zip(encoded.offsets, encoded.segments, strict=True)
        if of == segment and first >= end
    ]
    limit = min(later, default=len(source))
    while end < limit and category(source[end]) in MARKS:
        end += 1
    written = source[start:end]
    text = written.strip()
    if not text:
        return written, start, end
    start += len(written) - len(written.lstrip())
    return text, start, start + len(text)
