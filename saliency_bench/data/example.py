"""The labelled text that every dataset returns."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

#: Characters of a text: 0 (text) or 1 (text_pair), the first one, and the end, which is excluded.
Span = tuple[int, int, int]
#: A named part of a text: its name and the fields of a `Span`.
Part = tuple[str, int, int, int]
#: Role and content of a message of a chat.
Message = tuple[str, str]
#: A message of a chat in a template: the fields of a `Part`, and how many characters of white space at the start of its
#: content the template left out.
Turn = tuple[str, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Example:
    """A text or a pair of texts.

    `id` names the example in every row of the results, whatever its position in the file.
    `label` is a class index or a class name, or None if there is no gold label.
    `source` is the place from which it was read ("reviews.csv:12"), for messages.
    `relevant` are the spans that are known to matter, to people or by construction; None: unknown. An empty tuple says that
    nothing matters.
    `options` are the texts of which one may follow `text`; `label` is then one of them, or its number.
    `parts` are named segments of the text (passages, messages of a chat), which do not overlap.
    `turns` are the messages of a chat; if there are any, the text outside of them is from a chat template.
    `messages` are a chat to which no template has been applied yet. `parts` are then segments of its messages, with the
    number of the message in place of that of the text.
    """

    id: str
    text: str
    text_pair: str | None = None
    label: int | str | None = None
    source: str = ""
    relevant: tuple[Span, ...] | None = None
    options: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    turns: tuple[Turn, ...] = ()
    messages: tuple[Message, ...] = ()
    extra: Mapping[str, float | str] = field(default_factory=dict)


def spans_of_characters(characters: Iterable[int]) -> tuple[Span, ...]:
    """Merges the numbers of characters of a text into spans of neighbours."""
    spans: list[Span] = []
    for character in sorted({*characters}):
        start = spans.pop()[1] if spans and spans[-1][2] == character else character
        spans.append((0, start, character + 1))
    return tuple(spans)
