"""A model without layers, on which a study can be rehearsed: what a study asks does not depend on what is answered.

Where it does (methods that go on until they are sure, questions that rankings share), a model that answers at random
gives the most that may be asked, since nothing agrees and nothing converges, and one that always answers 0 the least.
"""

import copy
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saliency_bench.models.ledger import Ledger
from saliency_bench.models.model import Model

#: Of a gradient's size, so that half precision can hold it.
LARGEST = 1e4


class Zeros:
    """Where nothing differs, everything agrees and everything has converged."""

    def answers(self, shape: torch.Size, like: Tensor) -> Tensor:
        """Of this shape, in the type and on the device of `like`."""
        return like.new_zeros(shape)

    def gradients(self, shape: torch.Size, like: Tensor) -> Tensor:
        """Likewise, a row for each point."""
        return like.new_zeros(shape)


class Noise(Zeros):
    """Normal numbers, from a stock that is read from a random place each time: drawing them anew would take longer.

    Gradients have random sizes besides, of so heavy a tail (Pareto, α = 2/3) that a mean over any number of them is
    mostly the largest: it never becomes sure.
    """

    def __init__(self, seed: int) -> None:
        self.places = random.Random(seed)
        self.stream = torch.Generator().manual_seed(seed)
        self.stock = torch.zeros(0)

    def answers(self, shape: torch.Size, like: Tensor) -> Tensor:
        """A piece of the stock."""
        n = shape.numel()
        if len(self.stock) < 2 * n or self.stock.dtype != like.dtype:
            with torch.inference_mode(False):  # it is for gradients too, whoever asks first
                drawn = torch.randn(2 * n + 1, generator=self.stream, dtype=torch.float32)
                self.stock = drawn.to(like.device, like.dtype)
        start = self.places.randrange(len(self.stock) - n)
        return self.stock[start : start + n].view(shape)

    def gradients(self, shape: torch.Size, like: Tensor) -> Tensor:
        """Pieces of random size."""
        sizes = [min(self.places.paretovariate(2 / 3), LARGEST) for _ in range(shape[0])]
        return self.answers(shape, like) * like.new_tensor(sizes).view(-1, *[1] * (len(shape) - 1))


def stand_in(model: Model, n_classes: int, *, seed: int | None) -> Model:
    """The model with its embedding layer and tokenizer, random answers and gradients (0 without a seed), and no layer.

    It has a ledger of its own.
    """
    source = Zeros() if seed is None else Noise(seed)
    module = StandIn(model, n_classes, source)
    found = replace(
        model,
        module=module,
        forward=lambda _, inputs: module(inputs),
        facts={"source": "stand-in"},
        ledger=Ledger(),
    )
    vars(found)["configured"] = model.configured  # the facts are the original's
    return found


def provable(model: Model) -> Model:
    """What has to be asked where something is to be proved: of a stand-in the original, at the stand-in's expense."""
    if not isinstance(model.module, StandIn):
        return model
    original = copy.copy(model.module.original)  # with all that is known of it
    object.__setattr__(original, "ledger", model.ledger)
    return original


class StandIn(nn.Module):
    """Logits [R C] and gradients from a source, whatever the input."""

    def __init__(self, model: Model, n_classes: int, source: Zeros) -> None:
        super().__init__()
        self.original = model
        self.embedding = model.embedding
        self.n_classes = n_classes
        self.source = source
        #: Given what stands for attention weights [R 1 T T], while somebody asks for them.
        self.record: Callable[[Tensor], None] | None = None

    def forward(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "R C"]:
        """The real embedding layer is called, since it is what is hooked."""
        given: Tensor = self.embedding(inputs["input_ids"])
        if self.record is not None:
            width = given.shape[1]
            given = given.mean(-1)[:, None, :, None].expand(-1, 1, width, width) * 1
            self.record(given)
        answers: Tensor = _Answer.apply(given, self.n_classes, self.source)  # type: ignore[no-untyped-call]
        return answers


class _Answer(torch.autograd.Function):
    """What the source says, forwards and backwards."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, n_classes: int, source: Zeros) -> Tensor:
        ctx.source, ctx.like, ctx.shape = source, given.detach().flatten()[:1], given.shape
        answers: Tensor = source.answers(torch.Size([len(given), n_classes]), given)
        return answers

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, None, None]:
        return ctx.source.gradients(ctx.shape, ctx.like), None, None
