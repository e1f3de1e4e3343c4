"""The least arithmetic that gradients of an encoder need, and how fast the machine can do it.

Only matrix products are counted, a multiplication and an addition as two operations. An encoder
layer has four h x h projections and two h x f ones: P = N (4 h^2 + 2 h f) weights in all. Each
weight is used once per token, and each of the N layers forms QK' and its product with V, 2 h L^2
operations each:

    forward             2 P L + 4 N h L^2
    backward to inputs  2 P L + 8 N h L^2    (attention: two products for each of the forward's)

Weight gradients, which would add 2 P L, are not needed. Embeddings are looked up, not multiplied;
pooler and head work on one token and are left out.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from saliency_bench.models.module_facts import configured, fact


class Encoder(NamedTuple):
    """The sizes that the count needs."""

    n_layers: int
    hidden: int
    ffn: int


def encoder_of(module: nn.Module) -> Encoder | None:
    """The sizes of a transformer as its configuration names them; None where it does not."""
    config = configured(module)
    hidden, n_layers = (fact(config, key) for key in ("hidden_size", "num_hidden_layers"))
    ffn = fact(config, "intermediate_size") or fact(config, "hidden_dim")
    if isinstance(hidden, int) and isinstance(n_layers, int) and isinstance(ffn, int):
        return Encoder(n_layers, hidden, ffn)
    return None


def gradient_flops(
    n_layers: int, hidden: int, ffn: int, lengths: Sequence[int], n_gradients: int
) -> int:
    """Operations of `n_gradients` gradients at the embeddings, for each of the sequences."""
    weights = _weights(n_layers, hidden, ffn)
    once = sum(4 * weights * n + 12 * n_layers * hidden * n**2 for n in lengths)
    return n_gradients * once


def layer_products(
    encoder: Encoder, n_tokens: int, device: torch.device | str, dtype: torch.dtype
) -> tuple[Callable[[], None], int]:
    """The matrix products of one layer's weights with `n_tokens` rows, and how many operations they are.

    Random numbers: a product of ones or zeros costs a processor less power, and it may clock higher.
    """
    hidden, ffn = encoder.hidden, encoder.ffn
    stream = torch.Generator(device).manual_seed(0)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=stream, device=device).to(dtype)

    shapes = [(hidden, hidden)] * 4 + [(hidden, ffn), (ffn, hidden)]
    products = [(matrix(n_tokens, k), matrix(k, n), matrix(n_tokens, n)) for k, n in shapes]

    def multiply() -> None:
        for left, right, out in products:
            torch.mm(left, right, out=out)

    return multiply, 2 * n_tokens * _weights(1, hidden, ffn)


def _weights(n_layers: int, hidden: int, ffn: int) -> int:
    return n_layers * (4 * hidden**2 + 2 * hidden * ffn)
