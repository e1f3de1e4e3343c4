"""The places of tokens in their text, and its words: for a text, or for ids that were given."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from saliency_bench.core.errors import InputError
from saliency_bench.core.text import NO_OFFSET
from saliency_bench.data.example import Example
from saliency_bench.models.heads import TEXT_GENERATION
from saliency_bench.models.model import Model
from saliency_bench.models.tasks.pieces import (
    TokenPlaces,
    places_from_marks,
    places_in_text,
    segment_numbers,
    words_in,
)


def of_ids(
    model: Model, ids: Sequence[int], special: Sequence[bool], types: Sequence[int] | None
) -> TokenPlaces:
    """The words and texts of ids; without a tokenizer each token counts as a word, and there is no text."""
    segments = _segment_numbers(model, ids, special, types)
    if model.tokenizer is not None:
        return places_from_marks(model.tokenizer, ids, segments)
    words = tuple(-1 if skip else place for place, skip in enumerate(special))
    return TokenPlaces((NO_OFFSET,) * len(ids), segments, words, "", None, words_known=False)


def of_text(
    model: Model,
    encoding: Any,
    special: Sequence[bool],
    types: Sequence[int] | None,
    example: Example,
) -> TokenPlaces:
    """The places of a text's tokens, and its words; they are searched where the tokenizer is not a fast one."""
    text, pair = example.text, example.text_pair
    texts = (text, pair or "")
    if encoding.is_fast:
        spans = zip(encoding["offset_mapping"], encoding.sequence_ids(), special, strict=True)
        offsets, segments = zip(
            *(
                (NO_OFFSET if skip else tuple(span), -1 if skip or of is None else of)
                for span, of, skip in spans
            ),
            strict=True,
        )
        words = words_in(offsets, segments, texts, encoding.word_ids())
        return TokenPlaces(offsets, segments, words, text, pair)
    ids = encoding["input_ids"]
    if pair is None:  # one text, whatever separators stand in it
        segments = tuple(-skip for skip in special)
    else:
        segments = _segment_numbers(model, ids, special, types)
    token_places = places_in_text(model.tokenizer, ids, segments, texts)
    return replace(token_places, text=text, text_pair=pair)


def _segment_numbers(
    model: Model, ids: Sequence[int], special: Sequence[bool], types: Sequence[int] | None
) -> tuple[int, ...]:
    # The input of a causal language model is one text: a second one would be its continuation.
    one_text = model.task == TEXT_GENERATION
    ends = [getattr(model.tokenizer, f"{name}_token_id", None) for name in ("sep", "eos")]
    separator = None if one_text else next((token for token in ends if token is not None), None)
    return segment_numbers(ids, special, None if one_text else types, separator)


def relevant_tokens(
    example: Example, token_places: TokenPlaces, where: str
) -> tuple[bool, ...] | None:
    """The tokens that share a character with a relevant stretch; None where the example names no relevant stretches."""
    spans = example.relevant
    if spans is None:
        return None
    placed = list(zip(token_places.segments, token_places.offsets, strict=True))
    if spans and any(segment >= 0 and span == NO_OFFSET for segment, span in placed):
        raise InputError(
            f"{where}: data.relevant names stretches of the text, but the tokenizer gives no places of its tokens: use a "
            "fast tokenizer, or leave data.relevant out"
        )
    return tuple(
        any(of == segment and start < last and first < end for of, first, last in spans)
        for segment, (start, end) in placed
    )


def outside_turns(example: Example, offsets: Sequence[tuple[int, int]]) -> tuple[bool, ...]:
    """The tokens that share no character with a message of the chat, and so belong to its template."""
    messages = [(first, last) for _, of, first, last, _ in example.turns if of == 0]
    return tuple(
        not any(start < last and first < end for first, last in messages) for start, end in offsets
    )


def pads_outside(model: Model, ids: Sequence[int]) -> set[int]:
    """The places of pad tokens before the first other token and after the last; none where the model has no pad token."""
    pad = model.pad_token_id
    inside = [place for place, token in enumerate(ids) if token != pad]
    if pad is None or not inside:
        return set()
    return set(range(len(ids))) - set(range(inside[0], inside[-1] + 1))


def whole_numbers(inputs: Mapping[str, Any], key: str, where: str) -> list[int]:
    """A row of whole numbers, as a list.

    Raises:
        InputError: the values are not whole numbers, or those of a mask are not 0 and 1.
    """
    try:
        values = torch.as_tensor(inputs[key]).flatten()
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"{where}: {key}: expected whole numbers, got {inputs[key]!r:.60}"
        ) from None
    numbers: list[Any] = values.tolist()
    if key == "attention_mask":  # any type, since some models take a mask of floats
        if wrong := [value for value in numbers if value not in (0, 1)]:
            raise InputError(
                f"{where}: attention_mask holds {wrong[0]}: expected 1 (attended to) or 0 (padding) for each token"
            )
    elif numbers and (values.is_floating_point() or values.dtype == torch.bool):
        raise InputError(
            f"{where}: {key} are {str(values.dtype).removeprefix('torch.')}: expected whole numbers, as {key}.long()"
        )
    return [int(value) for value in numbers]
