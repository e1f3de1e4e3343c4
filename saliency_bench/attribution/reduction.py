"""From one vector per token to one number per token: visible, recorded, and after averaging."""

from collections.abc import Callable

from jaxtyping import Bool, Float
from torch import Tensor

Reduction = Callable[[Float[Tensor, "B T D"], Float[Tensor, "B T D"]], Float[Tensor, "B T"]]


def l2(values: Float[Tensor, "B T D"], inputs: Float[Tensor, "B T D"]) -> Float[Tensor, "B T"]:
    """Euclidean norm: unsigned."""
    return values.square().sum(-1).sqrt()


def l1(values: Float[Tensor, "B T D"], inputs: Float[Tensor, "B T D"]) -> Float[Tensor, "B T"]:
    """Sum of absolute values: unsigned."""
    return values.abs().sum(-1)


def total(values: Float[Tensor, "B T D"], inputs: Float[Tensor, "B T D"]) -> Float[Tensor, "B T"]:
    """Signed sum: meaningful where the input is already multiplied in."""
    return values.sum(-1)


def dot(values: Float[Tensor, "B T D"], inputs: Float[Tensor, "B T D"]) -> Float[Tensor, "B T"]:
    """Dot product with the token's embedding: the input multiplied in, after averaging."""
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
