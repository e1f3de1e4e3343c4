"""Turns inputs of `attribute` in any form into tokenised texts."""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from saliency_bench.core.errors import InputError, shown
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.text import Encoded
from saliency_bench.data import fields
from saliency_bench.data.example import Example
from saliency_bench.models.heads import SEQUENCE_CLASSIFICATION, TEXT_GENERATION
from saliency_bench.models.loading import load_model
from saliency_bench.models.model import Model
from saliency_bench.models.tasks import padding
from saliency_bench.models.tasks.encoding import encoded_ids, mostly_unknown
from saliency_bench.models.tasks.items import (
    KEYS,
    LABELS,
    MESSAGES,
    OPTIONS,
    SEGMENTS,
    TEXT,
    TEXT_PAIR,
    label_of,
)
from saliency_bench.models.tasks.items import items as items_of
from saliency_bench.models.tasks.registry import task_of

#: The keys of a prompt that a continuation follows.
_CONTINUED = {TEXT, SEGMENTS, MESSAGES, *LABELS}

Inputs = str | Iterable[Any] | Dataset[Any]


def as_model(model: Any) -> Model:
    """Returns the model, loaded if it is something else that `load_model` takes: a pipeline, a name or a folder.

    Raises:
        InputError: it is none of these, or a module without its tokenizer.
    """
    return model if isinstance(model, Model) else load_model(model)


def as_maps(maps: Any) -> list[AttributionMap]:
    """Returns maps as a list; one alone is a list of one.

    Raises:
        InputError: there is none, or something else among them, such as a text.
    """
    alone = isinstance(maps, AttributionMap | str) or not isinstance(maps, Iterable)
    listed: list[AttributionMap] = []
    for place, value in enumerate([maps] if alone else maps):
        if not isinstance(value, AttributionMap):
            raise InputError(
                f"maps: expected what attribute() or AttributionMap.from_scores() returns, got {shown(value)} at place {place}"
            )
        listed.append(value)
    if not listed:
        raise InputError("maps is empty: expected at least one map of attribute()")
    return listed


def continued(
    model: Model, inputs: Inputs, continuation: str | Sequence[str]
) -> list[Mapping[str, Any]]:
    """Each prompt with its continuation, or with the options that it has.

    Raises:
        InputError: the model continues no texts, or a prompt is no text.
    """
    if model.task != TEXT_GENERATION:
        raise InputError(
            f"continuation= is for task={TEXT_GENERATION}; this model is for {model.task}"
        )
    prompts = [{TEXT: item} if isinstance(item, str) else item for item in items_of(inputs)]
    fits = [isinstance(item, Mapping) and {*item} <= _CONTINUED for item in prompts]
    if not all(fits):
        raise InputError("continuation= follows prompts that are texts or chats")
    key = TEXT_PAIR if isinstance(continuation, str) else OPTIONS
    return [{**prompt, key: continuation} for prompt in prompts]


def encode_all(model: Model, inputs: Inputs, labels: Any) -> list[Encoded]:
    """Every input tokenised, with its gold class where there is one.

    Raises:
        InputError: there are no inputs, one is not usable, or labels do not fit them.
    """
    items = items_of(inputs)
    if not items:
        raise InputError("inputs is empty: expected at least one text")
    if labels is None:
        labels = [None] * len(items)
    elif model.task != SEQUENCE_CLASSIFICATION and not all(map(_has_options, items)):
        raise InputError(f"labels are of texts, and {model.task} has none: name a target")
    elif isinstance(labels, str | int):  # of the only text
        labels = [labels]
    if len(labels) != len(items):
        raise InputError(f"labels: expected {len(items)}, one per input, got {len(labels)}")
    keep_pads = _padding_matters(model, items)
    encoded = [
        _encode_one(model, item, index, label, keep_pads)
        for index, (item, label) in enumerate(zip(items, labels, strict=True))
    ]
    _warn_of_unused(items)
    if cut := [index for index, item in enumerate(encoded) if item.truncated]:
        warnings.warn(
            f"inputs[{cut[0]}] is longer than {model.max_length} tokens and was cut ({len(cut)} in all)",
            stacklevel=3,
        )
    if message := mostly_unknown(model, encoded):
        warnings.warn(message, stacklevel=3)
    return encoded


