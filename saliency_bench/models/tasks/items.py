"""Inputs of any kind as single texts: strings, mappings with `input_ids` or `text`, or ids; batches are split."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from math import prod
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from saliency_bench.core.errors import InputError, counted
from saliency_bench.data.example import Example
from saliency_bench.data.fields import is_chat

#: The keys of a mapping of a text.
TEXT, TEXT_PAIR = "text", "text_pair"
LABELS = ("labels", "label")
#: The key of the tokens in writing, beside a tokenised input.
TOKENS = "input_tokens"
#: The keys of possible continuations, of named segments, and of a chat in place of a text (`data.fields`).
OPTIONS, SEGMENTS, MESSAGES = "options", "segments", "messages"
KEYS = (TEXT, TEXT_PAIR, *LABELS, OPTIONS, SEGMENTS, MESSAGES)


def label_of(item: Any) -> int | str | None:
    """The gold class of an input under `labels` or `label`; None where it is not one class.

    Datasets mark a text without a label by a negative number, and pandas has 1.0 for 1 in a column with gaps. Several
    labels belong to tokens or to many classes.
    """
    if not isinstance(item, Mapping):
        return None
    label = item.get("labels", item.get("label"))
    if hasattr(label, "tolist"):
        label = label.tolist()
    if _is_list(label) and len(label) == 1:
        (label,) = label
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    return label if isinstance(label, str) or (_is_whole(label) and label >= 0) else None


def items(inputs: Any) -> list[Any]:
    """The single inputs in a text (as words or as ids), a mapping, a list, a Dataset or a DataLoader.

    A mapping with `text` (and `text_pair`, `label`, `options`, `segments`) is a text, and so is (text, class number). A
    list of messages is a chat. (mapping with `input_ids`, labels or tokens) is a tokenised input. The items of a DataLoader
    are taken before it collates them.

    Raises:
        InputError: these are no inputs, a table without a column of texts, or a batch whose layout is ambiguous.
    """
    inputs = _rows_of_table(inputs)
    if isinstance(inputs, str | Example | Mapping) or is_chat(inputs) or _is_one_text(inputs):
        return list(_apart(inputs, "inputs"))
    if isinstance(inputs, DataLoader):
        return list(_of_loader(inputs))
    if not hasattr(inputs, "__iter__"):  # a map-style Dataset
        if not (hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__")):
            raise InputError(
                f"inputs is {inputs!r:.80}; expected a text, a pair of texts, ids, a mapping with input_ids, or a list, "
                "Dataset or DataLoader of these"
            )
        inputs = [inputs[index] for index in range(len(inputs))]
    return _all_apart(inputs, "inputs")


def _all_apart(inputs: Iterable[Any], where: str) -> list[Any]:
    return [text for index, item in enumerate(inputs) for text in _apart(item, f"{where}[{index}]")]


def _rows_of_table(inputs: Any) -> Any:
    """The rows of a table as mappings, with None for what is missing in a DataFrame; anything else as it is.

    Raises:
        InputError: it has no column that can be explained, or several splits.
    """
    names = getattr(inputs, "column_names", None)  # of datasets and Arrow
    # pandas and polars have `columns`; the class is asked, since a Series may have an entry of that name.
    frame = names is None and hasattr(type(inputs), "columns") and hasattr(inputs, "shape")
    if isinstance(names, Mapping):
        raise InputError(
            f"inputs has the splits {', '.join(names)}: give one of them, as inputs[{next(iter(names), '')!r}]"
        )
    columns = [*map(str, inputs.columns if frame else names or ())]
    if columns and not {*columns} & {TEXT, MESSAGES, "input_ids"}:
        raise InputError(
            f"inputs is a table of the columns {', '.join(columns)}, none of them called {TEXT}: give that of the texts "
            f"alone, as inputs[{columns[0]!r}], and that of the classes, where there is one, as labels="
        )
    for rows in ("to_pylist", "to_dicts"):  # of Arrow and polars
        if columns and hasattr(inputs, rows):
            return getattr(inputs, rows)()
    if not frame:
        return inputs
    return inputs.astype(object).where(inputs.notna(), None).to_dict("records")


def _of_loader(loader: "DataLoader[Any]") -> Iterator[Any]:
    """The items of a loader, without torch's collation, which would transpose pairs and lists of ids."""
    uncollated = copy(loader)
    if uncollated.collate_fn is default_collate:
        uncollated.collate_fn = list
        uncollated._iterator = None  # the present iterator of persistent workers collates
    batched = uncollated.batch_sampler is not None
    for number, batch in enumerate(uncollated):
        where = f"batch {number} of inputs" if batched else f"inputs[{number}]"
        whole = _all(batch, str) or (isinstance(batch, list) and _all(batch, Mapping))
        if batched and (uncollated.collate_fn is list or whole):
            yield from _all_apart(batch, where)
        elif batched and isinstance(batch, list) and not _all(batch[:1], Tensor | np.ndarray):
            raise InputError(
                f"{where} is a list of {len(batch)} {type(batch[0]).__name__}s from the loader's collate_fn, and it "
                "is unclear whether each is a text or a column: give loader.dataset, or a DataLoader without collate_fn"
            )
        else:
            yield from _apart(batch, where)


