"""The weights of a model multiplied by something else for a time, and given back to the bit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from saliency_bench.core.errors import InputError
from saliency_bench.models.model import Model
from saliency_bench.models.placement import refuse_spread, with_numbers

#: Of a weight's name and the weight: what multiplies it, of the same shape.
Factor = Callable[[str, nn.Parameter], Tensor]


@contextmanager
def multiplied_weights(model: Model, factor: Factor) -> Iterator[None]:
    """While open, every weight that the model computes with is multiplied; afterwards it has its own memory back.

    The weights themselves are never written: each is lent other memory, so that what comes back is the same to the
    bit, after an error too. A weight that several parts share is multiplied once. Weights of the embedding layer alone
    are left out, since other vectors take the place of what it gives. Threads that explain through this package wait
    (`Model.frozen`, inside which this is to be called); a thread that calls the module by itself meets the other weights.

    Raises:
        InputError: a weight is no tensor of numbers with a point, as in quantised models.
    """
    refuse_spread(model.module, model.name, "noise on")
    weights = used_weights(model)
    before = [weight.data for weight in weights.values()]
    try:
        for (name, weight), own in zip(weights.items(), before, strict=True):
            weight.data = (own * factor(name, weight)).to(own.dtype)
        yield
    finally:
        for weight, own in zip(weights.values(), before, strict=True):
            weight.data = own


@torch.no_grad()
def sums_of_weights(model: Model) -> tuple[float, ...]:
    """The sum and the sum of squares of each weight, in float64."""
    sums = []
    for _, weight in with_numbers(model.module, [*model.module.named_parameters()]):
        numbers = weight.double()
        sums.append(torch.stack([numbers.sum(), numbers.square().sum()]).to(model.device))
    return tuple(torch.cat(sums).tolist()) if sums else ()


def used_weights(model: Model) -> dict[str, nn.Parameter]:
    """The weights by name that other parts than the embedding layer have, each once."""
    inside = set(model.embedding.modules())
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for path, part in model.module.named_modules():
        if part in inside:
            continue
        for name, weight in part.named_parameters(path, recurse=False):
            if not weight.is_floating_point():
                raise InputError(
                    f"model {model.name}: {name} holds {weight.dtype}, and noise on the weights needs numbers with a "
                    "point. Use smoothgrad, or load the model without quantisation."
                )
            found.setdefault(id(weight), (name, weight))
    return dict(found.values())
