"""The words that tokens are pieces of: from where they stand in their text, else from how a tokenizer writes its pieces.

Nothing is tokenised anew. WordPiece marks a piece that continues a word (`##s`), byte-level BPE and SentencePiece one that
begins a word (`Ġthe`, `▁the`), older BPE one that goes on (`fi@@`) or one that ends a word (`film</w>`). Of ids, what a
text looked like before it was tokenised is not known: its words are joined by single spaces.
"""

import codecs
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unicodedata import category, east_asian_width, normalize
from weakref import WeakKeyDictionary

from saliency_bench.core.text import MARKS, NO_OFFSET

CONTINUES = "##"
BYTE_LEVEL, SENTENCE_PIECE = BEGINS = ("Ġ", "▁")
GOES_ON, ENDS_WORD = ENDINGS = ("@@", "</w>")
#: Not a mark, but a vocabulary of letters or of bytes, white space among them.
LETTERS, BYTES = "letters", "bytes"

#: How SentencePiece writes a byte of a letter that it does not know.
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
#: What tokenizers drop; vowel signs (Mc) are letters to them.
_ACCENTS = MARKS - {"Mc"}
#: Of a letter that was cut after some of its bytes.
_CUT = "\ufffd"
#: White space as byte-level BPE and SentencePiece write it.
_BLANKS: Mapping[str, Collection[str]] = {
    BYTE_LEVEL: {chr(256 + ord(blank)) for blank in " \t\n\v\f\r"},
    SENTENCE_PIECE: {"▁", *" \t\n\v\f\r"},
}
_BLANK_BYTES = {f"<0x{ord(blank):02X}>" for blank in " \t\n\v\f\r"}

#: By tokenizer: how it tells where words begin, which takes a look at all of its tokens.
_STYLES: "WeakKeyDictionary[Any, str | None]" = WeakKeyDictionary()

Span = tuple[int, int]


@dataclass(frozen=True)
class Reading:
    """What tokens say: one value per token, as in `Encoded`, and the text and its pair.

    `known`: whether it is known what words are; else each token is one.
    """

    offsets: tuple[Span, ...]
    segments: tuple[int, ...]
    words: tuple[int, ...]
    text: str
    text_pair: str | None
    known: bool = True


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
    tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(list(ids))]
    style = _style(tokenizer)
    if style in (LETTERS, BYTES):
        return _spelt(tokens, segments, style == BYTES)
    alone = _alone(tokenizer, ids)
    words = _words(style, tokens, alone, special, segments)
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
    known = style is not None
    return Reading(tuple(offsets), tuple(segments), tuple(words), texts[0], pair, known)


def read_text(
    tokenizer: Any,
    ids: Sequence[int],
    special: Sequence[bool],
    segments: Sequence[int],
    texts: tuple[str, str],
) -> Reading:
    """The words of a text whose tokenizer does not say where its tokens stand: by their marks, and sought in the text."""
    found = read(tokenizer, ids, special, segments)
    read_as = (found.text, found.text_pair or "")
    if found.known and all(
        text.startswith(one.rstrip(_CUT)) for one, text in zip(read_as, texts, strict=True)
    ):
        return found
    offsets = _sought(found, _alone(tokenizer, ids), texts)
    placed = all(span != NO_OFFSET for span, of in zip(offsets, segments, strict=True) if of >= 0)
    if not found.known and placed:
        words = words_in(offsets, segments, texts, range(len(ids)))
        found = replace(found, words=words, known=True)
    return replace(found, offsets=offsets)


def words_in(
    offsets: Sequence[Span],
    segments: Sequence[int],
    texts: tuple[str, str],
    parts: Sequence[int | None],
) -> tuple[int, ...]:
    """The word each token is a piece of, counted through both texts; -1 for special tokens.

    White space parts words, and so does a tokenizer, but not within a word: before a combining mark, or between two
    letters or digits (as in Unicode's rules, UAX 29). White space that is a token of its own belongs to the word after
    it, at the end to that before.

    Args:
        offsets: where tokens stand in their texts.
        segments: 0 or 1, -1 for special tokens.
        texts: the text and its pair.
        parts: what the tokenizer takes for words: tokens next to each other that are of one have the same number.
    """
    found: list[int] = []
    number, before, blank = (
        -1,
        -1,
        False,
    )  # the last word, the last token, whether the word is white space so far
    covered = [0, 0]
    for place, ((start, end), segment) in enumerate(zip(offsets, segments, strict=True)):
        if segment < 0:
            found.append(-1)
            before = -1
            continue
        text = texts[segment]
        piece, skipped = text[max(start, 0) : max(end, 0)], text[covered[segment] : max(start, 0)]
        near = before >= 0 and segments[before] == segment
        if near:
            space = start >= 0 and any(map(str.isspace, skipped + piece))
            one = parts[place] == parts[before] or (start > 0 and _inside_word(text, start))
            shared = 0 <= start < covered[segment]  # another byte of the same letter
            near = blank or shared or (one and not space)
        elif number >= 0 and blank:
            number = _given_back(found, segments)
        number += not near
        blank = bool(piece) and piece.isspace() and (blank or not near)
        found.append(number)
        before = place
        covered[segment] = max(covered[segment], end)
    if blank:
        _given_back(found, segments)
    return tuple(found)


