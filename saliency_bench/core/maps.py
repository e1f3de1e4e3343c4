"""Attribution maps: one score per token, with what it is a score of. Imports no torch."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import category

import numpy as np
from jaxtyping import Float

from saliency_bench.core.errors import InputError, one_of
from saliency_bench.core.text import MARKS, Encoded
from saliency_bench.core.units import units_of

FORMAT = "saliency_bench.map/2"
N_IN_REPR = 8

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


@dataclass(frozen=True, eq=False, repr=False)
class AttributionMap:
    """The scores of one input under one setting.

    `scores` has one float64 per token as tokenised, special tokens included; `attributable` is False for these.
    `label` and `target` are the explained class, `probability` is its probability on the unperturbed text; `against` is
    the class that it is explained against, whose score is taken off (a contrast), None where there is none.
    `completeness_gap` is Σ scores - (F(x) - F(x')), None where the method does not claim that they agree.
    `n_gradients` is what this map alone costs. `setting` holds every hyperparameter.
    Of approximate methods, None elsewhere: `standard_errors` of the scores and `split_half_tau`, the rank correlation
    of the scores from two halves of the random draws; `error` estimates the relative error, `converged` says whether
    it came down to the tolerance that was asked for, and `reason` why not (see `tensors.Convergence`). It is an estimate:
    of adaptive Integrated Gradients at 1 %, about one converged map in 250 was off by more on nets of ReLU units, none
    of 200 on the bundled classifier.
    """

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
        """Names the input in tables."""
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

    def at(self, input_index: int) -> "AttributionMap":
        """The same map as that of the input with this index."""
        return replace(self, input_index=input_index)

    def words(self, reduction: str = "sum") -> list[Word]:
        """Words in order, as they were written, special tokens left out; `reduction` is one of `WORD_REDUCTIONS`.

        Where nothing says what is a word (`encoded.words_known` is False) each token is one.

        Raises:
            InputError: there is no such reduction.
        """
        one_of("reduction of words", reduction, WORD_REDUCTIONS)
        return self._words(self._pieces(), reduction)

    def segments(self, reduction: str = "sum") -> list[Segment]:
        """The text and its pair apart, each with its words: a map for each of them."""
        self.words(reduction)  # refuses an unknown one
        texts = [text for text in (self.encoded.text, self.encoded.text_pair) if text is not None]
        segments = []
        for segment, text in enumerate(texts):
            words = [p for p in self._pieces() if self.encoded.segments[p[0]] == segment]
            score = float(sum(self.scores[pieces].sum() for pieces in words))
            segments.append(Segment(text, score, tuple(self._words(words, reduction))))
        return segments

    def units(self, granularity: str) -> list["ScoredUnit"]:
        """The units of a text in order, each with the sum of its tokens' scores.

        Args:
            granularity: token, word, sentence or segment (the stretches that came with the text, the messages of a chat).

        Raises:
            InputError: there is no such granularity, or nothing says what its units are in this text.
        """
        return [
            ScoredUnit(unit.name, unit.text, float(self.scores[[*unit.tokens]].sum()), *unit[2:5])
            for unit in units_of(self.encoded, granularity)
        ]

    def _pieces(self) -> list[list[int]]:
        """The places of each word's tokens."""
        pieces: dict[int, list[int]] = {}
        for position, word in enumerate(self.encoded.words):
            if word >= 0:
                pieces.setdefault(word, []).append(position)
        return list(pieces.values())

    def _words(self, words: Sequence[list[int]], reduction: str) -> list[Word]:
        reduce = WORD_REDUCTIONS[reduction]
        return [
            Word(
                self._written(pieces),
                reduce(self.scores[pieces]),
                *self._span(pieces),
                self.encoded.segments[pieces[0]],
            )
            for pieces in words
        ]

    def _written(self, positions: Sequence[int]) -> str:
        start, end = self._span(positions)
        source = self._source(positions[0])
        if start < 0 or not source:
            return "".join(self.tokens[position] for position in positions)
        return source[start:end]

    def _source(self, position: int) -> str | None:
        return self.encoded.text if self.encoded.segments[position] == 0 else self.encoded.text_pair

    def _span(self, positions: Sequence[int]) -> tuple[int, int]:
        """The characters of a word, without the space that some tokenizers count in.

        Marks that a tokenizer drops (an accent, a variation selector, a joiner) belong to the character before them.
        """
        start = self.encoded.offsets[positions[0]][0]
        end = max(self.encoded.offsets[position][1] for position in positions)
        source = self._source(positions[0])
        if start < 0 or not source:
            return start, end
        of_text = self.encoded.segments[positions[0]]
        starts = [
            offset
            for (offset, _), segment in zip(
                self.encoded.offsets, self.encoded.segments, strict=True
            )
            if segment == of_text and offset >= end
        ]
        limit = min(starts, default=len(source))
        while end < limit and category(source[end]) in MARKS:
            end += 1
        written = source[start:end]
        if not written.strip():
            return start, end
        return start + len(written) - len(written.lstrip()), start + len(written.rstrip())

    def save(self, path: str | Path) -> None:
        """Writes the map as JSON; floats survive exactly, those that are no numbers as the text "nan" or "inf"."""
        value = asdict(self) | {"format": FORMAT, "setting": dict(self.setting)}
        text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "AttributionMap":
        """Reads what `save` wrote.

        Raises:
            InputError: the file is missing, or no such map.
        """
        try:
            value = json.loads(Path(path).read_text(encoding="utf-8"))
            if value.pop("format") != FORMAT:
                raise KeyError("format")
            encoded = {key: _tuples(item) for key, item in value.pop("encoded").items()}
            value["scores"] = np.asarray(value["scores"], dtype=np.float64)
            if "target" in value["setting"]:  # a pair stays one: a list would be several targets
                value["setting"]["target"] = _tuples(value["setting"]["target"])
            for name in ("draws", "standard_errors"):
                if value[name] is not None:
                    value[name] = np.asarray(value[name], dtype=np.float64)
            for name in ("probability", "completeness_gap", "output_difference", "error"):
                value[name] = None if value[name] is None else float(value[name])
            return cls(encoded=Encoded(**encoded), **value)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} is no saved attribution map ({type(error).__name__}: {error})"
            ) from error

    @classmethod
    def from_scores(
        cls,
        scores: Sequence[float] | Float[np.ndarray, " T"],
        like: "AttributionMap",
        *,
        name: str = "scores",
        draws: Float[np.ndarray, "N T"] | None = None,
    ) -> "AttributionMap":
        """Makes a map of external scores for the input of another map, to be evaluated like our own.

        Args:
            scores: one per token of `like`, special tokens included.
            like: a map of the same input (`attribute(model, texts, "random")` is cheap), which brings tokens
                and explained class.
            name: how the scores are called in tables.
            draws: score vectors, `scores` among them, over which metrics are averaged.

        Raises:
            InputError: the number of scores is not the number of tokens, or one is not finite.
        """
        values = np.asarray(scores, dtype=np.float64)
        if values.shape != (len(like.tokens),):
            raise InputError(
                f"expected {len(like.tokens)} scores, one per token of {like.example_id}, "
                f"got shape {values.shape}"
            )
        if not np.isfinite(values).all():
            where = int(np.argmin(np.isfinite(values)))
            raise InputError(f"scores[{where}] is {values[where]}, expected a finite number")
        setting = {"name": name, "method": "file", "backend": "none", "setting_id": name}
        kept = ("encoded", "target", "label", "probability", "input_index", "against")
        of_input = {key: getattr(like, key) for key in kept}
        return cls(setting=setting, scores=values, draws=draws, **of_input)

    def __repr__(self) -> str:
        """One line: method, class, probability and the first tokens with their scores."""
        shown = " ".join(f"{token} {score:+.2g}" for token, score in list(self)[:N_IN_REPR])
        more = " …" if len(self.tokens) > N_IN_REPR else ""
        method = self.setting.get("method", "scores")
        return f"<{method} of {self.label!r}, p = {self.probability:.3f}: {shown}{more}>"

    def __iter__(self) -> Iterator[tuple[str, float]]:
        """Tokens and scores in order."""
        return iter(zip(self.tokens, self.scores.tolist(), strict=True))

    def to_html(self, *, top: int | None = None, special_tokens: bool = False) -> str:
        """The text, coloured, as a piece of a page; exact scores stand in tooltips.

        The panel is dark where the page, or the theme of the notebook, says that it is (CSS `color-scheme`).

        Args:
            top: colour only so many tokens with the largest magnitudes; None: all.
            special_tokens: show [CLS] and its kin too.

        Raises:
            InputError: `top` is no whole number of at least 1.
        """
        from saliency_bench.core.display import fragment

        return fragment(self, top=top, special_tokens=special_tokens)

    def to_record(self, shape: str = "article") -> dict[str, Any]:
        """The map as plain data in the shape of an older tool, with what it is of: `core.display.record`.

        Args:
            shape: "article", or "allennlp", which holds the scores and no tokens, class or probability.

        Raises:
            InputError: there is no such shape.
        """
        from saliency_bench.core.display import record

        return record(self, shape)

    def _repr_html_(self) -> str:
        return self.to_html()

    def __rich__(self) -> Any:
        from saliency_bench.core.display import to_rich

        return to_rich(self)


def _plain(value: Any) -> Any:
    """What JSON can hold: arrays as lists, and what is no number as text that `float` reads, for JSON has none."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
