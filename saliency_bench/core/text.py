"""One text as the model reads it. Imports no torch."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from saliency_bench.core.rows import PARTS

T = TypeVar("T")

#: The boundaries of an answer, which a question may be about; `Encoded.boundary` is the place of one of them here.
BOUNDARIES = ("start", "end")
#: The offset of a token whose place in the text is unknown.
NO_OFFSET = (-1, -1)
#: Unicode's categories of combining marks, and of format characters such as joiners.
MARKS = {"Mn", "Me", "Mc", "Cf"}


@dataclass(frozen=True, slots=True)
class Encoded:
    """One tokenised example and the place of its question (see `tasks.task`).

    It has no padding, unless its ids came padded and the outputs of the model depend on that: then `pads` are special
    tokens that are not attended to.
    """

    example_id: str
    input_ids: tuple[int, ...]
    token_type_ids: tuple[int, ...] | None
    special: tuple[bool, ...]
    tokens: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...]  # characters in its text; (-1, -1) for special tokens
    segments: tuple[int, ...]  # 0: text, 1: text_pair, -1: special
    words: tuple[int, ...]  # the word each token is a piece of; -1: special
    text: str
    text_pair: str | None
    gold: int | None
    truncated: bool = False
    relevant: tuple[bool, ...] | None = None  # whether each token is known to matter; None: unknown
    position: int | None = None  # the token whose logits are read; None: the text has one row
    boundary: int | None = None  # the classes are tokens of the context: 0: the start, 1: the end
    default_class: int | None = None  # for target=predicted; None: the class of the largest logit
    pads: tuple[bool, ...] | None = None  # which tokens are padding; None: there is none
    #: Further inputs of the model by name, as nested tuples of numbers: positions, boxes.
    extra: tuple[tuple[str, Any], ...] = ()
    words_known: bool = True  # False: the tokenizer does not say what a word is; each token is one
    #: Named stretches of the text, such as passages or the messages of a chat: name, segment, first character, end.
    parts: tuple[tuple[str, int, int, int], ...] = ()
    #: The messages of a chat, likewise, each with the number of characters that its template stripped at its start.
    turns: tuple[tuple[str, int, int, int, int], ...] = ()
    #: Token ids and texts of the options for the text that follows; if there are any, they are the classes.
    options: tuple[tuple[int, ...], ...] = ()
    option_texts: tuple[str, ...] = ()
    mean: bool = False  # an option's score is the mean over its tokens, else the sum

    @property
    def attended(self) -> tuple[bool, ...]:
        """The attention mask, which is False for padding."""
        return (True,) * len(self) if self.pads is None else tuple(not pad for pad in self.pads)

    @property
    def segmented(self) -> bool:
        """Whether it came with segments; those of a chat are otherwise its messages."""
        return self.parts != tuple(turn[:4] for turn in self.turns)

    def __len__(self) -> int:
        return len(self.input_ids)


class Shared:
    """Stores equal ids, tokens and offsets of texts once: a text of 27 tokens then takes 1.5 kB instead of 4.5."""

    def __init__(self) -> None:
        # By kind of value, since 1 == True.
        self._held: defaultdict[str, dict[Any, Any]] = defaultdict(dict)

    def __call__(self, item: Encoded) -> Encoded:
        """Returns an equal text that shares its values with the texts before it."""
        return replace(
            item,
            input_ids=tuple(self._shared("id", token_id) for token_id in item.input_ids),
            tokens=tuple(self._shared("token", token) for token in item.tokens),
            offsets=tuple(self._shared("offset", offset) for offset in item.offsets),
            token_type_ids=self._shared("types", item.token_type_ids),
            special=self._shared("special", item.special),
            segments=self._shared("segments", item.segments),
        )

    def _shared(self, kind: str, value: T) -> T:
        shared: T = self._held[kind].setdefault(value, value)
        return shared


def text_of_row(row: Mapping[str, Any], example: Mapping[str, Any], question: str = "") -> Encoded:
    """Returns the text in a line of `maps` and a line of `examples`.

    Args:
        row: a line of the table `maps`.
        example: the line of `examples` with its text.
        question: the part of its `example_id` after the name of the text: the number of a token, or a boundary. In a
            folder from elsewhere it may be anything; then the text has no place of a question.
    """
    pair = example["text_pair"]
    positions = {str(token): token for token in range(len(row["tokens"]))}
    lists = {
        key: np.asarray(row[key]).tolist()
        for key in ("token_ids", "starts", "ends", "segments", "words", "tokens", "attributable")
    }
    return Encoded(
        example_id=str(example["example_id"]),
        input_ids=tuple(lists["token_ids"]),
        token_type_ids=None,
        special=tuple(not ranked for ranked in lists["attributable"]),
        tokens=tuple(lists["tokens"]),
        offsets=tuple(zip(lists["starts"], lists["ends"], strict=True)),
        segments=tuple(lists["segments"]),
        words=tuple(lists["words"]),
        text=example["text"],
        text_pair=pair if isinstance(pair, str) else None,
        gold=None,
        position=positions.get(question),
        boundary=BOUNDARIES.index(question) if question in BOUNDARIES else None,
        parts=_parts_of_row(example),
    )


def _parts_of_row(example: Mapping[str, Any]) -> tuple[tuple[str, int, int, int], ...]:
    """Returns the parts in a line of `examples`; none if it has none, or if the columns of a foreign folder are damaged."""
    columns: list[Any] = [example.get(key) for key in PARTS]
    if not all(np.ndim(column) for column in columns):
        return ()
    try:
        rows = [*zip(*columns, strict=True)]
        return tuple((str(name), int(of), int(start), int(end)) for name, of, start, end in rows)
    except (TypeError, ValueError):
        return ()
