"""One labelled text, as every dataset hands it on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

#: Characters start to end, end left out, of segment 0 (text) or 1 (text_pair).
Span = tuple[int, int, int]
#: A named stretch: name, segment, first character and the end, left out.
Stretch = tuple[str, int, int, int]
#: Role and content of a message of a chat.
Message = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Example:
    """A text or a pair of texts.

    `id` names the example in every row of the results, whatever its position in the file.
    `label` is a class index or a class name, or None where there is no gold label.
    `source` says where it was read ("reviews.csv:12"), for messages.
    `relevant` are the stretches, each (segment, start, end), that are known to matter, to people or by construction;
    None: nothing is known, which is another thing than that nothing matters.
    `options` are texts of which one may follow `text`; `label` is then one of them, or its number.
    `parts` are named stretches of the text (passages, turns of a chat), which do not overlap; with `in_template` what
    stands outside of them is a chat template's. `messages` are a chat that no template has been applied to yet.
    """

    id: str
    text: str
    text_pair: str | None = None
    label: int | str | None = None
    source: str = ""
    relevant: tuple[Span, ...] | None = None
    options: tuple[str, ...] = ()
    parts: tuple[Stretch, ...] = ()
    in_template: bool = False
    messages: tuple[Message, ...] = ()
    extra: Mapping[str, float | str] = field(default_factory=dict)
