"""What is ranked and removed as one: tokens, words, sentences, or named stretches of a text. Imports no torch.

Special tokens are in no unit, and neither are tokens outside of all stretches (an instruction around the passages that
are ranked): they always stay.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from saliency_bench.core.errors import InputError, unknown
from saliency_bench.core.text import NO_OFFSET, Encoded

TOKEN, WORD, SENTENCE, SEGMENT = GRANULARITIES = ("token", "word", "sentence", "segment")
NONE = -1  # the unit of a token that is in none

#: Where a sentence ends: after its marks, closing quotes and space, unless a small letter follows; after an ideographic
#: mark; at a line break (Unicode Standard Annex 29, sentence boundaries, without its lists of abbreviations).
_ENDS = re.compile(
    r"""[.!?…]+["'”’»)\]]*\s+(?![\s\da-zà-öø-ÿ])|[。！？]+["”’」』）]*\s*|\s*[\n\r]+\s*"""
)

#: A stretch of a text: segment, first character and end.
_Place = tuple[int, int, int]


class Unit(NamedTuple):
    """A unit of a text: its name, as it is written, and where it stands (-1: unknown) in which text; `tokens` are its places."""

    name: str
    text: str
    start: int
    end: int
    segment: int
    tokens: tuple[int, ...]


def units(encoded: Encoded, granularity: str) -> Int[np.ndarray, " T"]:
    """The unit of each token, which bears the position of its first token as its name.

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
    places = sentences(encoded) if granularity == SENTENCE else [one[1:] for one in encoded.parts]
    return _first_of(_place_of(encoded, places), ranked=~special)


def units_of(encoded: Encoded, granularity: str) -> list[Unit]:
    """The units of a text in their order, with their names: those of segments, and of others what they are made of."""
    unit_of = units(encoded, granularity)
    names = {}
    if granularity == SEGMENT:
        which = _place_of(encoded, [one[1:] for one in encoded.parts])
        names = {token: encoded.parts[part][0] for token, part in enumerate(which) if part >= 0}
    made = []
    for first in np.flatnonzero(heads(unit_of)).tolist():
        tokens = tuple(np.flatnonzero(unit_of == first).tolist())
        text, start, end = _written(encoded, tokens)
        made.append(Unit(names.get(first, text), text, start, end, encoded.segments[first], tokens))
    return made


def refuse_without_units(encoded: Encoded, granularity: str) -> None:
    """Refuses a text of which nothing says what its units are.

    Raises:
        InputError: there is no such granularity; neither a tokenizer's marks nor places in the text say what words are; or
            the text has no segments.
    """
    if granularity not in GRANULARITIES:
        raise unknown("granularity", granularity, list(GRANULARITIES))
    where = f"granularity={granularity}: {encoded.example_id}"
    if granularity == WORD and not encoded.words_known:
        raise InputError(
            f"{where}: neither the marks of the tokenizer's tokens nor their places in the "
            "text say what its words are. Use granularity=token, or a fast tokenizer"
        )
    if granularity == SEGMENT and not encoded.parts:
        raise InputError(
            f"{where} has no segments: give them with the text (segments in Python, data.segments of a file), or use "
            "granularity=sentence"
        )
    unplaced = any(
        place == NO_OFFSET and not special
        for place, special in zip(encoded.offsets, encoded.special, strict=True)
    )
    if granularity in (SENTENCE, SEGMENT) and unplaced:
        raise InputError(
            f"{where}: the tokenizer does not say where its tokens stand in the text. Use granularity=token, or a fast tokenizer"
        )


def sentences(encoded: Encoded) -> list[_Place]:
    """The sentences of a text and its pair, each with the space behind it; none goes beyond a part of the text."""
    places = []
    for segment, text in enumerate((encoded.text, encoded.text_pair)):
        cuts = {0, len(text or "")} | {found.end() for found in _ENDS.finditer(text or "")}
        for _, owner, start, end in encoded.parts:
            cuts |= {start, end} if owner == segment else set()
        ordered = sorted(cuts)
        places += [(segment, a, b) for a, b in pairwise(ordered)]
    return places


def heads(unit_of: Int[np.ndarray, " T"]) -> Bool[np.ndarray, " T"]:
    """Whether each token is the first of its unit."""
    return np.asarray(unit_of == np.arange(len(unit_of)))


def summed(
    scores: Float[np.ndarray, "... T"], unit_of: Int[np.ndarray, " T"]
) -> Float[np.ndarray, "... T"]:
    """The sum of each unit's scores at its first token; 0 elsewhere."""
    sums = np.zeros_like(scores)
    ranked = unit_of != NONE
    np.add.at(sums.T, unit_of[ranked], scores.T[ranked])
    return sums


def _first_of(
    groups: Int[np.ndarray, " T"], ranked: Bool[np.ndarray, " T"]
) -> Int[np.ndarray, " T"]:
    """The first token of each token's group; NONE for a token that is in none or not ranked."""
    first: dict[int, int] = {}
    unit_of = np.full(len(groups), NONE)
    for position, group in enumerate(groups.tolist()):
        if group >= 0 and ranked[position]:
            unit_of[position] = first.setdefault(group, position)
    return unit_of


def _place_of(encoded: Encoded, places: Sequence[_Place]) -> Int[np.ndarray, " T"]:
    """Which of these stretches each token is in: the first that it shares a character with that is no space; else NONE."""
    which = np.full(len(encoded), NONE)
    texts = (encoded.text, encoded.text_pair or "")
    for token, (segment, (start, end)) in enumerate(
        zip(encoded.segments, encoded.offsets, strict=True)
    ):
        if segment < 0 or start < 0:
            continue
        written = texts[segment][start:end]
        begins = start + len(written) - len(written.lstrip()) if written.strip() else start
        for index, (owner, first, last) in enumerate(places):
            if owner == segment and begins < last and first < max(end, begins + 1):
                which[token] = index
                break
    return which


def _written(encoded: Encoded, tokens: Sequence[int]) -> tuple[str, int, int]:
    """What tokens are in the text, without the space around them; as the tokenizer writes them where that is not known."""
    source = encoded.text if encoded.segments[tokens[0]] == 0 else encoded.text_pair
    start = encoded.offsets[tokens[0]][0]
    end = max(encoded.offsets[token][1] for token in tokens)
    if start < 0 or not source:
        return "".join(encoded.tokens[token] for token in tokens), -1, -1
    written = source[start:end]
    if not written.strip():
        return written, start, end
    start += len(written) - len(written.lstrip())
    return written.strip(), start, start + len(written.strip())
