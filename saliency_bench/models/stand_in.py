"""A model without layers, on which a study can be rehearsed: what a study asks does not depend on what is answered.

Where it does (methods that go on until they are sure, questions that rankings share), a model that answers at random
gives the most that may be asked, since nothing agrees and nothing converges, and one that always answers 0 the least.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saliency_bench.models.ledger import Ledger
from saliency_bench.models.model import Model

#: Numbers for a shape; the two kinds below.
Source = Callable[[torch.Size, Tensor], Tensor]


def stand_in(model: Model, n_classes: int, *, seed: int | None) -> Model:
    """The model with its embedding layer and tokenizer, random answers and gradients (0 without a seed), and no layer.

    It has a ledger of its own.
    """
    source = _zeros if seed is None else _Noise(seed)
    module = StandIn(model, n_classes, source)
    return replace(
        model,
        module=module,
        forward=lambda _, inputs: module(inputs),
        facts={"source": "stand-in"},
        ledger=Ledger(),
    )


class StandIn(nn.Module):
    """Logits [R C] and gradients from a source, whatever the input."""

    def __init__(self, model: Model, n_classes: int, source: Source) -> None:
        super().__init__()
        self.embedding = model.embedding
        self.config = getattr(model.module, "config", None)
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
    def forward(ctx: Any, given: Tensor, n_classes: int, source: Source) -> Tensor:
        ctx.source, ctx.like, ctx.shape = source, given.detach().flatten()[:1], given.shape
        return source(torch.Size([len(given), n_classes]), given)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, None, None]:
        return ctx.source(ctx.shape, ctx.like), None, None


def _zeros(shape: torch.Size, like: Tensor) -> Tensor:
    return like.new_zeros(shape)


class _Noise:
    """Normal numbers, from a stock that is read from a random place each time: drawing them anew would take longer."""

    def __init__(self, seed: int) -> None:
        self.places = random.Random(seed)
        self.stream = torch.Generator().manual_seed(seed)
        self.stock = torch.zeros(0)

    def __call__(self, shape: torch.Size, like: Tensor) -> Tensor:
        n = shape.numel()
        if len(self.stock) < 2 * n or self.stock.dtype != like.dtype:
            drawn = torch.randn(2 * n + 1, generator=self.stream, dtype=torch.float32)
            self.stock = drawn.to(like.device, like.dtype)
        start = self.places.randrange(len(self.stock) - n)
        return self.stock[start : start + n].view(shape)
