"""One text as the model reads it. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Encoded:
    """One tokenised example, unpadded."""

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

    def __len__(self) -> int:
        return len(self.input_ids)
