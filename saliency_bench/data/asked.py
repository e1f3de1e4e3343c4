"""What a row may hold beside its text: options that may follow it, named stretches of it, or a chat in its place."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from saliency_bench.core.errors import InputError
from saliency_bench.data.example import Message, Stretch

ASSISTANT = "assistant"


def options_of(value: Any, where: str) -> tuple[str, ...]:
    """Reads the texts of which one may follow a prompt; none where the value is None.

    Raises:
        InputError: these are no texts, fewer than two, or one is empty or there twice.
    """
    if value is None:
        return ()
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise InputError(f"{where}: options: expected a list of texts, got {value!r:.60}")
    if len(value) < 2:
        raise InputError(f"{where}: options: expected at least two, got {len(value)}")
    for number, one in enumerate(value, 1):
        if not one:
            raise InputError(f"{where}: option {number} of {len(value)} is empty")
        if one in value[: number - 1]:
            raise InputError(
                f"{where}: option {number} of {len(value)} is there twice: {one!r:.40}"
            )
    return tuple(value)


def messages_of(value: Any, where: str) -> tuple[Message, ...]:
    """Reads the messages of a chat, mappings with a role and a content; none where the value is None.

    Raises:
        InputError: these are no messages, there is none, or a content is no text.
    """
    if value is None:
        return ()
    value = value.tolist() if hasattr(value, "tolist") else value
    if not is_chat(value):
        raise InputError(
            f"{where}: messages: expected a list of mappings with role and content, got {value!r:.60}"
        )
    return tuple((one["role"], _content(one["content"], where)) for one in value)


def written(messages: tuple[Message, ...]) -> str:
    """The words of a chat, one message after another."""
    return "\n".join(content for _, content in messages)


def is_chat(value: Any) -> bool:
    """Whether this is a list of messages."""
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(
            isinstance(one, Mapping) and isinstance(one.get("role"), str) and "content" in one
            for one in value
        )
    )


def _content(value: Any, where: str) -> str:
    """The text of a message; content in pieces is joined, where all of them are texts."""
    if isinstance(value, list) and all(
        isinstance(one, Mapping) and isinstance(one.get("text"), str) for one in value
    ):
        return "".join(one["text"] for one in value)
    if not isinstance(value, str):
        raise InputError(f"{where}: messages: expected texts as content, got {value!r:.60}")
    return value


def stretches_of(value: Any, text: str, where: str) -> tuple[Stretch, ...]:
    """Reads the named stretches of a text, in the order of the text; none where the value is None.

    Args:
        value: a list of [start, end] or [name, start, end] in characters, the end left out, or of texts that stand in
            the text in this order (passages, list items); or a mapping of names to such texts or to [start, end].
        text: the text.
        where: names it in messages.

    Raises:
        InputError: a stretch is none, leaves the text, overlaps another or is not in the text.
    """
    if value is None:
        return ()
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, Mapping):
        value = [[name, *([one] if isinstance(one, str) else one)] for name, one in value.items()]
    if not isinstance(value, list | tuple) or not value:
        raise InputError(f"{where}: segments: expected a list of stretches, got {value!r:.60}")
    found: list[Stretch] = []
    searched = 0
    for number, one in enumerate(value, 1):
        name, start, end = _stretch(one, number, text, searched, where)
        if not 0 <= start < end <= len(text):
            raise InputError(
                f"{where}: segment {name} is [{start}, {end}], and must have a character and none beyond the text's {len(text)}"
            )
        found.append((name, 0, start, end))
        searched = max(searched, end)
    found.sort(key=lambda stretch: stretch[2])
    for before, after in pairwise(found):
        if after[2] < before[3]:
            raise InputError(
                f"{where}: segments {before[0]} and {after[0]} overlap at character {after[2]}"
            )
    if twice := {one[0] for one in found if sum(one[0] == other[0] for other in found) > 1}:
        raise InputError(f"{where}: two segments are called {min(twice)}: give each its own name")
    return tuple(found)


def _stretch(one: Any, number: int, text: str, searched: int, where: str) -> tuple[str, int, int]:
    """The name, first character and end of what was given as a stretch; words are searched from a place on."""
    parts: list[Any] = (
        [one] if isinstance(one, str) else [*one] if isinstance(one, list | tuple) else []
    )
    name = parts.pop(0) if len(parts) > 1 and isinstance(parts[0], str) else str(number)
    if len(parts) == 1 and isinstance(parts[0], str):
        start = text.find(parts[0], searched) if parts[0] else -1
        if start < 0:
            raise InputError(
                f"{where}: segment {name}, {parts[0]!r:.40}, is not in the text after the segments before it"
            )
        return name, start, start + len(parts[0])
    ends = [part for part in parts if isinstance(part, int) and not isinstance(part, bool)]
    if len(ends) == len(parts) == 2:
        return name, ends[0], ends[1]
    raise InputError(
        f"{where}: segment {number}: expected [start, end], [name, start, end] or words of the text, got {one!r:.60}"
    )
