"""Inputs of a model beside token ids, mask and token types: positions, boxes, and whatever else its `forward` names."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from saliency_bench.core.errors import InputError
from saliency_bench.models.model import Model

#: Inputs by name, as nested tuples of numbers.
Extra = tuple[tuple[str, Any], ...]

#: Inputs with a field of their own in `Encoded`.
USUAL = {"input_ids", "attention_mask", "token_type_ids"}
#: Names that tokenizers and datasets put beside a model's inputs, and that are no inputs.
NO_INPUTS = {
    "label",
    "labels",
    "input_tokens",  # the tokens in writing
    "special_tokens_mask",
    "offset_mapping",
    "overflowing_tokens",
    "overflow_to_sample_mapping",
    "num_truncated_tokens",
    "length",
}
#: Inputs that stand for the text itself or for its encoding. They are refused, since the embeddings are explained.
INSTEAD = ("inputs_embeds", "past_key_values", "encoder_outputs", "decoder_")


def extra_of(
    model: Model, inputs: Mapping[str, Any], mask: Sequence[int], where: str, *, strict: bool = True
) -> Extra:
    """The further inputs of one text, by name, as nested tuples of numbers.

    Args:
        model: takes what its `forward` names, or everything where `forward` is the user's own.
        inputs: from the user or from a tokenizer. Text and None in it are columns of a dataset, and are left out.
        mask: the tokens that stay. A further input with a row for each token loses the same rows.
        where: names the text in errors.
        strict: refuses what the model does not take; otherwise it is left out.

    Raises:
        InputError: the model does not take an input, or an input is no array of numbers; the message names it.
    """
    names = [
        str(key)
        for key, value in inputs.items()
        if key not in USUAL | NO_INPUTS and not _is_text(value)
    ]
    accepted = [name for name in names if _takes(model, name)]
    if strict and len(accepted) < len(names):
        refused = ", ".join(name for name in names if name not in accepted)
        raise InputError(
            f"{where} has {refused}, which cannot be given to {model.name}: expected input_ids and what its forward names. "
            "Leave it out (of a Dataset: remove_columns), or pass it on with forward= in wrap_model()"
        )
    return tuple((name, _values(inputs[name], mask, f"{where}: {name}")) for name in accepted)


def tensors_of(
    model: Model, extras: Sequence[Extra], lengths: Sequence[int], width: int
) -> dict[str, Tensor]:
    """The further inputs of a batch, [B ...]; rows with a number for each token are padded with zeros to `width`.

    All texts must have inputs of the same names.
    """
    tensors = {}
    for name, _ in extras[0]:
        rows = [
            _padded(dict(values)[name], length, width)
            for values, length in zip(extras, lengths, strict=True)
        ]
        values = torch.stack(rows).to(model.device)
        tensors[name] = values.to(model.dtype) if values.is_floating_point() else values
    return tensors


def _takes(model: Model, name: str) -> bool:
    return not name.startswith(INSTEAD) and (model.takes is None or name in model.takes)


def _is_text(value: Any) -> bool:
    if isinstance(value, list | tuple) and value:
        return _is_text(value[0])
    return value is None or isinstance(value, str)


def _values(value: Any, mask: Sequence[int], where: str) -> Any:
    """A tensor of numbers as nested tuples, without the rows of tokens that do not stay."""
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{where} is no array of numbers ({error})") from error
    if tensor.ndim > 1 and tensor.shape[:2] == (1, len(mask)):  # a batch of one
        tensor = tensor[0]
    if tensor.ndim == 0:
        raise InputError(f"{where} is {value!r}, expected an array of numbers")
    if len(tensor) == len(mask):
        tensor = tensor[torch.tensor(mask, device=tensor.device).bool()]
    return _tuples(tensor.tolist())


def _padded(values: Any, length: int, width: int) -> Tensor:
    tensor = torch.tensor(values)
    if len(tensor) != length or length == width:
        return tensor
    return torch.cat([tensor, tensor.new_zeros(width - length, *tensor.shape[1:])])


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
