"""Shifts of a model's embeddings, as perturbations of an input that is made of tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saliency_bench.models.model import Model


@contextmanager
def shifted(
    model: Model, input_ids: Int[Tensor, "B T"], shift: Float[Tensor, "B T D"]
) -> Iterator[None]:
    """Adds `shift` to the embeddings of exactly these ids while open; those of other ids are unchanged."""

    def move(
        layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Tensor
    ) -> Tensor:
        tensors = (value for value in (*args, *named.values()) if isinstance(value, Tensor))
        same_ids = any(torch.equal(value, input_ids) for value in tensors)
        return output + shift if same_ids else output

    with model.embedding.register_forward_hook(move, with_kwargs=True):
        yield
