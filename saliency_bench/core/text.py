"""One text as the model reads it. Imports no torch."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from saliency_bench.core.rows import PARTS

T = TypeVar("T")

#: Of a token that is not known to stand anywhere in a text.
NO_OFFSET = (-1, -1)
#: Unicode's categories of what has no place of its own: combining marks, and format characters such as joiners.
MARKS = {"Mn", "Me", "Mc", "Cf"}


@dataclass(frozen=True, slots=True)
class Encoded:
    """One tokenised example and where its question is read (see `tasks.task`).

    It is unpadded, but for ids that came padded to a model whose outputs depend on that: their `pads` are special
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
    relevant: tuple[bool, ...] | None = (
        None  # the tokens that are known to matter; None: nothing is known
    )
    position: int | None = None  # the token whose logits are read; None: the text has one row
    boundary: int | None = None  # the classes are the tokens of the context: 0 their start, 1 end
    default_class: int | None = None  # of target=predicted; None: that of the largest logit
    pads: tuple[bool, ...] | None = None  # which tokens are padding; None: there is none
    #: Further inputs of the model by name, as nested tuples of numbers: positions, boxes.
    extra: tuple[tuple[str, Any], ...] = ()
    words_known: bool = True  # else nothing says what is a word, and `words` has each token as one
    #: Named stretches of the text, such as passages or the turns of a chat: name, segment, first character, end.
    parts: tuple[tuple[str, int, int, int], ...] = ()
    #: Token ids of what may follow the text, and how each is written: then these are the classes.
    options: tuple[tuple[int, ...], ...] = ()
    option_texts: tuple[str, ...] = ()
    mean: bool = False  # an option's score is the mean over its tokens, else their sum

    @property
    def attended(self) -> tuple[bool, ...]:
        """The attention mask: all but padding."""
        return (True,) * len(self) if self.pads is None else tuple(not pad for pad in self.pads)

    def __len__(self) -> int:
        return len(self.input_ids)


class Shared:
    """Stores what texts have in common once: a text of 27 tokens then takes 1.5 kB instead of 4.5."""

    def __init__(self) -> None:
        # By part, since 1 == True.
        self._held: defaultdict[str, dict[Any, Any]] = defaultdict(dict)

    def __call__(self, item: Encoded) -> Encoded:
        """Returns an equal text that shares its ids, tokens and offsets, and what all texts of its length have."""
        return replace(
            item,
            input_ids=tuple(self._one("id", one) for one in item.input_ids),
            tokens=tuple(self._one("token", one) for one in item.tokens),
            offsets=tuple(self._one("offset", one) for one in item.offsets),
            token_type_ids=self._one("types", item.token_type_ids),
            special=self._one("special", item.special),
            segments=self._one("segments", item.segments),
        )

    def _one(self, part: str, value: T) -> T:
        shared: T = self._held[part].setdefault(value, value)
        return shared


def text_of_row(row: Mapping[str, Any], example: Mapping[str, Any]) -> Encoded:
    """The text of a line of `maps` and of one of `examples`."""
    pair = example["text_pair"]
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
        parts=_parts_of_row(example),
    )


def _parts_of_row(example: Mapping[str, Any]) -> tuple[tuple[str, int, int, int], ...]:
    """The parts in a line of `examples`; none where it has none, or a folder of others has something else there."""
    columns: list[Any] = [example.get(key) for key in PARTS]
    if not all(np.ndim(column) for column in columns):
        return ()
    try:
        rows = [*zip(*columns, strict=True)]
        return tuple((str(name), int(of), int(start), int(end)) for name, of, start, end in rows)
    except (TypeError, ValueError):
        return ()
