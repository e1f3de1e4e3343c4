"""The word of each token, from the places of tokens in their text, or from the marks of the tokenizer's pieces.

Nothing is tokenised anew. WordPiece marks a piece that continues a word (`##s`), byte-level BPE and SentencePiece one that
begins a word (`Ġthe`, `▁the`), older BPE one that is continued (`fi@@`) or one that ends a word (`film</w>`). The original
text of ids is not known, so their words are joined by single spaces.
"""

import codecs
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any
from unicodedata import category, east_asian_width, normalize
from weakref import WeakKeyDictionary

from saliency_bench.core.text import MARKS, NO_OFFSET

CONTINUES = "##"
BYTE_LEVEL, SENTENCE_PIECE = BEGINS = ("Ġ", "▁")
GOES_ON, ENDS_WORD = ENDINGS = ("@@", "</w>")
#: Styles without a mark: vocabularies of letters or of bytes, with white space among them.
LETTERS, BYTES = "letters", "bytes"

#: A byte of an unknown letter, as SentencePiece writes it.
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
#: Marks that tokenizers remove; they keep vowel signs (Mc) as letters.
_ACCENTS = MARKS - {"Mc"}
#: Stands for a letter that was cut after some of its bytes.
_CUT = "\ufffd"
#: White space as byte-level BPE and SentencePiece write it.
_BLANKS: Mapping[str, Collection[str]] = {
    BYTE_LEVEL: {chr(256 + ord(blank)) for blank in " \t\n\v\f\r"},
    SENTENCE_PIECE: {"▁", *" \t\n\v\f\r"},
}
_BLANK_BYTES = {f"<0x{ord(blank):02X}>" for blank in " \t\n\v\f\r"}

#: By tokenizer, its style of marking words, which is found from all of its tokens.
_STYLES: "WeakKeyDictionary[Any, str | None]" = WeakKeyDictionary()

Offset = tuple[int, int]


@dataclass(frozen=True)
class TokenPlaces:
    """The places of tokens: one value per token, as in `Encoded`, and the text and its pair.

    `words_known`: the words are known; otherwise each token counts as one.
    """

    offsets: tuple[Offset, ...]
    segments: tuple[int, ...]
    words: tuple[int, ...]
    text: str
    text_pair: str | None
    words_known: bool = True


def places_from_marks(tokenizer: Any, ids: Sequence[int], segments: Sequence[int]) -> TokenPlaces:
    """The words and texts of ids.

    Args:
        tokenizer: the one that made the ids.
        ids: of a text or of two.
        segments: 0 or 1, -1 for special tokens.
    """
    tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(list(ids))]
    style = _style(tokenizer)
    if style in (LETTERS, BYTES):
        return _spelt(tokens, segments, style == BYTES)
    alone = _alone(tokenizer, ids)
    before = zip(["", *tokens], tokens, strict=False)
    continues = [not _begins(style, earlier, token) for earlier, token in before]
    apart = {place + n for place, whole in enumerate(alone) if whole for n in (0, 1)}
    words = _numbered(segments, [_is_blank(style, token) for token in tokens], continues, apart)
    offsets = [NO_OFFSET] * len(ids)
    texts = ["", ""]
    for number in range(max(words, default=-1) + 1):
        places = [place for place, word in enumerate(words) if word == number]
        written, pieces = _written(tokenizer, [tokens[place] for place in places], alone[places[0]])
        segment = segments[places[0]]
        start = len(texts[segment]) + bool(texts[segment])
        texts[segment] += " " * bool(texts[segment]) + written
        for place, (first, last) in zip(places, pieces, strict=True):
            offsets[place] = start + first, start + last
    pair = texts[1] if 1 in segments else None
    return TokenPlaces(
        tuple(offsets), tuple(segments), words, texts[0], pair, words_known=style is not None
    )


def places_in_text(
    tokenizer: Any,
    ids: Sequence[int],
    segments: Sequence[int],
    texts: tuple[str, str],
) -> TokenPlaces:
    """The words of a text whose tokenizer has no offsets, from the marks of pieces and a search in the text."""
    marked = places_from_marks(tokenizer, ids, segments)
    read_as = (marked.text, marked.text_pair or "")
    if marked.words_known and all(
        text.startswith(written.rstrip(_CUT)) for written, text in zip(read_as, texts, strict=True)
    ):
        return marked
    offsets = _searched(marked, _alone(tokenizer, ids), texts)
    placed = all(span != NO_OFFSET for span, of in zip(offsets, segments, strict=True) if of >= 0)
    if not marked.words_known and placed:
        words = words_in(offsets, segments, texts, range(len(ids)))
        marked = replace(marked, words=words, words_known=True)
    return replace(marked, offsets=offsets)


