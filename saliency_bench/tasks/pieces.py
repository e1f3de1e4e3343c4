"""The words and texts that ids stand for, told from how a tokenizer writes its pieces; nothing is tokenised anew.

WordPiece marks a piece that continues a word (`##s`), byte-level BPE and SentencePiece one that begins a word (`Ġthe`,
`▁the`). What a text looked like before it was tokenised is not known: its words are joined by single spaces.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from saliency_bench.encoded import NO_OFFSET

CONTINUES = "##"
_, SENTENCE_PIECE = BEGINS = ("Ġ", "▁")

#: How SentencePiece writes a byte of a letter that it does not know.
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")

#: By tokenizer: the mark that most of its tokens have, which takes a look at all of them.
_MARKS: "WeakKeyDictionary[Any, str | None]" = WeakKeyDictionary()


@dataclass(frozen=True)
class Reading:
    """What ids say: one value per token, as in `Encoded`, and the text and its pair."""

    offsets: tuple[tuple[int, int], ...]
    segments: tuple[int, ...]
    words: tuple[int, ...]
    text: str
    text_pair: str | None


def read(
    tokenizer: Any, ids: Sequence[int], special: Sequence[bool], segments: Sequence[int]
) -> Reading:
    """The words and texts of ids.

    Args:
        tokenizer: made them.
        ids: of a text or of two.
        special: frames them, and is no part of a text.
        segments: 0 or 1, -1 for special tokens.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(ids))
    whole = set(getattr(tokenizer, "all_special_ids", ()))  # [MASK] and [UNK] stand for words
    alone = [token in whole for token in ids]
    words = _words(_mark(tokenizer), tokens, alone, special, segments)
    offsets = [NO_OFFSET] * len(ids)
    texts = ["", ""]
    for number in range(max(words, default=-1) + 1):
        own = [place for place, word in enumerate(words) if word == number]
        written, pieces = _written(tokenizer, [tokens[place] for place in own], alone[own[0]])
        segment = segments[own[0]]
        start = len(texts[segment]) + bool(texts[segment])
        texts[segment] += " " * bool(texts[segment]) + written
        for place, (first, last) in zip(own, pieces, strict=True):
            offsets[place] = start + first, start + last
    pair = texts[1] if 1 in segments else None
    return Reading(tuple(offsets), tuple(segments), tuple(words), texts[0], pair)


def segments_of(
    ids: Sequence[int],
    special: Sequence[bool],
    types: Sequence[int] | None,
    separator: int | None,
) -> tuple[int, ...]:
    """The text (0) or its pair (1) of each token, -1 for special ones: by token types, else by separators between them."""
    if types is not None and len({*types}) > 1:
        return tuple(
            -1 if skip else min(kind, 1) for kind, skip in zip(types, special, strict=True)
        )
    found, segment, begun = [], 0, False
    for token, skip in zip(ids, special, strict=True):
        if skip and token == separator and begun:
            segment = 1
        begun |= not skip
        found.append(-1 if skip else segment)
    return tuple(found)


def _words(
    mark: str | None,
    tokens: Sequence[str],
    alone: Sequence[bool],
    special: Sequence[bool],
    segments: Sequence[int],
) -> list[int]:
    """The word each token is a piece of, counted through; -1 for special tokens."""
    found: list[int] = []
    number, before = (
        -1,
        -1,
    )  # the last word, and the place of the last token; -1 where none may be continued
    blank = False  # whether the word has had nothing but marks
    for place, token in enumerate(tokens):
        if special[place]:
            found.append(-1)
            before = -1
            continue
        apart = before < 0 or alone[place] or alone[before] or segments[place] != segments[before]
        if apart or (_begins(mark, token) and not blank):
            number += 1
        blank = token == mark
        found.append(number)
        before = place
    return found


def _begins(mark: str | None, token: str) -> bool:
    if mark is None:
        return True
    return not token.startswith(CONTINUES) if mark == CONTINUES else token.startswith(mark)


def _mark(tokenizer: Any) -> str | None:
    """How a tokenizer marks pieces; None where it does not."""
    try:
        if tokenizer not in _MARKS:
            _MARKS[tokenizer] = _commonest(tokenizer)
        return _MARKS[tokenizer]
    except TypeError:  # one that cannot be remembered
        return _commonest(tokenizer)


def _commonest(tokenizer: Any) -> str | None:
    vocabulary: Mapping[str, int] = getattr(tokenizer, "get_vocab", dict)()
    counts = {
        mark: sum(token.startswith(mark) and token != mark for token in vocabulary)
        for mark in (CONTINUES, *BEGINS)
    }
    most = max(counts, key=lambda mark: counts[mark])
    return most if counts[most] else None


def _written(
    tokenizer: Any, tokens: Sequence[str], alone: bool
) -> tuple[str, list[tuple[int, int]]]:
    """A word as it is written, and the characters of each of its pieces; all of them where a piece is part of one."""
    mark = _mark(tokenizer)
    if mark is None or alone:
        written, pieces = "".join(tokens), list(tokens)
    elif mark == CONTINUES:
        pieces = [token.removeprefix(CONTINUES) for token in tokens[1:]]
        pieces = [tokens[0], *pieces]
        written = "".join(pieces)
    elif mark == SENTENCE_PIECE and not any(map(_BYTE.fullmatch, tokens)):
        pieces = [token.replace(SENTENCE_PIECE, "") for token in tokens]
        written = "".join(pieces)
    else:  # letters outside of ASCII are several bytes, of which a piece may be one
        written = str(tokenizer.convert_tokens_to_string(list(tokens))).strip()
        pieces = [str(tokenizer.convert_tokens_to_string([token])).strip() for token in tokens]
    if "".join(pieces) != written:
        return written, [(0, len(written))] * len(tokens)
    ends = [sum(map(len, pieces[: n + 1])) for n in range(len(pieces))]
    return written, [(end - len(piece), end) for piece, end in zip(pieces, ends, strict=True)]
