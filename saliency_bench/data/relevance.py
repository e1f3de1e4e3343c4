"""Reads the parts of a text that matter from a column of a data file, in the formats that data sets use."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from saliency_bench.core.errors import InputError, counted, unknown
from saliency_bench.data.example import Example, Span, spans_of_characters

SPANS = "spans"
CHARACTERS = "characters"
HATEXPLAIN = "hatexplain"
ERASER = "eraser"
#: A value of each format, in words.
FORMATS: Mapping[str, str] = {
    SPANS: "character spans [[start, end], ...]",
    CHARACTERS: "numbers of characters [3, 4, 5, ...]",
    HATEXPLAIN: "a 0 or 1 for each word of the text, or a list of such lists",
    ERASER: "evidence of word numbers, [{start_token, end_token}, ...]",
}
WORD = re.compile(r"\S+")

Words: TypeAlias = Sequence[tuple[int, int]]


def with_relevant(
    examples: Sequence[Example], values: Sequence[Any], column: str, format: str | None
) -> list[Example]:
    """Returns the examples with the relevant spans that the column has; an example with no value stays as it is.

    Characters and words are those of the first text. Words are separated by whitespace; ends are excluded.

    Args:
        examples: the rows.
        values: the column, as lists or as JSON.
        column: its name, for messages.
        format: one of FORMATS; None: the only one in which every row can be read.

            spans: `[[start, end], ...]` in characters.
            characters: `[3, 4, 5, ...]`, the number of each character (SemEval-2021 task 5, Pavlopoulos et al. 2021).
            hatexplain: a 0 or 1 for each word, or a list of these for each annotator, of whom more than half decide
            (Mathew et al. 2021); an empty list: there was no annotator.
            eraser: `[{"start_token": 3, "end_token": 5}, ...]`, or groups of these (DeYoung et al. 2020).

    Raises:
        InputError: a value is not of the format, or does not fit its text; or several formats are possible.
    """
    if format is not None and format not in FORMATS:
        raise unknown("data.relevant_format", format, list(FORMATS))
    parsed = [
        _parsed(value, example.source, column)
        for example, value in zip(examples, values, strict=True)
    ]
    chosen = format or _detected(examples, parsed, column)
    return [
        example
        if value is None
        else replace(example, relevant=_READERS[chosen](value, example, column))
        for example, value in zip(examples, parsed, strict=True)
    ]


def _parsed(value: Any, where: str, column: str) -> list[Any] | None:
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise InputError(
                f"{where}: expected JSON in column {column!r} (data.relevant), got {value[:40]!r}"
            ) from None
    if value is not None and not isinstance(value, list):
        kind = type(value).__name__
        raise InputError(
            f"{where}: expected a list in column {column!r} (data.relevant), got {kind}"
        )
    return value


def _detected(examples: Sequence[Example], parsed: Sequence[Any], column: str) -> str:
    """Returns the only format that all rows may have."""
    left = set(FORMATS)
    for example, value in zip(examples, parsed, strict=True):
        if value:
            left &= _possible(value, example)
            if not left:
                raise InputError(
                    f"{example.source}: column {column!r} (data.relevant) is in no format that fits this row and those "
                    f"before it. Set data.relevant_format to one of {', '.join(FORMATS)}."
                )
    if len(left) > 1 and any(parsed):
        raise InputError(
            f"column {column!r} (data.relevant) may be {' or '.join(sorted(left))}. Set data.relevant_format."
        )
    return SPANS if len(left) > 1 else left.pop()


def _possible(value: Sequence[Any], example: Example) -> set[str]:
    """Returns the formats that a value may have."""
    if all(isinstance(item, dict) for item in _flat(value)):
        return {ERASER}
    if all(map(_flag, value)):
        flags = len(value) == len(_words(example)) or len({*value}) < len(value)
        return {HATEXPLAIN} if flags else {HATEXPLAIN, CHARACTERS}
    if all(map(_whole, value)):
        return {CHARACTERS}
    if not all(isinstance(item, list) for item in value):
        return set()
    formats = {SPANS} if all(len(item) == 2 for item in value) else set()
    n_words = len(_words(example))
    flags = all(all(map(_flag, item)) for item in value)
    if flags and ({len(item) for item in value} == {n_words} or not formats):
        formats.add(HATEXPLAIN)
    return formats


def _read_spans(value: Sequence[Any], example: Example, column: str) -> tuple[Span, ...]:
    length = len(example.text)
    for span in value:
        pair = isinstance(span, list) and len(span) == 2 and all(map(_whole, span))
        if not pair or not 0 <= span[0] < span[1] <= length:
            raise _refused(example, column, SPANS, span, f"within its {length} characters")
    return tuple((0, start, end) for start, end in value)


def _read_characters(value: Sequence[Any], example: Example, column: str) -> tuple[Span, ...]:
    length = len(example.text)
    for character in value:
        if not _whole(character) or not 0 <= character < length:
            raise _refused(
                example, column, CHARACTERS, character, f"within its {length} characters"
            )
    return spans_of_characters(value)


def _read_flags(value: Sequence[Any], example: Example, column: str) -> tuple[Span, ...] | None:
    words = _words(example)
    annotators = [value] if all(map(_flag, value)) else value
    for marks in annotators:
        fits = isinstance(marks, list) and all(map(_flag, marks)) and len(marks) == len(words)
        if value and not fits:
            raise _refused(
                example, column, HATEXPLAIN, marks, f"for its {counted(len(words), 'word')}"
            )
    if not value:
        return None
    marked = [2 * sum(flags) > len(annotators) for flags in zip(*annotators, strict=True)]
    return tuple((0, *word) for word, mark in zip(words, marked, strict=True) if mark)


def _read_evidence(value: Sequence[Any], example: Example, column: str) -> tuple[Span, ...]:
    words = _words(example)
    spans = []
    for item in _flat(value):
        ends: list[Any] = []
        if isinstance(item, dict):
            ends = [item.get("start_token"), item.get("end_token")]
        if not ends or not all(map(_whole, ends)) or not 0 <= ends[0] < ends[1] <= len(words):
            raise _refused(
                example, column, ERASER, item, f"within its {counted(len(words), 'word')}"
            )
        spans.append((0, words[ends[0]][0], words[ends[1] - 1][1]))
    return tuple(spans)


_READERS = {
    SPANS: _read_spans,
    CHARACTERS: _read_characters,
    HATEXPLAIN: _read_flags,
    ERASER: _read_evidence,
}


def _words(example: Example) -> Words:
    return [match.span() for match in WORD.finditer(example.text)]


def _flat(value: Sequence[Any]) -> list[Any]:
    """Returns pieces of evidence without their groups."""
    return [piece for group in value for piece in (group if isinstance(group, list) else [group])]


def _flag(value: Any) -> bool:
    return isinstance(value, int) and value in (0, 1)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _refused(example: Example, column: str, format: str, got: Any, bound: str) -> InputError:
    return InputError(
        f"{example.source}: expected {FORMATS[format]} {bound} in column {column!r} (data.relevant), got "
        f"{str(got)[:60]}. Mend the row, or set data.relevant_format if it is of another format."
    )
