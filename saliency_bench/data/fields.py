"""Reads the fields of a row besides its text: options, named segments, and a chat that stands in the text's place."""

from collections import Counter
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

from saliency_bench.core.errors import InputError
from saliency_bench.data.example import Message, Part

USER, ASSISTANT = "user", "assistant"
#: The keys of a message that are read.
MESSAGE = ("role", "content", "segments")


def options_of(value: Any, where: str) -> tuple[str, ...]:
    """Reads the options for the text that follows a prompt; none if the value is None.

    Raises:
        InputError: the value is not a list of texts, has fewer than two, or one is empty or there twice.
    """
    if value is None:
        return ()
    value = _plain(value)
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise InputError(f"{where}: options: expected a list of texts, got {value!r:.60}")
    if len(value) < 2:
        raise InputError(f"{where}: options: expected at least two, got {len(value)}")
    for number, text in enumerate(value, 1):
        if not text:
            raise InputError(f"{where}: option {number} of {len(value)} is empty")
        if text in value[: number - 1]:
            raise InputError(
                f"{where}: option {number} of {len(value)} is there twice: {text!r:.40}"
            )
    return tuple(value)


def _plain(value: Any) -> Any:
    """Returns arrays as lists, and their numbers as Python's own; other values as they are."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return [*map(_plain, value)] if isinstance(value, list | tuple) else value


def messages_of(value: Any, where: str) -> tuple[Message, ...]:
    """Reads the messages of a chat, mappings with a role and a content; none if the value is None.

    Raises:
        InputError: the value is not a list of messages, is empty, or a content is not a text.
    """
    if value is None:
        return ()
    value = _plain(value)
    if not is_chat(value):
        raise InputError(
            f"{where}: messages: expected a list of mappings with role and content, got {value!r:.60}"
        )
    for message in value:
        for key in message.keys() - {*MESSAGE}:
            if near := get_close_matches(str(key), MESSAGE, n=1, cutoff=0.8):
                raise InputError(f"{where}: a message has {key!r}: did you mean {near[0]!r}?")
    return tuple((message["role"], _content(message["content"], where)) for message in value)


def segments_of_chat(
    value: Any, messages: tuple[Message, ...], beside: Any, where: str
) -> tuple[Part, ...]:
    """Reads the segments of a chat's messages; the second field of each is the number of its message, from 0.

    Segments without a name are numbered through the chat.

    Args:
        value: the messages, of which any may have `segments` (`segments_of`), in characters of its content.
        messages: the same as `messages_of` reads them.
        beside: segments that stand beside the chat, which are those of the user's last message; None: there are none.
        where: the name of the chat in messages.

    Raises:
        InputError: see `segments_of`; or the message of the segments beside a chat is missing, or has its own.
    """
    of_message = [_plain(message.get("segments")) for message in _plain(value)]
    if beside is not None:
        last = max((n for n, (role, _) in enumerate(messages) if role == USER), default=None)
        if last is None or of_message[last] is not None:
            reason = "no message is the user's" if last is None else "that message has its own"
            raise InputError(
                f"{where}: segments beside a chat are those of the user's last message, and {reason}: give segments with "
                "their message"
            )
        of_message[last] = beside
    parts: list[Part] = []
    for number, (segments, (_, content)) in enumerate(zip(of_message, messages, strict=True)):
        place = f"{where}, message {number + 1}"
        read = segments_of(segments, content, place, first=len(parts) + 1)
        parts += [(name, number, start, end) for name, _, start, end in read]
    _refuse_same_names(parts, where)
    return tuple(parts)


def text_of(messages: tuple[Message, ...]) -> str:
    """Returns the contents of a chat's messages, each on its own line."""
    return "\n".join(content for _, content in messages)


def is_chat(value: Any) -> bool:
    """Whether a value is a list of messages."""
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(
            isinstance(message, Mapping)
            and isinstance(message.get("role"), str)
            and "content" in message
            for message in value
        )
    )


def _content(value: Any, where: str) -> str:
    """Returns the text of a message; content in pieces is joined if all of them are texts."""
    if isinstance(value, list) and all(
        isinstance(piece, Mapping) and isinstance(piece.get("text"), str) for piece in value
    ):
        return "".join(piece["text"] for piece in value)
    if not isinstance(value, str):
        raise InputError(f"{where}: messages: expected texts as content, got {value!r:.60}")
    return value


def segments_of(value: Any, text: str, where: str, first: int = 1) -> tuple[Part, ...]:
    """Reads the named segments of a text and returns them in the order of the text; none if the value is None.

    Args:
        value: a list of [start, end] or [name, start, end] in characters, the end excluded, or of texts that stand in the
            text in this order (passages, list items); or a mapping from names to such texts or to [start, end].
        text: the text.
        where: the name of the text in messages.
        first: the number of the first segment; a segment without a name is called by its number.

    Raises:
        InputError: a segment is of no such form, leaves the text, overlaps another, is not in the text, or is white
            space alone; or two have one name.
    """
    if value is None:
        return ()
    value = _plain(value)
    if isinstance(value, Mapping):
        places = {name: _plain(place) for name, place in value.items()}
        value = [
            [name, *(place if isinstance(place, list) else [place])]
            for name, place in places.items()
        ]
    if not isinstance(value, list | tuple) or not value:
        raise InputError(f"{where}: segments: expected a list of segments, got {value!r:.60}")
    parts: list[Part] = []
    searched = 0
    for number, segment in enumerate(value, first):
        name, start, end = _segment(segment, number, text, searched, where)
        if not 0 <= start < end <= len(text):
            raise InputError(
                f"{where}: segment {name} is [{start}, {end}]: expected 0 <= start < end <= {len(text)}, the length of the text"
            )
        if not text[start:end].strip():
            raise InputError(
                f"{where}: segment {name}, [{start}, {end}], is white space alone: give it a word, or leave it out"
            )
        parts.append((name, 0, start, end))
        searched = max(searched, end)
    parts.sort(key=lambda part: part[2])
    for before, after in pairwise(parts):
        if after[2] < before[3]:
            raise InputError(
                f"{where}: segments {before[0]} and {after[0]} overlap at character {after[2]}"
            )
    _refuse_same_names(parts, where)
    return tuple(parts)


def _refuse_same_names(parts: Iterable[Part], where: str) -> None:
    names = Counter(name for name, *_ in parts)
    if twice := [name for name, n in names.items() if n > 1]:
        raise InputError(f"{where}: two segments are called {min(twice)}: give each its own name")


def _segment(value: Any, number: int, text: str, searched: int, where: str) -> tuple[str, int, int]:
    """Returns the name, first character and end of a segment; words are searched from the character `searched` on."""
    items: list[Any] = (
        [value] if isinstance(value, str) else [*value] if isinstance(value, list | tuple) else []
    )
    name = items.pop(0) if len(items) > 1 and isinstance(items[0], str) else str(number)
    if not name.strip():
        raise InputError(
            f"{where}: segment {number} has an empty name: give it one, or leave it out"
        )
    if len(items) == 1 and isinstance(items[0], str):
        start = text.find(items[0], searched) if items[0] else -1
        if start < 0:
            raise InputError(
                f"{where}: segment {name}, {items[0]!r:.40}, is not in the text after the segments before it"
            )
        return name, start, start + len(items[0])
    ends = [item for item in items if isinstance(item, int) and not isinstance(item, bool)]
    if len(ends) == len(items) == 2:
        return name, ends[0], ends[1]
    raise InputError(
        f"{where}: segment {number}: expected [start, end], [name, start, end] or words of the text, got {value!r:.60}"
    )