def _given_back(found: list[int], segments: Sequence[int]) -> int:
    """Makes white space at the end of a text part of its last word, where it has one; the last word is then this."""
    last = max(found)
    own = [place for place, word in enumerate(found) if word == last]
    earlier = [place for place in range(own[0]) if segments[place] == segments[own[0]]]
    if not earlier or found[earlier[-1]] != last - 1:
        return last
    for place in own:
        found[place] = last - 1
    return last - 1


def _inside_word(text: str, place: int) -> bool:
    """Whether no word ends before this character: it is a mark of the one before, or both are letters or digits.

    Not so between ideographs, which are written without spaces.
    """
    if text[place - 1].isspace():
        return False
    if category(text[place]) in MARKS:
        return True
    base = place - 1
    while base > 0 and category(text[base]) in MARKS:
        base -= 1
    return all(
        one.isalnum() and east_asian_width(one) not in ("W", "F")
        for one in (text[base], text[place])
    )


def _spelt(tokens: Sequence[str], segments: Sequence[int], in_bytes: bool) -> Reading:
    """The text that letters, or bytes of UTF-8, spell; a byte stands where its letter does."""
    texts = ["", ""]
    offsets = [NO_OFFSET] * len(tokens)
    for segment in (0, 1):
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        waiting: list[int] = []
        own = [place for place, of in enumerate(segments) if of == segment]
        for place in own:
            token = tokens[place]
            letter = (
                decode(bytes([ord(token)]), place == own[-1])
                if in_bytes and len(token) == 1
                else token
            )
            waiting.append(place)
            if letter:
                span = len(texts[segment]), len(texts[segment]) + len(letter)
                texts[segment] += letter
                for one in waiting:
                    offsets[one] = span
                waiting = []
    both = texts[0], texts[1]
    words = words_in(offsets, segments, both, range(len(tokens)))
    pair = texts[1] if 1 in segments else None
    return Reading(tuple(offsets), tuple(segments), words, texts[0], pair)


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


def _sought(found: Reading, alone: Sequence[bool], texts: tuple[str, str]) -> tuple[Span, ...]:
    """Where the pieces stand in the texts they were made of, as far as these are written alike but for case and accents.

    One token that is not found, as one for an unknown word, is all that stands between its neighbours. Of several next
    to each other none is known to stand anywhere.
    """
    offsets = [NO_OFFSET] * len(alone)
    for segment, text in enumerate(texts):
        letters, places = _folded(text)
        at = 0
        gap: list[int] = []  # tokens that were not found since the last one that was
        own = [place for place, of in enumerate(found.segments) if of == segment]
        for before, place in zip([-1, *own], own, strict=False):
            start, end = found.offsets[place]
            if before >= 0 and found.offsets[before] == (start, end) and start < end:
                offsets[place] = offsets[before]  # bytes of one letter
                continue
            written = (found.text, found.text_pair or "")[segment][start:end]
            piece = "" if alone[place] else _folded(written)[0]
            begins = letters.find(piece, at) if piece else -1
            if gap and found.words[place] == found.words[gap[-1]]:
                begins = -1
            while gap and begins > 0 and _inside_word(text, places[begins]):
                begins = letters.find(piece, begins + 1)
            here = places[at - 1] + 1 if at else 0
            if not piece and not alone[place]:
                offsets[place] = here, here
            elif begins < 0 or (begins > at and not gap):
                gap.append(place)
            else:
                if len(gap) == 1:
                    offsets[gap[0]] = _between(text, here, places[begins])
                at, gap = begins + len(piece), []
                offsets[place] = places[begins], places[at - 1] + 1
        if len(gap) == 1:
            offsets[gap[0]] = _between(text, places[at - 1] + 1 if at else 0, len(text))
    return tuple(offsets)


def _between(text: str, start: int, end: int) -> Span:
    """A stretch without the white space around it; not known where nothing is left."""
    inner = text[start:end].strip()
    start = text.index(inner, start)
    return (start, start + len(inner)) if inner else NO_OFFSET


