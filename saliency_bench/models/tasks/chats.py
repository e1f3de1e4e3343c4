"""Chats: messages in the template of a tokenizer, of which only the words of the messages are evidence."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from saliency_bench.core.errors import InputError, one_line
from saliency_bench.data.example import Example, Message, Part
from saliency_bench.data.fields import ASSISTANT
from saliency_bench.models.model import Model


def rendered(model: Model, example: Example) -> Example:
    """The prompt of a chat, where each message is a part; a last message of the assistant's is the continuation.

    Raises:
        InputError: the tokenizer has no chat template, or the template refuses these messages or changes their words.
    """
    where, messages = example.source or example.id, example.messages
    follows = example.text_pair
    if messages[-1][0] == ASSISTANT:
        if follows is not None or example.options:
            raise InputError(
                f"{where}: the chat ends with a message of the assistant's, which is the continuation: give no other, and no "
                "options"
            )
        *earlier, (_, follows) = messages
        messages = tuple(earlier)
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
    parts = _places(model, messages, text, where)
    return replace(
        example, text=text, text_pair=follows, messages=(), parts=parts, in_template=True
    )


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


def _places(model: Model, messages: Sequence[Message], text: str, where: str) -> tuple[Part, ...]:
    """The places of the messages' words in a rendered chat.

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
    parts: list[Part] = []
    place = len(around[0])
    names = _names([role for role, _ in messages])
    for (_, content), name, after in zip(messages, names, around[1:], strict=True):
        forms = (content, content.strip(), content.rstrip(), content.lstrip())
        written = next((form for form in forms if text.startswith(form + after, place)), None)
        if written is None:
            raise _changed(model, where)
        if written.strip():
            parts.append((name, 0, place, place + len(written)))
        place += len(written) + len(after)
    if place != len(text) or not text.startswith(around[0]):
        raise _changed(model, where)
    return tuple(parts)


def _names(roles: Sequence[str]) -> list[str]:
    """The role of each message, with a number from the second message of a role on."""
    return [
        role if role not in roles[:place] else f"{role} {roles[:place].count(role) + 1}"
        for place, role in enumerate(roles)
    ]


def _changed(model: Model, where: str) -> InputError:
    return InputError(
        f"{where}: the chat template of {model.name} changes the words of these messages, so that their places are not "
        "known: give the prompt as a text, with segments"
    )