def words_in(
    offsets: Sequence[Offset],
    segments: Sequence[int],
    texts: tuple[str, str],
    parts: Sequence[int | None],
) -> tuple[int, ...]:
    """The word of each token, numbered through both texts; -1 for special tokens.

    White space separates words, and so do the words of the tokenizer, but not before a combining mark or between two
    letters or digits (as in Unicode's rules, UAX 29). White space that is a token of its own belongs to the next word; at
    the end of a text, to the last one.

    Args:
        offsets: the places of tokens in their texts.
        segments: 0 or 1, -1 for special tokens.
        texts: the text and its pair.
        parts: the words of the tokenizer; neighbouring tokens of one word have the same number.
    """
    continues, blanks = [], []
    covered = [0, 0]
    for place, ((start, end), segment) in enumerate(zip(offsets, segments, strict=True)):
        text, done = texts[max(segment, 0)], covered[segment]
        piece, skipped = text[max(start, 0) : max(end, 0)], text[done : max(start, 0)]
        space = start >= 0 and any(map(str.isspace, skipped + piece))
        inside = place > 0 and parts[place] == parts[place - 1]
        inside = inside or (start > 0 and _inside_word(text, start))
        shared = 0 <= start < done  # another byte of the same letter
        continues.append(shared or (inside and not space))
        blanks.append(piece.isspace())
        if segment >= 0:
            covered[segment] = max(done, end)
    return _numbered(segments, blanks, continues)


def _numbered(
    segments: Sequence[int],
    blanks: Sequence[bool],
    continues: Sequence[bool],
    apart: Collection[int] = (),
) -> tuple[int, ...]:
    """Numbers the words through both texts; -1 for special tokens.

    Args:
        segments: 0 or 1, -1 for special tokens.
        blanks: whether each token is white space alone.
        continues: whether each token continues the word of the token before it; every token does where that word has
            only white space so far.
        apart: the places of tokens that always begin a word.
    """
    words: list[int] = []
    number = -1  # the last word
    before = -1  # the place of the last token; -1 where it may not be continued
    blank = False  # whether the last word has only white space so far
    for place, segment in enumerate(segments):
        if segment < 0:
            words.append(-1)
            before = -1
            continue
        near = before >= 0 and segments[before] == segment
        if blank and not near:
            number = _join_blank_word(words, segments)
        begins = not near or place in apart or not (blank or continues[place])
        number += begins
        blank = blanks[place] and (begins or blank)
        words.append(number)
        before = place
    if blank:
        _join_blank_word(words, segments)
    return tuple(words)


def _join_blank_word(words: list[int], segments: Sequence[int]) -> int:
    """Joins white space at the end of a text to its last word, if any; returns the number of the last word."""
    last = max(words)
    places = [place for place, word in enumerate(words) if word == last]
    earlier = [place for place in range(places[0]) if segments[place] == segments[places[0]]]
    if not earlier or words[earlier[-1]] != last - 1:
        return last
    for place in places:
        words[place] = last - 1
    return last - 1


def _inside_word(text: str, place: int) -> bool:
    """Whether a character continues the word before it: it is a mark, or both are letters or digits.

    Ideographs, which are written without spaces, do not continue each other.
    """
    if text[place - 1].isspace():
        return False
    if category(text[place]) in MARKS:
        return True
    base = place - 1
    while base > 0 and category(text[base]) in MARKS:
        base -= 1
    return all(
        character.isalnum() and east_asian_width(character) not in ("W", "F")
        for character in (text[base], text[place])
    )


def _spelt(tokens: Sequence[str], segments: Sequence[int], in_bytes: bool) -> TokenPlaces:
    """The text of tokens that are letters or bytes of UTF-8; each byte has the place of its letter."""
    texts = ["", ""]
    offsets = [NO_OFFSET] * len(tokens)
    for segment in (0, 1):
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        waiting: list[int] = []
        places = [place for place, owner in enumerate(segments) if owner == segment]
        for place in places:
            token = tokens[place]
            letter = token
            if in_bytes and len(token) == 1:
                letter = decode(bytes([ord(token)]), place == places[-1])
            waiting.append(place)
            if letter:
                span = len(texts[segment]), len(texts[segment]) + len(letter)
                texts[segment] += letter
                for earlier in waiting:
                    offsets[earlier] = span
                waiting = []
    both = texts[0], texts[1]
    words = words_in(offsets, segments, both, range(len(tokens)))
    pair = texts[1] if 1 in segments else None
    return TokenPlaces(tuple(offsets), tuple(segments), words, texts[0], pair)