def _folded(text: str) -> tuple[str, list[int]]:
    """The letters of a text without case, accents and white space, and where each stands."""
    letters, places = "", []
    for place, one in enumerate(text):
        kept = [
            letter
            for letter in normalize("NFKD", normalize("NFKD", one).casefold())
            if category(letter) not in _ACCENTS and not letter.isspace()
        ]
        letters += "".join(kept)
        places += [place] * len(kept)
    return letters, places


def _alone(tokenizer: Any, ids: Sequence[int]) -> list[bool]:
    """Whether each token stands for a word: [MASK] and [UNK] do."""
    whole = set(getattr(tokenizer, "all_special_ids", ()))
    return [token in whole for token in ids]


def _words(
    style: str | None,
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
    blank = False  # whether the word has had nothing but white space
    for place, token in enumerate(tokens):
        if special[place]:
            found.append(-1)
            before = -1
            continue
        near = before >= 0 and segments[place] == segments[before]
        if blank and not near:
            number = _given_back(found, segments)
        apart = not near or alone[place] or alone[before]
        begins = apart or (_begins(style, tokens[before], token) and not blank)
        number += begins
        blank = _is_blank(style, token) and (begins or blank)
        found.append(number)
        before = place
    if blank:
        _given_back(found, segments)
    return found


def _begins(style: str | None, before: str, token: str) -> bool:
    """Whether a token begins a word, by its mark or that of the token before it."""
    if style == CONTINUES:
        return not token.startswith(CONTINUES)
    if style == GOES_ON:
        return not before.endswith(GOES_ON)
    if style == ENDS_WORD:
        return before.endswith(ENDS_WORD)
    if style in BEGINS:
        return token[:1] in _BLANKS[style] or _is_blank(style, token)
    return True


def _is_blank(style: str | None, token: str) -> bool:
    """Whether a token is white space alone, or the mark alone."""
    if style not in BEGINS:
        return False
    return {*token} <= {*_BLANKS[style]} or (style == SENTENCE_PIECE and token in _BLANK_BYTES)


def _style(tokenizer: Any) -> str | None:
    """How a tokenizer tells where words begin; None where it does not."""
    try:
        if tokenizer not in _STYLES:
            _STYLES[tokenizer] = _commonest(tokenizer)
        return _STYLES[tokenizer]
    except TypeError:  # one that cannot be remembered
        return _commonest(tokenizer)


def _commonest(tokenizer: Any) -> str | None:
    vocabulary: Mapping[str, int] = getattr(tokenizer, "get_vocab", dict)()
    added = {
        *getattr(tokenizer, "all_special_tokens", ()),
        *getattr(tokenizer, "added_tokens_encoder", ()),
    }
    tokens = [token for token in vocabulary if token not in added]
    if " " in vocabulary and all(len(token) == 1 for token in tokens):
        return BYTES if max(map(ord, tokens)) < 256 else LETTERS
    counts = {
        mark: sum(token.startswith(mark) and token != mark for token in tokens)
        for mark in (CONTINUES, *BEGINS)
    }
    counts |= {
        mark: sum(token.endswith(mark) and token != mark for token in tokens) for mark in ENDINGS
    }
    most = max(counts, key=lambda mark: counts[mark])
    return most if counts[most] else None


def _written(tokenizer: Any, tokens: Sequence[str], alone: bool) -> tuple[str, list[Span]]:
    """A word as it is written, and the characters of each of its pieces; all of them where a piece is part of one."""
    style = _style(tokenizer)
    if style is None or alone:
        written, pieces = "".join(tokens), list(tokens)
    elif style == CONTINUES:
        pieces = [tokens[0], *(token.removeprefix(CONTINUES) for token in tokens[1:])]
        written = "".join(pieces)
    elif style in ENDINGS:
        pieces = [token.removesuffix(style) for token in tokens]
        written = "".join(pieces)
    elif style == SENTENCE_PIECE and not any(map(_BYTE.fullmatch, tokens)):
        pieces = [token.replace(SENTENCE_PIECE, "").strip() for token in tokens]
        written = "".join(pieces)
    else:  # letters outside of ASCII are several bytes, of which a piece may be one
        written = str(tokenizer.convert_tokens_to_string(list(tokens))).strip()
        pieces = [str(tokenizer.convert_tokens_to_string([token])).strip() for token in tokens]
    if "".join(pieces) != written:
        return written, [(0, len(written))] * len(tokens)
    ends = [sum(map(len, pieces[: n + 1])) for n in range(len(pieces))]
    return written, [(end - len(piece), end) for piece, end in zip(pieces, ends, strict=True)]
