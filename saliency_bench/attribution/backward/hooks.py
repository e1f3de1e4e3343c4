"""Hooks that change a gradient at one node of a graph, during the backward pass.

A hook holds no node, since the node holds the hook. It releases its tensors when it has run.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saliency_bench.attribution.backward.graph import Node

Grads = tuple[Tensor | None, ...]

#: The divisor of softmax's input in the tempered backward pass (Edin et al. 2025).
TEMPERATURE = 2.0


def multiply(node: Node, factors: Mapping[int, float]) -> None:
    """Multiplies the gradients of some inputs. With the factor 0 they become None, and nothing before them is computed."""

    def hook(inputs: Grads, _: Grads) -> Grads:
        return tuple(
            _times(gradient, factors.get(place, 1.0)) for place, gradient in enumerate(inputs)
        )

    node.register_hook(hook)


def _times(gradient: Tensor | None, factor: float) -> Tensor | None:
    if gradient is None or factor == 0:
        return None
    return gradient if factor == 1 else gradient * factor


def ratio(node: Node, function: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Replaces the gradient of an element-wise function by f(x) / x; where x is 0, by its limit f'(0).

    The quotient is formed in at least float32 and rounded once, as PyTorch's own gradients are.
    """
    held = [x.detach()]

    def hook(inputs: Grads, outputs: Grads) -> Grads:
        native, gradient = inputs[0], outputs[0]
        if native is None or gradient is None:
            return inputs
        x = held.pop()
        tiny = x.abs() < torch.finfo(x.dtype).tiny
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        quotient = (function(x) / x).mul_(gradient).to(native.dtype)
        return torch.where(tiny, native, quotient), *inputs[1:]

    node.register_hook(hook)


def constant_deviation(node: Node) -> None:
    """Takes the standard deviation (root mean square) of a fused LayerNorm or RMSNorm as a constant in its gradient."""
    centred = "_saved_result2" in dir(node)
    inverse = (node._saved_result2 if centred else node._saved_result1).detach()
    weight = node._saved_weight
    dims = tuple(range(-len(node._saved_normalized_shape), 0))
    held: list[Any] = [inverse, None if weight is None else weight.detach()]

    def hook(inputs: Grads, outputs: Grads) -> Grads:
        gradient = outputs[0]
        if inputs[0] is None or gradient is None:
            return inputs
        weight, inverse = held.pop(), held.pop()
        scaled = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        scaled = scaled if weight is None else scaled * weight
        if centred:
            scaled = scaled - scaled.mean(dims, keepdim=True)
        return (scaled * inverse).to(inputs[0].dtype), *inputs[1:]

    node.register_hook(hook)


def tempered_softmax(node: Node) -> None:
    """Takes the Jacobian of softmax at x / TEMPERATURE, where softmax is p^(1 / TEMPERATURE), normalised."""
    # A negative dimension is stored as a number of 64 bits without a sign.
    dim = node._saved_dim - 2**64 if node._saved_dim >= 2**63 else node._saved_dim
    held = [node._saved_result.detach()]

    def hook(inputs: Grads, outputs: Grads) -> Grads:
        gradient = outputs[0]
        if inputs[0] is None or gradient is None:
            return inputs
        softer = held.pop()
        softer = softer.to(torch.promote_types(softer.dtype, torch.float32)).pow(1 / TEMPERATURE)
        softer = softer / softer.sum(dim, keepdim=True).clamp_min(torch.finfo(softer.dtype).tiny)
        return (_through_softmax(softer, gradient, dim).to(inputs[0].dtype), *inputs[1:])

    node.register_hook(hook)


def _through_softmax(
    probabilities: Float[Tensor, "..."], gradient: Float[Tensor, "..."], dim: int
) -> Float[Tensor, "..."]:
    """The transposed Jacobian of softmax times a gradient."""
    weighted = probabilities * gradient
    return weighted - probabilities * weighted.sum(dim, keepdim=True)


def tempered_attention(node: Node, of_scores: float, of_values: float) -> None:
    """Tempers the softmax of attention that is one operation; its probabilities are computed anew.

    Args:
        node: the node of the operation.
        of_scores: the factor of the gradients of query and key, and of an input that is added to their products.
        of_values: the factor of the gradient of the value.
    """
    saved = [node._saved_query, node._saved_key, node._saved_value, _bias(node)]
    held: list[Any] = [None if tensor is None else tensor.detach() for tensor in saved]
    causal, scale = node._saved_is_causal, node._saved_scale

    def hook(inputs: Grads, outputs: Grads) -> Grads:
        gradient = outputs[0]
        if gradient is None:
            return inputs
        query, key, value, bias = held
        held.clear()
        tempered = _tempered(query, key, value, bias, causal, scale, gradient)
        of_products = (
            None if native is None else (changed * of_scores).to(native.dtype)
            for native, changed in zip(inputs[:2], tempered, strict=True)
        )
        return *of_products, _times(inputs[2], of_values), *inputs[3:]

    node.register_hook(hook)


def _bias(node: Node) -> Tensor | None:
    for name in ("_saved_attn_mask", "_saved_attn_bias"):
        if name in dir(node):
            bias: Tensor | None = getattr(node, name)
            return bias
    return None


def _tempered(
    query: Float[Tensor, "R H Q D"],
    key: Float[Tensor, "R G K D"],
    value: Float[Tensor, "R G K V"],
    bias: Tensor | None,
    causal: bool,
    scale: float | None,
    gradient: Float[Tensor, "R H Q V"],
) -> tuple[Float[Tensor, "R H Q D"], Float[Tensor, "R G K D"]]:
    """The gradients of query and key; the H heads share G keys and values."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    dtype = torch.promote_types(query.dtype, torch.float32)
    query, key, value, gradient = (x.to(dtype) for x in (query, key, value, gradient))
    shared = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(shared, 1) if shared > 1 else x for x in (key, value))
    scores = query @ key.mT * scale
    if bias is not None:
        scores = scores.masked_fill(~bias, -math.inf) if bias.dtype == torch.bool else scores + bias
    if causal:
        before = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~before, -math.inf)
    isolated = (scores == -math.inf).all(-1, keepdim=True)  # sees no key, and its output is 0
    softer = (scores / TEMPERATURE).masked_fill(isolated, 0.0).softmax(-1)
    softer = softer.masked_fill(isolated, 0.0)
    of_scores = _through_softmax(softer, gradient @ value.mT, -1) * scale
    of_key = of_scores.mT @ query
    if shared > 1:
        of_key = of_key.reshape(len(of_key), -1, shared, *of_key.shape[2:]).sum(2)
    return of_scores @ key, of_key