def _padding_matters(model: Model, items: Sequence[Any]) -> bool:
    """Whether padding of ids is kept, since the model's outputs depend on it; warns of padding that no mask marks."""
    mappings = [
        (f"inputs[{index}]", item) for index, item in enumerate(items) if isinstance(item, Mapping)
    ]
    if unmarked := [where for where, item in mappings if padding.attended(model, item, where)]:
        warnings.warn(
            f"{unmarked[0]} is padded and has no attention_mask ({len(unmarked)} in all), so that the model reads the "
            "pads as it reads words: give a mapping with input_ids and attention_mask, or ids without padding",
            stacklevel=4,
        )
    return padding.matters(model, mappings)


def _encode_one(
    model: Model, item: Any, index: int, label: int | str | None, keep_pads: bool
) -> Encoded:
    where = f"inputs[{index}]"
    if isinstance(item, Mapping):
        if label is None and (model.task == SEQUENCE_CLASSIFICATION or _has_options(item)):
            label = label_of(item)
        if "input_ids" in item:
            return encoded_ids(model, item, str(index), label, where, keep_pads=keep_pads)
        example = _example(item, str(index), label, where)
    elif isinstance(item, Example):
        example = item if label is None else replace(item, label=label)
    else:
        example = Example(str(index), *_text_and_pair(item, where), label, source=where)
    return task_of(model).encode(model, example, "truncate")


def _text_and_pair(item: Any, where: str) -> tuple[str, str | None]:
    if isinstance(item, str):
        return item, None
    listed = isinstance(item, tuple | list)
    if listed and len(item) == 2 and all(isinstance(text, str) for text in item):
        return item[0], item[1]
    flat = ", texts of batches as [text for batch in inputs for text in batch]"
    raise InputError(
        f"{where} is {type(item).__name__} ({item!r:.40}); expected a text, a pair of texts or a mapping with input_ids"
        f"{flat if listed or isinstance(item, np.ndarray) else ''}"
    )


def _has_options(item: Any) -> bool:
    """Whether an input has options, of which its label is then one."""
    return isinstance(item, Mapping) and _given(item, OPTIONS) is not None


def _warn_of_unused(items: Sequence[Any]) -> None:
    """Warns once of the fields of texts that nothing reads. What stands beside `input_ids` the model reads, or it is refused."""
    texts = [item for item in items if isinstance(item, Mapping) and "input_ids" not in item]
    unused = dict.fromkeys(key for item in texts for key in item if key not in KEYS)
    if unused:
        warnings.warn(
            f"inputs have fields that are not used: {', '.join(map(str, unused))}. Those of a text are {', '.join(KEYS)}",
            stacklevel=4,
        )


def _given(item: Mapping[str, Any], key: str) -> Any:
    """A field of a row; None where it is missing, which pandas writes as NaN or NA."""
    value = item.get(key)
    if type(value).__name__ == "NAType" or (isinstance(value, float) and math.isnan(value)):
        return None
    return value


def _example(item: Mapping[str, Any], name: str, label: int | str | None, where: str) -> Example:
    """A row that has `text` or `messages`.

    Raises:
        InputError: it has neither, or a field is unusable.
    """
    chat, given = _given(item, MESSAGES), _given(item, SEGMENTS)
    messages = fields.messages_of(chat, where)
    text, pair = fields.text_of(messages) if messages else item.get(TEXT), _given(item, TEXT_PAIR)
    if messages and _given(item, TEXT) is not None:
        raise InputError(f"{where} has messages, and a text beside them: give one of these")
    if not messages and TEXT not in item:
        named = next((key for key in item if isinstance(item[key], str)), TEXT)
        raise InputError(
            f"{where} has no input_ids and no text; it has: {', '.join(map(str, item))}. Give the texts themselves, as "
            f"[row[{named!r}] for row in inputs], and classes as labels="
        )
    if not isinstance(text, str) or not isinstance(pair, str | None):
        key, value = (TEXT_PAIR, pair) if isinstance(text, str) else (TEXT, text)
        raise InputError(f"{where}: {key}={shown(value)}: expected a text")
    return Example(
        name,
        text,
        pair,
        label,
        source=where,
        options=fields.options_of(_given(item, OPTIONS), where),
        parts=fields.segments_of_chat(chat, messages, given, where)
        if messages
        else fields.segments_of(given, text, where),
        messages=messages,
    )
