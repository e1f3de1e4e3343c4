"""Where paths start: the embeddings that stand for "nothing here", for every token of a batch."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from saliency_bench.seeding import generator_for

if TYPE_CHECKING:
    from saliency_bench.attribution.context import Context


def embeddings(ctx: "Context", baseline: str) -> Float[Tensor, "B T D"]:
    """The named baseline at every token: mask, pad, unk, zero or mean."""
    return ctx.references.vector(baseline).expand_as(ctx.embeddings)


def random_reference(
    ctx: "Context", references: str, special_tokens: str
) -> Callable[[int, int], Float[Tensor, "T D"]]:
    """Random references at the text's own length: a function of an example and the number of a draw.

    Draws belong to the text, the seed and their number, and to nothing else.
    """
    moved = ctx.batch.attributable if special_tokens == "keep" else ctx.batch.mask
    vocabulary = ctx.references.ordinary_tokens

    def reference(example: int, number: int) -> Float[Tensor, "T D"]:
        stream = generator_for(
            "cpu", "reference", references, ctx.seed, ctx.hashes[example], number
        )
        drawn = torch.randint(len(vocabulary), (ctx.batch.lengths[example],), generator=stream)
        ids = ctx.batch.input_ids[example].clone()
        ids[: len(drawn)] = vocabulary[drawn].to(ids.device)
        away = ctx.references.model.embed(ids[None])[0]
        return torch.where(moved[example, :, None], away, ctx.embeddings[example])

    return reference