def segment_numbers(
    ids: Sequence[int],
    special: Sequence[bool],
    types: Sequence[int] | None,
    separator: int | None,
) -> tuple[int, ...]:
    """The text (0) or its pair (1) of each token, -1 for special ones, from token types or else from separators."""
    if types is not None and len({*types}) > 1:
        return tuple(
            -1 if skip else min(kind, 1) for kind, skip in zip(types, special, strict=True)
        )
    segments, segment, begun = [], 0, False
    for token, skip in zip(ids, special, strict=True):
        if skip and token == separator and begun:
            segment = 1
        begun |= not skip
        segments.append(-1 if skip else segment)
    return tuple(segments)


def _searched(
    marked: TokenPlaces, alone: Sequence[bool], texts: tuple[str, str]
) -> tuple[Offset, ...]:
    """Searches the pieces in their text; case and accents are ignored.

    A single token that is not found, such as an unknown word, gets all text between its neighbours. Several neighbouring
    tokens that are not found get no place.
    """
    offsets = [NO_OFFSET] * len(alone)
    for segment, text in enumerate(texts):
        letters, places = _folded(text)
        at = 0
        gap: list[int] = []  # tokens that were not found since the last one that was
        tokens = [place for place, owner in enumerate(marked.segments) if owner == segment]
        for before, place in zip([-1, *tokens], tokens, strict=False):
            start, end = marked.offsets[place]
            if before >= 0 and marked.offsets[before] == (start, end) and start < end:
                offsets[place] = offsets[before]  # bytes of one letter
                continue
            written = (marked.text, marked.text_pair or "")[segment][start:end]
            piece = "" if alone[place] else _folded(written)[0]
            begins = letters.find(piece, at) if piece else -1
            if gap and marked.words[place] == marked.words[gap[-1]]:
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


def _between(text: str, start: int, end: int) -> Offset:
    """A stretch without the white space around it; `NO_OFFSET` where nothing is left."""
    inner = text[start:end].strip()
    start = text.index(inner, start)
    return (start, start + len(inner)) if inner else NO_OFFSET


def _folded(text: str) -> tuple[str, list[int]]:
    """The letters of a text without case, accents and white space, and the place of each."""
    letters, places = "", []
    for place, character in enumerate(text):
        kept = [
            letter
            for letter in normalize("NFKD", normalize("NFKD", character).casefold())
            if category(letter) not in _ACCENTS and not letter.isspace()
        ]
        letters += "".join(kept)
        places += [place] * len(kept)
    return letters, places


def _alone(tokenizer: Any, ids: Sequence[int]) -> list[bool]:
    """Whether each token stands for a whole word, as [MASK] and [UNK] do."""
    whole = set(getattr(tokenizer, "all_special_ids", ()))
    return [token in whole for token in ids]


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
    """The tokenizer's style of marking words; None where it marks none."""
    try:
        if tokenizer not in _STYLES:
            _STYLES[tokenizer] = _commonest(tokenizer)
        return _STYLES[tokenizer]
    except TypeError:  # one without a weak reference
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


def _written(tokenizer: Any, tokens: Sequence[str], alone: bool) -> tuple[str, list[Offset]]:
    """A word in writing, and the span of each piece in it; the whole word where a piece is part of a letter."""
    style = _style(tokenizer)
    if style is None or alone:
        pieces = list(tokens)
    elif style == CONTINUES:
        pieces = [tokens[0], *(token.removeprefix(CONTINUES) for token in tokens[1:])]
    elif style in ENDINGS:
        pieces = [token.removesuffix(style) for token in tokens]
    elif style == SENTENCE_PIECE and not any(map(_BYTE.fullmatch, tokens)):
        pieces = [token.replace(SENTENCE_PIECE, "").strip() for token in tokens]
    else:  # letters outside of ASCII are several bytes, of which a piece may be one
        written = str(tokenizer.convert_tokens_to_string(list(tokens))).strip()
        pieces = [str(tokenizer.convert_tokens_to_string([token])).strip() for token in tokens]
        if "".join(pieces) != written:
            return written, [(0, len(written))] * len(tokens)
    ends = accumulate(map(len, pieces))
    spans = [(end - len(piece), end) for piece, end in zip(pieces, ends, strict=True)]
    return "".join(pieces), spans
