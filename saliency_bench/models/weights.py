"""Multiplies the weights of a model for a time; afterwards they are restored exactly."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from saliency_bench.core.errors import InputError
from saliency_bench.models.model import Model
from saliency_bench.models.placement import refuse_spread, with_numbers

#: Returns the factor of a weight, of the same shape, from its name and the weight.
Factor = Callable[[str, nn.Parameter], Tensor]


@contextmanager
def multiplied_weights(model: Model, factor: Factor) -> Iterator[None]:
    """While open, every weight that the model computes with is multiplied; afterwards it has its original memory again.

    The weights themselves are never written: each gets other memory for the time, so that the original is restored
    exactly, after an error too. A weight that several parts share is multiplied once. Weights of the embedding layer
    alone are left out, since its output is replaced. To be called inside `Model.frozen`: other threads that explain the
    model wait, but a thread that calls the module directly computes with the multiplied weights.

    Raises:
        InputError: a weight is not of floating point, as in quantised models.
    """
    refuse_spread(model.module, model.name, "noise on")
    weights = used_weights(model)
    originals = [weight.data for weight in weights.values()]
    try:
        for (name, weight), original in zip(weights.items(), originals, strict=True):
            weight.data = (original * factor(name, weight)).to(original.dtype)
        yield
    finally:
        for weight, original in zip(weights.values(), originals, strict=True):
            weight.data = original


@torch.no_grad()
def sums_of_weights(model: Model) -> tuple[float, ...]:
    """The sum and the sum of squares of each weight, in float64."""
    sums = []
    for _, weight in with_numbers(model.module, [*model.module.named_parameters()]):
        numbers = weight.double()
        sums.append(torch.stack([numbers.sum(), numbers.square().sum()]).to(model.device))
    return tuple(torch.cat(sums).tolist()) if sums else ()


def used_weights(model: Model) -> dict[str, nn.Parameter]:
    """The weights outside the embedding layer by name, each once."""
    inside = set(model.embedding.modules())
    by_id: dict[int, tuple[str, nn.Parameter]] = {}
    for path, part in model.module.named_modules():
        if part in inside:
            continue
        for name, weight in part.named_parameters(path, recurse=False):
            if not weight.is_floating_point():
                raise InputError(
                    f"model {model.name}: {name} holds {weight.dtype}, and noise on the weights needs floating point "
                    "numbers. Use smoothgrad, or load the model without quantisation."
                )
            by_id.setdefault(id(weight), (name, weight))
    return dict(by_id.values())
