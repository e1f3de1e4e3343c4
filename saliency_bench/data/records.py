"""Makes examples of rows, with the checks on texts, labels and ids that all formats share."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, TypeAlias

from saliency_bench.core.errors import InputError
from saliency_bench.data import fields
from saliency_bench.data.example import Example
from saliency_bench.data.labels import as_label
from saliency_bench.data.relevance import with_relevant

#: The number of a row in its source, counted from 1, and its values by column.
Record: TypeAlias = tuple[int, Mapping[str, Any]]

ID_DIGITS = 12
SEPARATORS = {";": "semicolons", "\t": "tabs", ",": "commas", "|": "bars"}


@dataclass(frozen=True)
class Columns:
    """The names of the columns to read; the names of the fields are the keys of the configuration."""

    text: str
    text_pair: str | None = None
    label: str | None = None
    id: str | None = None
    relevant: str | None = None
    options: str | None = None
    segments: str | None = None
    messages: str | None = None

    def wanted(self) -> dict[str, str]:
        """Returns the columns to read by configuration key."""
        unread = () if self.messages is None else ("text",)  # a chat takes the text's place
        return {
            f"data.{key}": name
            for key, name in vars(self).items()
            if name is not None and key not in unread
        }

    def check(self, columns: Sequence[str], where: str) -> None:
        """Raises an `InputError` for a column that is missing, or there twice."""
        for key, name in self.wanted().items():
            if name not in columns:
                raise InputError(f"{where}: {_missing_column(key, name, columns)}")
            if columns.count(name) > 1:
                raise InputError(f"{where}: two columns are named {name!r} ({key}). Rename one.")


def to_examples(
    records: Iterable[Record], columns: Columns, name: str, relevant_format: str | None = None
) -> list[Example]:
    """Returns the rows as examples, in their order.

    Without an id column, an example is named by the hash of its text; repeated texts get -2, -3, ... in the order of their
    labels, so that names do not depend on positions.

    Args:
        records: the rows.
        columns: the columns to read.
        name: the name of the file or dataset, for messages.
        relevant_format: the format of the column of relevant spans (`relevance.with_relevant`).

    Raises:
        InputError: there are no rows; a text, label, id or relevant span is unusable; or two rows have one id.
    """
    rows = list(records)
    examples = [_example(f"{name}:{row}", values, columns) for row, values in rows]
    if columns.relevant is not None:
        relevant = [values[columns.relevant] for _, values in rows]
        examples = with_relevant(examples, relevant, columns.relevant, relevant_format)
    if not examples:
        raise InputError(f"{name}: there are no rows. A dataset needs at least one text.")
    if columns.id is None:
        return _number_repeats(examples)
    _refuse_repeats(examples)
    return examples


def content_id(text: str, text_pair: str | None = None) -> str:
    """Returns the first 12 hexadecimal digits of the text's SHA-256; a pair is joined by a NUL."""
    content = text if text_pair is None else f"{text}\0{text_pair}"
    return hashlib.sha256(content.encode()).hexdigest()[:ID_DIGITS]


def _example(where: str, values: Mapping[str, Any], columns: Columns) -> Example:
    chat = columns.messages and _lists(values[columns.messages], columns.messages, where)
    messages = fields.messages_of(chat, where)
    text = fields.text_of(messages) or _text(values[columns.text], columns.text, where)
    pair = columns.text_pair and _text(values[columns.text_pair], columns.text_pair, where)
    label = None if columns.label is None else as_label(values[columns.label], where)
    name = columns.id and _id(values[columns.id], columns.id, where)
    options = columns.options and _lists(values[columns.options], columns.options, where)
    segments = columns.segments and _lists(values[columns.segments], columns.segments, where)
    return Example(
        name or content_id(text, pair),
        text,
        pair,
        label,
        where,
        options=fields.options_of(options, where),
        parts=fields.segments_of_chat(chat, messages, segments, where)
        if messages
        else fields.segments_of(segments, text, where),
        messages=messages,
    )


def _lists(value: Any, column: str, where: str) -> Any:
    """Returns a list or a mapping, which CSV and TSV have as JSON; None if the value is missing."""
    if value is None or value == "" or not isinstance(value, str):
        return value or None
    try:
        return json.loads(value)
    except ValueError:
        raise InputError(
            f"{where}: column {column!r}: expected a list, as JSON, got {value!r:.60}"
        ) from None


def _text(value: Any, column: str, where: str) -> str:
    value = _joined(value)
    fault = _fault(value)
    if fault:
        raise InputError(f"{where}: expected a text in column {column!r}, got {fault}")
    return str(value)


def _joined(value: Any) -> Any:
    """Joins a list of words to a text, as in HateXplain's `post_tokens`; other values are returned unchanged."""
    words = isinstance(value, list) and all(
        isinstance(word, str) and len(word.split()) == 1 and word == word.strip() for word in value
    )
    return " ".join(value) if words else value


def _fault(value: Any) -> str | None:
    """Returns the reason why a value is no text to explain, in words; None if it is one."""
    if not isinstance(value, str):
        return "nothing (null)" if value is None else _kind(value)
    if not value.strip():
        return "only whitespace" if value else "an empty one. Remove the row, or give it a text."
    if "\0" in value:
        return f"a NUL at character {value.index(chr(0)) + 1}. Remove it."
    return half_character(value)


def _kind(value: Any) -> str:
    words = ", of which not every one is a single word" if isinstance(value, list) else ""
    return f"a value of type {type(value).__name__}{words}"


def half_character(text: str) -> str | None:
    """Returns the place of a lone surrogate, which cannot be encoded, in words; None if the text has none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X} at character {error.start + 1}"
        return f"half of a character, the lone surrogate {half}. Export the text again."
    return None


def _id(value: Any, column: str, where: str) -> str:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if whole else _text(value, column, where)


def _number_repeats(examples: list[Example]) -> list[Example]:
    numbered, seen = list(examples), Counter[str]()
    order = sorted(enumerate(examples), key=lambda item: (item[1].id, str(item[1].label)))
    for index, example in order:
        seen[example.id] += 1
        if seen[example.id] > 1:
            numbered[index] = replace(example, id=f"{example.id}-{seen[example.id]}")
    return numbered


def _refuse_repeats(examples: Iterable[Example]) -> None:
    first: dict[str, str] = {}
    for example in examples:
        if first.setdefault(example.id, example.source) != example.source:
            raise InputError(
                f"{example.source}: id {example.id!r} is also that of {first[example.id]}. "
                "Make ids differ, or leave out data.id: then they are made from the texts."
            )


def _missing_column(key: str, name: str, columns: Sequence[str]) -> str:
    lower = {column.lower(): column for column in columns}
    near = get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    hint = f" Did you mean {lower[near[0]]!r}?" if near else ""
    used = [word for sign, word in SEPARATORS.items() if len(columns) == 1 and sign in columns[0]]
    hint = f" Is it separated by {used[0]}?" if used else hint
    listed = ", ".join(map(repr, columns)) or "none"
    return f"no column {name!r} ({key}).{hint} The columns are: {listed}"
