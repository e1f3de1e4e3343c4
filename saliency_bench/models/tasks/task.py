"""The interface of a task: its questions about a text, the names of their classes, and the removals that it refuses.

A question is a text and the place in the model's outputs where its answer is read: one logit per class. Gradients,
removal and metrics depend only on logits [R C] and a class, not on the task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from saliency_bench.core.errors import InputError
from saliency_bench.core.text import Encoded
from saliency_bench.data.example import Example
from saliency_bench.data.records import half_character
from saliency_bench.models.extra import tensors_of
from saliency_bench.models.model import Model

#: The places of questions in a text: tokens by place, or keywords of the task; None: the task's default.
At = int | str | Sequence[int] | None


#: The sign that shows a space at the start of a token, and the marks of byte-level and SentencePiece vocabularies.
_SPACE, _SPACED = "␣", ("Ġ", "▁")
_BROKEN = "\ufffd"  # some bytes of a letter


@runtime_checkable
class Task(Protocol):
    """A task; `refuses` holds a reason for each removal operator that is not possible."""

    refuses: Mapping[str, str]

    def encode(self, model: Model, example: Example, too_long: str) -> Encoded:
        """The example as tokens; a text that is too long for the model is cut, or refused with too_long="error".

        Raises:
            InputError: a text is empty, too long, or does not fit this task.
        """

    def questions(self, model: Model, text: Encoded, at: At) -> list[Encoded]:
        """A copy of the text for each question, with the place where it is read.

        Raises:
            InputError: `at` names nothing in the text, or the text does not fit this task.
        """

    def class_of(self, model: Model, name: str | int, question: Encoded, n_classes: int) -> int:
        """The class of that name.

        Raises:
            InputError: there is no such class.
        """

    def name_of(self, model: Model, index: int, question: Encoded, n_classes: int) -> str:
        """The name of a class."""


@torch.no_grad()
def outputs_of(model: Model, text: Encoded) -> Float[Tensor, "... C"]:
    """The outputs for a text, or for every token of it [T C]."""
    ids = torch.tensor([text.input_ids], device=model.device)
    types = text.token_type_ids
    typed = None if types is None else torch.tensor([types], device=model.device)
    mask = None if text.pads is None else torch.tensor([text.attended], device=model.device)
    extra = tensors_of(model, [text.extra], [len(text)], len(text))
    with model.frozen():
        return model.output(ids, mask, typed, extra=extra)[0]


def question_at(text: Encoded, position: int, **more: Any) -> Encoded:
    """The text as a question about one of its tokens."""
    return replace(text, position=position, example_id=f"{text.example_id}@{position}", **more)


def places_of(text: Encoded, at: int | Sequence[int]) -> list[int]:
    """Tokens by place, checked.

    Raises:
        InputError: there is no such token.
    """
    places = [at] if isinstance(at, int) else [*at]
    for place in places:
        if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < len(text):
            raise InputError(
                f"{text.example_id}: at={place!r}: expected the place of a token, 0 ... {len(text) - 1}"
            )
    return places


def occurrences(text: Encoded, words: str, segment: int = 0) -> list[list[int]]:
    """The tokens of each occurrence of words in a text, or in its pair (segment 1)."""
    source = (text.text, text.text_pair)[segment] or ""
    spans = []
    start = source.find(words) if words.strip() else -1
    while start >= 0:
        end = start + len(words)
        placed = enumerate(zip(text.offsets, text.segments, strict=True))
        tokens = [
            place for place, ((a, b), owner) in placed if owner == segment and a < end and start < b
        ]
        if tokens:
            spans.append(tokens)
        start = source.find(words, start + 1)
    return spans


def word_of(model: Model, index: int) -> str:
    """A token of the vocabulary as it is written, with visible spaces; its number without a tokenizer."""
    if not callable(getattr(model.tokenizer, "decode", None)):
        return str(index)
    token = str(model.tokenizer.convert_ids_to_tokens(index))
    word = str(model.tokenizer.decode([index]))
    body = word.strip()
    if not body or _BROKEN in body:  # the decoded form would not differ from that of other tokens
        return token
    spaces = len(word) - len(word.lstrip(" "))
    # Decoders may drop the space at the start of a text.
    return _SPACE * (spaces or token.startswith(_SPACED)) + body


def visible_spaces(words: str) -> str:
    """Words of a continuation with the spaces at their start visible."""
    body = words.lstrip(" ")
    return _SPACE * (len(words) - len(body)) + body


def token_of(model: Model, name: str | int, n_classes: int, *spellings: str) -> int:
    """The token of a number, or of the first of these spellings that is a single token.

    Raises:
        InputError: the number is out of range, or no spelling is a single token.
    """
    if isinstance(name, int):
        if not 0 <= name < n_classes:
            raise InputError(f"target={name}: expected a token id, 0 ... {n_classes - 1}")
        return name
    if not callable(model.tokenizer):
        raise InputError(f"target={name!r}: {model.name} has no tokenizer: give a token id")
    if fault := half_character(name):
        raise InputError(f"target={name!r}: expected a token, got {fault}")
    candidates = [
        model.tokenizer(spelling, add_special_tokens=False, verbose=False)["input_ids"]
        for spelling in spellings
    ]
    unknown = getattr(model.tokenizer, "unk_token_id", None)
    for ids in candidates:
        if len(ids) == 1 and ids[0] != unknown:
            return int(ids[0])
    tokens = model.tokenizer.convert_ids_to_tokens(candidates[0])
    raise InputError(
        f"target={name!r}: expected one token of {model.name}'s vocabulary, got {len(tokens)}: {' '.join(tokens)}"
    )
