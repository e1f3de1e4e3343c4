"""One labelled text, as every dataset hands it on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

#: Characters start to end, end left out, of segment 0 (text) or 1 (text_pair).
Span = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Example:
    """A text or a pair of texts.

    `id` names the example in every row of the results, whatever its position in the file.
    `label` is a class index or a class name, or None where there is no gold label.
    `source` says where it was read ("reviews.csv:12"), for messages.
    `relevant` are the stretches, each (segment, start, end), that are known to matter, to people or by construction;
    None: nothing is known, which is another thing than that nothing matters.
    """

    id: str
    text: str
    text_pair: str | None = None
    label: int | str | None = None
    source: str = ""
    relevant: tuple[Span, ...] | None = None
    extra: Mapping[str, float | str] = field(default_factory=dict)
