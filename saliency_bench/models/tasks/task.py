"""What a task is: which questions it puts to a text, what their classes are called, and what cannot be asked.

A question is a text and the place in the model's outputs where its answer is read: one logit per class. Everything
behind it (gradients, removal, metrics) knows logits [R C] and a class, and no task.
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

#: Where a text is asked about: tokens by place, or words that a task gives a meaning; None: the task's own choice.
At = int | str | Sequence[int] | None


#: How a space at the start of a token is shown, and how byte-level and SentencePiece vocabularies write it.
_SPACE, _SPACED = "␣", ("Ġ", "▁")
_BROKEN = "\ufffd"  # some bytes of a letter


@runtime_checkable
class Task(Protocol):
    """A task; `refuses` holds a reason for each removal operator that cannot be asked."""

    refuses: Mapping[str, str]

    def encode(self, model: Model, example: Example, too_long: str) -> Encoded:
        """The example as tokens; longer than the model allows it is cut, or refused with too_long="error".

        Raises:
            InputError: a text is empty, too long, or none for this task.
        """

    def questions(self, model: Model, text: Encoded, at: At) -> list[Encoded]:
        """The text once for each question, which says where it is read.

        Raises:
            InputError: `at` names nothing in the text, or the text is none for this task.
        """

    def class_of(self, model: Model, name: str | int, question: Encoded, n_classes: int) -> int:
        """The class of that name.

        Raises:
            InputError: there is none.
        """

    def name_of(self, model: Model, index: int, question: Encoded, n_classes: int) -> str:
        """What a class is called."""


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


def asked_at(text: Encoded, position: int, **more: Any) -> Encoded:
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
    if not body or _BROKEN in body:  # a decoder has nothing to show that tells it from others
        return token
    spaces = len(word) - len(word.lstrip(" "))
    # Decoders may drop the space at the start of what they take for a text.
    return _SPACE * (spaces or token.startswith(_SPACED)) + body


def visible_spaces(words: str) -> str:
    """Words of a continuation with the spaces at their start visible."""
    body = words.lstrip(" ")
    return _SPACE * (len(words) - len(body)) + body


def token_of(model: Model, name: str | int, n_classes: int, *spellings: str) -> int:
    """The token that is meant by a number, or by the first of these spellings that is one token.

    Raises:
        InputError: the number is none, or the word is no token or several.
    """
    if isinstance(name, int):
        if not 0 <= name < n_classes:
            raise InputError(f"target={name}: expected a token id, 0 ... {n_classes - 1}")
        return name
    if not callable(model.tokenizer):
        raise InputError(f"target={name!r}: {model.name} has no tokenizer: give a token id")
    if fault := half_character(name):
        raise InputError(f"target={name!r}: expected a token, got {fault}")
    made = [
        model.tokenizer(spelling, add_special_tokens=False, verbose=False)["input_ids"]
        for spelling in spellings
    ]
    unknown = getattr(model.tokenizer, "unk_token_id", None)
    for ids in made:
        if len(ids) == 1 and ids[0] != unknown:
            return int(ids[0])
    tokens = model.tokenizer.convert_ids_to_tokens(made[0])
    raise InputError(
        f"target={name!r}: expected one token of {model.name}'s vocabulary, got {len(tokens)}: {' '.join(tokens)}"
    )
