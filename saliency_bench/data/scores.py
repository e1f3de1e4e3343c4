"""External scores from a file of JSON lines, which are evaluated like those of our methods.

A line has `scores`, one number per token, and names its text by `text` (with `text_pair` if there is one) or by `id`. If it
has `tokens`, they must be those of the model's tokenizer; if it has a `label`, it must be the explained class.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from saliency_bench.core.errors import InputError, counted
from saliency_bench.core.text import Encoded
from saliency_bench.data.readers import json_lines

KEYS = ("scores", "text", "text_pair", "id", "tokens", "label")


@dataclass(frozen=True)
class Line:
    """The content of a line; `where` is the file and the number of the line."""

    where: str
    scores: tuple[float, ...]
    tokens: tuple[str, ...] | None
    label: str | int | None


@dataclass(frozen=True)
class Scores:
    """The lines of a file by text and by id, and the digest of its content."""

    path: str
    digest: str
    by_text: Mapping[tuple[str, str | None], Line]
    by_id: Mapping[str, Line]

    def of(self, item: Encoded, target: int, label: str) -> list[float]:
        """Returns the scores of a text, one per token, special tokens included.

        A line may leave out special tokens, whose scores are then 0.

        Raises:
            InputError: the file has no line for the text, or one with other tokens or another class.
        """
        line = self.by_id.get(item.example_id) or self.by_text.get((item.text, item.text_pair))
        if line is None:
            raise InputError(
                f"{self.path} has no scores of {item.example_id} ({item.text[:40]!r}). Every text needs a line with "
                "its text or its id."
            )
        # The label of a token shows its space as a sign; a file may have the space itself, or none.
        spellings = {label, label.replace("␣", " "), label.removeprefix("␣")}
        if line.label is not None and line.label != target and line.label not in spellings:
            raise InputError(
                f"{line.where}: scores of class {line.label!r}, but {label!r} ({target}) is explained. "
                "Give the scores of that class, or choose it: target=..."
            )
        return _fitting(line, item)


def read_scores(path: str) -> Scores:
    """Reads and checks a file of scores; it is parsed again only if it has changed.

    Raises:
        InputError: the file cannot be read, or a line is wrong.
    """
    file = Path(path).expanduser()
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): expected JSON lines"
        ) from error
    return _parsed(data, path)


@lru_cache(maxsize=4)
def _parsed(data: bytes, path: str) -> Scores:
    by_text: dict[tuple[str, str | None], Line] = {}
    by_id: dict[str, Line] = {}
    for where, values in _lines(data, path):
        line = Line(where, _numbers(values, where), _tokens(values, where), _label(values, where))
        if not {"id", "text"} & values.keys():
            raise InputError(
                f"{where}: expected a text or an id, which names the text of the scores"
            )
        if "id" in values:
            _add(by_id, str(values["id"]), line)
        if "text" in values:
            _add(by_text, (values["text"], values.get("text_pair")), line)
    if not (by_text or by_id):
        raise InputError(f"{path}: expected JSON lines with scores, the file has none")
    return Scores(path, hashlib.sha256(data).hexdigest()[:12], by_text, by_id)


def _add(lines: dict[Any, Line], name: Any, line: Line) -> None:
    other = lines.setdefault(name, line)
    if other is not line:
        raise InputError(f"{line.where}: {name!r} has scores already, in {other.where}")


def _lines(data: bytes, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, values in json_lines(data, path):
        where = f"{path}:{number}"
        if unknown := [key for key in values if key not in KEYS]:
            raise InputError(f"{where}: unknown key {unknown[0]!r}. Known: {', '.join(KEYS)}.")
        yield where, values


def _numbers(values: Mapping[str, Any], where: str) -> tuple[float, ...]:
    scores = values.get("scores")
    if not isinstance(scores, list) or not scores:
        raise InputError(f"{where}: scores: expected a list of numbers")
    for place, score in enumerate(scores):
        if (
            isinstance(score, bool)
            or not isinstance(score, int | float)
            or not math.isfinite(score)
        ):
            raise InputError(
                f"{where}: scores[{place}] is {json.dumps(score)}: expected a finite number"
            )
    return tuple(map(float, scores))


def _tokens(values: Mapping[str, Any], where: str) -> tuple[str, ...] | None:
    tokens = values.get("tokens")
    if tokens is None:
        return None
    if not isinstance(tokens, list) or len(tokens) != len(values["scores"]):
        raise InputError(f"{where}: tokens: expected as many as there are scores")
    return tuple(map(str, tokens))


def _label(values: Mapping[str, Any], where: str) -> str | int | None:
    label = values.get("label")
    if label is not None and (isinstance(label, bool) or not isinstance(label, str | int)):
        raise InputError(f"{where}: label: expected a class by name or index")
    return label


def _fitting(line: Line, item: Encoded) -> list[float]:
    """Returns the scores for all tokens of the item, 0 for those that the line leaves out."""
    every = list(range(len(item)))
    ranked = [place for place in every if not item.special[place]]
    fitting = [places for places in (every, ranked) if len(places) == len(line.scores)]
    if not fitting:
        raise InputError(
            f"{line.where}: {counted(len(line.scores), 'score')}, but {item.example_id} has {counted(len(item), 'token')} "
            f"({len(ranked)} without special ones): {' '.join(item.tokens[:8])} ..."
        )
    for places in fitting:
        if line.tokens in (None, tuple(item.tokens[place] for place in places)):
            scores = dict(zip(places, line.scores, strict=True))
            return [scores.get(place, 0.0) for place in every]
    written = line.tokens or ()
    number, place = next(
        pair for pair in enumerate(fitting[0]) if written[pair[0]] != item.tokens[pair[1]]
    )
    raise InputError(
        f"{line.where}: token {number} is {written[number]!r}, but the model's tokenizer has "
        f"{item.tokens[place]!r} there"
    )
