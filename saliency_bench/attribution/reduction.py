"""Reductions: from one vector per token, after averaging, to one number per token."""

from collections.abc import Callable

from jaxtyping import Bool, Float
from torch import Tensor

Reduction = Callable[[Float[Tensor, "B T D"], Float[Tensor, "B T D"]], Float[Tensor, "B T"]]


def l2(values: Float[Tensor, "B T D"], inputs: Float[Tensor, "B T D"]) -> Float[Tensor, "B T"]:
    """The Euclidean norm; it has no sign."""
    return values.square().sum(-1).sqrt()


def l1(values: Float[Tensor, "B T D"], inputs: Float[Tensor, "B T D"]) -> Float[Tensor, "B T"]:
    """The sum of absolute values; it has no sign."""
    return values.abs().sum(-1)


def total(values: Float[Tensor, "B T D"], inputs: Float[Tensor, "B T D"]) -> Float[Tensor, "B T"]:
    """The signed sum, for values that have the input multiplied in."""
    return values.sum(-1)


def dot(values: Float[Tensor, "B T D"], inputs: Float[Tensor, "B T D"]) -> Float[Tensor, "B T"]:
    """The dot product with the token's embedding, which multiplies the input in after averaging."""
    return (values * inputs).sum(-1)


REDUCTIONS: dict[str, Reduction] = {"l2": l2, "l1": l1, "sum": total, "dot": dot}


def reduce_scores(
    name: str,
    values: Float[Tensor, "B T D"],
    inputs: Float[Tensor, "B T D"],
    mask: Bool[Tensor, "B T"],
) -> Float[Tensor, "B T"]:
    """The named reduction in float64; padding gets 0."""
    return REDUCTIONS[name](values.double(), inputs.double()) * mask
