"""Extracts the logits from a module's result."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from saliency_bench.core.errors import InputError


def logits_in(output: Any) -> Tensor:
    """The logits in a module's result: a tensor, a tuple that starts with it, or an object or mapping with `logits`.

    Raises:
        InputError: the result is none of these.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping) and isinstance(output.get("logits"), Tensor):
        return cast(Tensor, output["logits"])
    if isinstance(output, tuple | list):
        return logits_in(output[0])
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise InputError(
            f"the model returned {type(output).__name__}, expected logits: give forward= in wrap_model()"
        )
    return logits


def ends_in(output: Any) -> Float[Tensor, "R T 2"]:
    """The start and end logits of an extractive question answerer, side by side."""
    pair = output
    if hasattr(output, "start_logits") and hasattr(output, "end_logits"):
        pair = output.start_logits, output.end_logits
    if isinstance(pair, tuple | list) and len(pair) >= 2:
        return torch.stack([pair[0], pair[1]], -1)
    return logits_in(output)