def _is_one_text(inputs: Any) -> bool:
    """Whether the inputs are the ids of one text: a row of whole numbers."""
    if isinstance(inputs, Tensor | np.ndarray):
        return inputs.ndim == 1 and all(map(_is_whole, inputs.tolist()))
    return _is_list(inputs) and bool(inputs) and all(map(_is_whole, inputs))


def _apart(item: Any, where: str) -> Iterator[Any]:
    """The texts of a batch; any other item is yielded as it is."""
    if isinstance(item, Tensor) or (isinstance(item, np.ndarray) and item.dtype.kind in "biuf"):
        yield from ({"input_ids": ids} for ids in (item if item.ndim == 2 else [item]))
    elif isinstance(item, Mapping):
        yield from _rows(item, where)
    elif is_chat(item):
        yield {MESSAGES: item}
    elif _is_list(item) and item and isinstance(item[0], Tensor | np.ndarray):
        yield from _of_arrays(item, where)
    elif _is_list(item) and item and all(map(_is_whole, item)):
        yield {"input_ids": item}
    elif _is_list(item) and len(item) == 2 and isinstance(item[0], Mapping):
        yield from _beside([*_rows(item[0], where)], item[1], where)
    elif _is_list(item) and len(item) == 2 and isinstance(item[0], str) and _is_class(item[1]):
        yield {TEXT: item[0], "label": item[1]}
    elif _is_list(item) and len(item) == 2 and _all(item[0], str) and _classes(item[1]):
        yield from _beside([{TEXT: text} for text in item[0]], item[1], where)
    else:
        yield item


def _rows(batch: Mapping[str, Any], where: str) -> Iterator[Mapping[str, Any]]:
    """The rows of a batch in columns, the format of tokenizers, loaders and tables."""
    columns = {key: _plain(value, f"{where}[{key!r}]") for key, value in batch.items()}
    texts = columns.get("input_ids", columns.get(TEXT, columns.get(MESSAGES)))
    if not _is_list(texts) or not texts or not (_is_list(texts[0]) or isinstance(texts[0], str)):
        yield batch
        return
    for row in range(len(texts)):
        yield {
            key: value[row] if _is_list(value) and len(value) == len(texts) else value
            for key, value in columns.items()
        }


def _plain(value: Any, where: str) -> Any:
    """Arrays as lists. A list of arrays holds texts, or one number each."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if not _is_list(value) or not _all(value, Tensor | np.ndarray):
        return value
    lengths = {prod(array.shape) for array in value}
    if len(value) > 1 and len(lengths) == 1 and lengths != {1}:
        raise InputError(
            f"{where} is a list of {len(value)} arrays of one length, and it is unclear whether each is a text or "
            "a place in all texts: stack them to [B T], or give the DataLoader itself"
        )
    return [array.item() if lengths == {1} else array.tolist() for array in value]


def _beside(
    rows: Sequence[Mapping[str, Any]], other: Any, where: str
) -> Iterator[Mapping[str, Any]]:
    """The texts of a batch, each with its class or its written tokens, which stood beside the batch."""
    each = other.tolist() if hasattr(other, "tolist") else other
    if len(rows) == 1 and (_is_class(each) or _all(each, str)):
        each = [each]
    if _is_list(each) and len(each) == len(rows):
        for key, fits in (("labels", _is_class), (TOKENS, lambda names: _all(names, str))):
            if all(map(fits, each)):
                yield from ({**row, key: value} for row, value in zip(rows, each, strict=True))
                return
    raise InputError(
        f"{where} is {counted(len(rows), 'text')} with {type(other).__name__} beside them, expected the class or the tokens of each: "
        "give the mapping with input_ids alone, and classes as labels="
    )


def _of_arrays(batch: Sequence[Any], where: str) -> Iterator[Mapping[str, Any]]:
    """The texts of (ids,) or (ids, labels); ids are [B T] or [T], labels have a dimension less."""
    ids, *others = batch
    if len(others) > 1 or any(np.ndim(other) != ids.ndim - 1 for other in others):
        raise InputError(
            f"{where} is {len(batch)} tensors, expected (ids,) or (ids, labels): give a mapping with input_ids, and "
            "attention_mask where there is padding"
        )
    columns = [ids, *others] if ids.ndim == 2 else [[ids], *([label] for label in others)]
    for row in zip(*columns, strict=True):
        yield dict(zip(("input_ids", "labels"), row, strict=False))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_class(value: Any) -> bool:
    """Whether a value is the number of a class, also as an array without dimensions."""
    alone = isinstance(value, Tensor | np.generic) and value.ndim == 0
    return _is_whole(value.item() if alone else value)


def _classes(value: Any) -> bool:
    listed = value.tolist() if isinstance(value, Tensor | np.ndarray) else value
    return _all(listed, int) and all(map(_is_class, listed))


def _all(values: Any, kind: Any) -> bool:
    """Whether this is a list of values of one kind, and not empty."""
    return _is_list(values) and bool(values) and all(isinstance(value, kind) for value in values)
