"""Where the tokens of a text stand in it, and what its words are: of a text, or of ids that came tokenised."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from saliency_bench.core.errors import InputError
from saliency_bench.core.text import NO_OFFSET
from saliency_bench.data.example import Example
from saliency_bench.models.heads import TEXT_GENERATION
from saliency_bench.models.model import Model
from saliency_bench.models.tasks.pieces import Placement, read, read_text, segments_of, words_in


def of_ids(
    model: Model, ids: Sequence[int], special: Sequence[bool], types: Sequence[int] | None
) -> Placement:
    """The words and texts of ids; without a tokenizer each token is taken for a word, and no text is known."""
    segments = _segments_of(model, ids, special, types)
    if model.tokenizer is not None:
        return read(model.tokenizer, ids, segments)
    words = tuple(-1 if skip else place for place, skip in enumerate(special))
    return Placement((NO_OFFSET,) * len(ids), segments, words, "", None, words_known=False)


def of_text(
    model: Model,
    encoding: Any,
    special: Sequence[bool],
    types: Sequence[int] | None,
    example: Example,
) -> Placement:
    """Where the tokens of a text stand, and its words; searched for where the tokenizer is not a fast one."""
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
        return Placement(offsets, segments, words, text, pair)
    ids = encoding["input_ids"]
    if pair is None:  # not told by what stands between the tokens where there is one text
        segments = tuple(-skip for skip in special)
    else:
        segments = _segments_of(model, ids, special, types)
    placement = read_text(model.tokenizer, ids, segments, texts)
    return replace(placement, text=text, text_pair=pair)


def _segments_of(
    model: Model, ids: Sequence[int], special: Sequence[bool], types: Sequence[int] | None
) -> tuple[int, ...]:
    # What a causal language model reads is one text: a second one would be what follows it.
    one_text = model.task == TEXT_GENERATION
    ends = [getattr(model.tokenizer, f"{name}_token_id", None) for name in ("sep", "eos")]
    separator = None if one_text else next((token for token in ends if token is not None), None)
    return segments_of(ids, special, None if one_text else types, separator)


def relevant_tokens(example: Example, placement: Placement, where: str) -> tuple[bool, ...] | None:
    """The tokens that share a character with what is known to matter; None where nothing is known."""
    spans = example.relevant
    if spans is None:
        return None
    placed = list(zip(placement.segments, placement.offsets, strict=True))
    if spans and any(segment >= 0 and span == NO_OFFSET for segment, span in placed):
        raise InputError(
            f"{where}: what is known to matter (data.relevant) is a stretch of the text, and the tokenizer does not say "
            "where its tokens stand: use a fast tokenizer, or leave data.relevant out"
        )
    return tuple(
        any(of == segment and start < last and first < end for of, first, last in spans)
        for segment, (start, end) in placed
    )


def outside_parts(example: Example, offsets: Sequence[tuple[int, int]]) -> tuple[bool, ...]:
    """Which tokens share no character with a part of the text, so that they are a chat template's."""
    return tuple(
        not any(start < last and first < end for _, _, first, last in example.parts)
        for start, end in offsets
    )


def pads_outside(model: Model, ids: Sequence[int]) -> set[int]:
    """The places of pad tokens before the first other token and after the last; none where no pad token is known."""
    pad = model.pad_token_id
    inside = [place for place, token in enumerate(ids) if token != pad]
    if pad is None or not inside:
        return set()
    return set(range(len(ids))) - set(range(inside[0], inside[-1] + 1))


def whole_numbers(inputs: Mapping[str, Any], key: str, where: str) -> list[int]:
    """A row of whole numbers, as a list.

    Raises:
        InputError: these are other numbers, or none; of a mask other than 0 and 1.
    """
    try:
        values = torch.as_tensor(inputs[key]).flatten()
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"{where}: {key}: expected whole numbers, got {inputs[key]!r:.60}"
        ) from None
    numbers: list[Any] = values.tolist()
    if key == "attention_mask":  # of any type: some models take a mask of floats
        if wrong := [value for value in numbers if value not in (0, 1)]:
            raise InputError(
                f"{where}: attention_mask holds {wrong[0]}: expected 1 (attended to) or 0 (padding) for each token"
            )
    elif numbers and (values.is_floating_point() or values.dtype == torch.bool):
        raise InputError(
            f"{where}: {key} are {str(values.dtype).removeprefix('torch.')}: expected whole numbers, as {key}.long()"
        )
    return [int(value) for value in numbers]
