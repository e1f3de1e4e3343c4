"""A text with one score per token, read by token, word, unit or segment. Imports no torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from saliency_bench.core.errors import InputError, one_of
from saliency_bench.core.text import Encoded, text_of_row
from saliency_bench.core.units import text_of_tokens, units_of

#: From the scores of a word's pieces to one; `signed_max` is the one of the largest magnitude, with its sign.
WORD_REDUCTIONS: Mapping[str, Callable[[Float[np.ndarray, " P"]], float]] = {
    "sum": lambda pieces: float(pieces.sum()),
    "mean": lambda pieces: float(pieces.mean()),
    "max": lambda pieces: float(pieces.max()),
    "signed_max": lambda pieces: float(pieces[np.abs(pieces).argmax()]),
}


class Word(NamedTuple):
    """A word of the original text; `score` is of all its pieces, `start` and `end` are characters (-1: unknown).

    `segment` says in which text they are: 0, or 1 for the second of a pair.
    """

    text: str
    score: float
    start: int
    end: int
    segment: int = 0


class ScoredUnit(NamedTuple):
    """A unit of a text with the sum of its tokens' scores; `start` and `end` are characters (-1: unknown) of a text.

    `segment` says in which text they are: 0, or 1 for the second of a pair.
    """

    name: str
    text: str
    score: float
    start: int
    end: int
    segment: int


class Segment(NamedTuple):
    """A text, or the second of a pair; `score` sums its tokens."""

    text: str
    score: float
    words: tuple[Word, ...]


class ScoredMessage(NamedTuple):
    """A message of a chat: `name` is its role ("user", "user 2"), `text` is as the template has it, `score` sums its tokens.

    The places of its words are characters of its content, as it was given.
    """

    name: str
    text: str
    score: float
    words: tuple[Word, ...]


@dataclass(frozen=True, eq=False)
class ScoredText:
    """The scores of one text under one setting; `AttributionMap` has the meaning of each field."""

    encoded: Encoded
    setting: Mapping[str, Any]
    scores: Float[np.ndarray, " T"]
    target: int
    label: str
    probability: float
    input_index: int = 0
    completeness_gap: float | None = None
    output_difference: float | None = None
    n_gradients: int = 0
    draws: Float[np.ndarray, "N T"] | None = None
    standard_errors: Float[np.ndarray, " T"] | None = None
    split_half_tau: float | None = None
    error: float | None = None
    converged: bool | None = None
    reason: str | None = None
    against: int | None = None

    @property
    def example_id(self) -> str:
        """The name of the input in tables."""
        return self.encoded.example_id

    @property
    def tokens(self) -> tuple[str, ...]:
        """The tokens, as the tokenizer writes them."""
        return self.encoded.tokens

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The token ids."""
        return self.encoded.input_ids

    @property
    def attributable(self) -> tuple[bool, ...]:
        """Whether each token takes part in rankings: not so for special tokens."""
        return tuple(not special for special in self.encoded.special)

    @property
    def finite(self) -> bool:
        """Whether every score is a number."""
        return bool(np.isfinite(self.scores).all())

    def words(self, reduction: str = "sum") -> list[Word]:
        """Returns the words in order, as they were written, without special tokens.

        If the tokenizer does not say what a word is (`encoded.words_known` is False), each token is a word.

        Args:
            reduction: one of `WORD_REDUCTIONS`, from the scores of a word's tokens to one score.

        Raises:
            InputError: there is no such reduction.
        """
        one_of("reduction of words", reduction, WORD_REDUCTIONS)
        return self._words(self._pieces(), reduction)

    def segments(self, reduction: str = "sum") -> list[Segment]:
        """Returns the text and its pair, each with its words and the sum of its scores."""
        one_of("reduction of words", reduction, WORD_REDUCTIONS)
        texts = [text for text in (self.encoded.text, self.encoded.text_pair) if text is not None]
        segments = []
        for segment, text in enumerate(texts):
            words = [p for p in self._pieces() if self.encoded.segments[p[0]] == segment]
            score = float(sum(self.scores[pieces].sum() for pieces in words))
            segments.append(Segment(text, score, tuple(self._words(words, reduction))))
        return segments

    def messages(self, reduction: str = "sum") -> list[ScoredMessage]:
        """Returns the messages of a chat that have scores, each with its words and the sum of its scores.

        Args:
            reduction: see `words`.

        Raises:
            InputError: there is no such reduction, or the map is of no chat (maps in the tables of a study have no messages).
        """
        one_of("reduction of words", reduction, WORD_REDUCTIONS)
        if not self.encoded.turns:
            raise InputError(f"{self.example_id} is no chat, whose messages are known: use words()")
        messages = [self._message(turn, reduction) for turn in self.encoded.turns]
        return [message for message in messages if message.words]

    def _message(self, turn: tuple[str, int, int, int, int], reduction: str) -> ScoredMessage:
        name, of, first, last, stripped = turn
        text = (self.encoded.text, self.encoded.text_pair or "")[of]
        places = [*zip(self.encoded.segments, self.encoded.offsets, strict=True)]
        inside = [of == segment and a < last and first < b for segment, (a, b) in places]
        words = [pieces for pieces in self._pieces() if inside[pieces[0]]]
        shift = stripped - first
        return ScoredMessage(
            name,
            text[first:last],
            float(sum(self.scores[pieces].sum() for pieces in words)),
            tuple(
                word._replace(start=word.start + shift, end=word.end + shift)
                for word in self._words(words, reduction)
            ),
        )

    def units(self, granularity: str) -> list[ScoredUnit]:
        """Returns the units of a text in order, each with the sum of its tokens' scores.

        Args:
            granularity: token, word, sentence or segment (named parts of the text, such as the messages of a chat).

        Raises:
            InputError: there is no such granularity, or the text does not have such units.
        """
        return [
            ScoredUnit(unit.name, unit.text, float(self.scores[[*unit.tokens]].sum()), *unit[2:5])
            for unit in units_of(self.encoded, granularity)
        ]

    def _pieces(self) -> list[list[int]]:
        """Returns the positions of each word's tokens."""
        pieces: dict[int, list[int]] = {}
        for position, word in enumerate(self.encoded.words):
            if word >= 0:
                pieces.setdefault(word, []).append(position)
        return list(pieces.values())

    def _words(self, words: Sequence[list[int]], reduction: str) -> list[Word]:
        reduce = WORD_REDUCTIONS[reduction]
        return [
            Word(text, reduce(self.scores[pieces]), start, end, self.encoded.segments[pieces[0]])
            for pieces in words
            for text, start, end in [text_of_tokens(self.encoded, pieces)]
        ]


def scored_text_of_row(
    row: Mapping[str, Any],
    example: Mapping[str, Any],
    setting: Mapping[str, Any],
    question: str = "",
) -> ScoredText:
    """Returns the scores in a line of `maps`, without its cost and convergence; see `text_of_row` for the arguments."""
    target = row["target"]  # null in a damaged table
    return ScoredText(
        encoded=text_of_row(row, example, question),
        setting=setting,
        scores=np.asarray(row["scores"], dtype=np.float64),
        target=int(target) if np.isfinite(target) else -1,
        label=str(row["label"]),
        probability=float(row["probability"]),
    )
