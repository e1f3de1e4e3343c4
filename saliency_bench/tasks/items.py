"""Whatever inputs come in, one by one: texts, mappings with `input_ids`, or ids alone; batches are taken apart."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from saliency_bench.data.example import Example
from saliency_bench.errors import InputError


def items(inputs: Any) -> list[Any]:
    """The inputs of a text (as words or as ids), a mapping, a list, a Dataset or a DataLoader.

    Raises:
        InputError: these are no inputs, or a batch is a tuple of tensors of which it cannot be told what they are.
    """
    if isinstance(inputs, str | Example | Mapping) or _is_one_text(inputs):
        return list(_apart(inputs, "inputs"))
    if not hasattr(inputs, "__iter__"):  # a map-style Dataset
        if not (hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__")):
            raise InputError(
                f"inputs is {inputs!r:.80}; expected a text, a pair of texts, ids, a mapping with input_ids, or a list, "
                "Dataset or DataLoader of these"
            )
        inputs = [inputs[index] for index in range(len(inputs))]
    return [one for index, item in enumerate(inputs) for one in _apart(item, f"inputs[{index}]")]


def _is_one_text(inputs: Any) -> bool:
    """Whether these are the ids of one text: a row of whole numbers."""
    if isinstance(inputs, Tensor | np.ndarray):
        return inputs.ndim == 1 and all(map(_is_whole, inputs.tolist()))
    return _is_list(inputs) and bool(inputs) and all(map(_is_whole, inputs))


def _apart(item: Any, where: str) -> Iterator[Any]:
    """One item as it is, or the texts of a batch."""
    if isinstance(item, Tensor | np.ndarray):
        yield from ({"input_ids": ids} for ids in (item if item.ndim == 2 else [item]))
    elif isinstance(item, Mapping):
        yield from _rows(item)
    elif _is_list(item) and item and isinstance(item[0], Tensor | np.ndarray):
        yield from _apart(_ids_of(item, where), where)
    elif _is_list(item) and item and all(map(_is_whole, item)):
        yield {"input_ids": item}
    else:
        yield item


def _rows(batch: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What a tokenizer returns for several texts, and loaders bring, taken apart."""
    columns = {
        key: value.tolist() if hasattr(value, "tolist") else value for key, value in batch.items()
    }
    ids = columns.get("input_ids")
    if not ids or not _is_list(ids[0]):
        yield batch
        return
    for row in range(len(ids)):
        yield {
            key: value[row] if _is_list(value) and len(value) == len(ids) else value
            for key, value in columns.items()
        }


def _ids_of(batch: Sequence[Any], where: str) -> Any:
    """The ids of (ids,) or (ids, labels); labels have a dimension less."""
    ids, *others = batch
    if len(others) > 1 or any(np.ndim(one) != ids.ndim - 1 for one in others):
        raise InputError(
            f"{where} is {len(batch)} tensors, expected (ids,) or (ids, labels): give a mapping with input_ids, and "
            "attention_mask where there is padding"
        )
    return ids


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
