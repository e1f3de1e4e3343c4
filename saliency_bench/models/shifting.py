"""A model that reads its embeddings moved by a little: what perturbations of the input are, where inputs are tokens."""

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
    """Inside, exactly these ids have embeddings moved by `shift`; the vectors of other ids are as they were."""

    def move(
        layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Tensor
    ) -> Tensor:
        tensors = (value for value in (*args, *named.values()) if isinstance(value, Tensor))
        meant = any(torch.equal(value, input_ids) for value in tensors)
        return output + shift if meant else output

    with model.embedding.register_forward_hook(move, with_kwargs=True):
        yield
