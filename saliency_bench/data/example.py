"""One labelled text, as every dataset hands it on."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Example:
    """A text or a pair of texts.

    `id` names the example in every row of the results, whatever its position in the file.
    `label` is a class index or a class name, or None where there is no gold label.
    `source` says where it was read ("reviews.csv:12"), for messages.
    """

    id: str
    text: str
    text_pair: str | None = None
    label: int | str | None = None
    source: str = ""
    extra: Mapping[str, float | str] = field(default_factory=dict)
