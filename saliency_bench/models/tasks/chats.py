"""Chats: messages in the template of a tokenizer, of which only the words of the messages are evidence."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from saliency_bench.core.errors import InputError, one_line
from saliency_bench.data.example import Example, Message, Part, Turn
from saliency_bench.data.fields import ASSISTANT
from saliency_bench.models.model import Model


def rendered(model: Model, example: Example) -> Example:
    """The prompt of a chat; a last message of the assistant's is the continuation.

    Its parts are the segments of its messages, or all messages if none has segments.

    Raises:
        InputError: the tokenizer has no chat template, or the template refuses these messages or changes their words.
    """
    where = example.source or example.id
    messages, follows = _with_continuation(example, where)
    if example.relevant is not None:
        raise InputError(
            f"{where}: data.relevant names relevant stretches of a text, and is not possible for a chat"
        )
    if not any(content.strip() for _, content in messages):
        raise InputError(f"{where}: the chat has no words before the assistant's answer")
    if not model.tokenizer.is_fast:
        raise InputError(
            f"{where}: the tokenizer of {model.name} gives no places of its tokens, so that the words of a chat cannot be "
            "distinguished from the template: use a fast tokenizer"
        )
    text = _render(model, messages, where)
    turns = _places(model, messages, text, where)
    if follows is not None:
        turns.append((ASSISTANT, 1, 0, len(follows), 0))
    turns = _numbered(turns)
    parts = tuple(_moved(part, turns[part[1]]) for part in example.parts)
    worded = tuple(turn for turn in turns if turn[1] == 1 or text[turn[2] : turn[3]].strip())
    return replace(
        example,
        text=text,
        text_pair=follows,
        messages=(),
        turns=worded,
        parts=parts or tuple(turn[:4] for turn in worded),
    )


def _with_continuation(example: Example, where: str) -> tuple[tuple[Message, ...], str | None]:
    """The messages of a chat's prompt, and the text that follows it."""
    *earlier, (role, content) = example.messages
    if role != ASSISTANT:
        return example.messages, example.text_pair
    if example.text_pair is not None or example.options:
        raise InputError(
            f"{where}: the chat ends with a message of the assistant's, which is the continuation: give no other, and no "
            "options"
        )
    return tuple(earlier), content


def _moved(part: Part, turn: Turn) -> Part:
    """A segment of a message in characters of the text that the message is in, without space that the template strips."""
    name, _, start, end = part
    of, first, last, stripped = turn[1:]
    shift = first - stripped
    return name, of, max(first, start + shift), min(last, end + shift)


def _render(model: Model, messages: Sequence[Message], where: str) -> str:
    if not getattr(model.tokenizer, "chat_template", None):
        raise InputError(
            f"{where}: the tokenizer of {model.name} has no chat template: give the prompt as a text, or set the tokenizer's "
            "chat_template"
        )
    listed = [{"role": role, "content": content} for role, content in messages]
    try:
        text: Any = model.tokenizer.apply_chat_template(
            listed, tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # a template is a program, and raises errors of many types
        raise InputError(
            f"{where}: the chat template of {model.name} refuses these messages ({one_line(error)})"
        ) from None
    return str(text)


def _places(model: Model, messages: Sequence[Message], text: str, where: str) -> list[Turn]:
    """The places of the messages in a rendered chat, by their roles.

    The template is rendered again with a mark for each message, which shows the text that it puts around them. It may strip
    the space around a message, but may not change it otherwise.
    """
    marks = [f"\ue000{number}\ue001" for number in range(len(messages))]
    marked = [(role, mark) for (role, _), mark in zip(messages, marks, strict=True)]
    rest = _render(model, marked, where)
    around = []
    for mark in marks:
        before, occurrence, rest = rest.partition(mark)
        around.append(before)
        if not occurrence:
            raise _changed(model, where)
    around.append(rest)
    turns: list[Turn] = []
    place = len(around[0])
    for (role, content), after in zip(messages, around[1:], strict=True):
        written = _written(content, text, place, after)
        if written is None:
            raise _changed(model, where)
        stripped, length = written
        turns.append((role, 0, place, place + length, stripped))
        place += length + len(after)
    if place != len(text) or not text.startswith(around[0]):
        raise _changed(model, where)
    return turns


def _written(content: str, text: str, place: int, after: str) -> tuple[int, int] | None:
    """How many characters at the start of a content are not at its place in a text, and how many are; None if it is changed.

    The text has `after` after it. Only white space at its start and end may be missing.
    """
    words = content.strip()
    begins = text.find(words, place)
    first = content.find(words)
    space = text[place:begins]
    if begins < 0 or not content[:first].endswith(space):
        return None
    end, later = begins + len(words), content[first + len(words) :]
    for kept in range(len(later), -1, -1):
        if text.startswith(later[:kept] + after, end):
            return first - len(space), end + kept - place
    return None


def _numbered(turns: Sequence[Turn]) -> list[Turn]:
    """The turns, whose names have a number from the second message of a role on."""
    roles = [role for role, *_ in turns]
    names = [
        role if role not in roles[:n] else f"{role} {roles[:n].count(role) + 1}"
        for n, role in enumerate(roles)
    ]
    return [(name, *turn[1:]) for name, turn in zip(names, turns, strict=True)]


def _changed(model: Model, where: str) -> InputError:
    return InputError(
        f"{where}: the chat template of {model.name} changes the words of these messages, so that their places are not "
        "known: give the prompt as a text, with segments"
    )
