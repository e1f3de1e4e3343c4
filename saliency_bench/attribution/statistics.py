"""What is averaged over points: the gradient, its square, its variance, or its product with the displacement.

A moment is made of terms, each a function of one point's gradient, and of what their weighted means come to. Terms
are added up as the gradients come, so that no moment needs them twice.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Row(NamedTuple):
    """Gradients at points [R T D], and what the terms may relate them to."""

    gradient: Float[Tensor, "R T D"]
    clean: (
        Float[Tensor, "R T D"] | None
    )  # the gradient at the unperturbed input of the same example; None where no term asks for it
    displacement: (
        Float[Tensor, "R T D"] | None
    )  # how far the point's path goes; None where no term asks for it


Term = Callable[[Row], Float[Tensor, "R T D"]]


def gradient(row: Row) -> Float[Tensor, "R T D"]:
    """∇F."""
    return row.gradient


def square(row: Row) -> Float[Tensor, "R T D"]:
    """(∇F)², element by element."""
    return row.gradient.square()


def deviation(row: Row) -> Float[Tensor, "R T D"]:
    """∇F - ∇F(x)."""
    assert row.clean is not None
    return row.gradient - row.clean


def squared_deviation(row: Row) -> Float[Tensor, "R T D"]:
    """(∇F - ∇F(x))²."""
    return deviation(row).square()


def product(row: Row) -> Float[Tensor, "R T D"]:
    """∇F times the displacement of the point's own path."""
    assert row.displacement is not None
    return row.gradient * row.displacement


def sloped(row: Row) -> Float[Tensor, "R T D"]:
    """∇F times dF/dα, the slope of F along the point's own path."""
    return row.gradient * product(row).sum((1, 2), keepdim=True)


#: Terms that need the clean gradient.
RELATIVE = {deviation, squared_deviation}

#: Terms that need the displacement.
DISPLACED = {product, sloped}


@dataclass(frozen=True)
class Moment:
    """The weighted means of `terms`, and what they come to."""

    name: str
    terms: tuple[Term, ...]
    finish: Callable[..., Float[Tensor, "B T D"]]

    @property
    def needs_displacement(self) -> bool:
        """Whether a term multiplies the displacement in."""
        return not DISPLACED.isdisjoint(self.terms)


MEAN = Moment("mean", (gradient,), lambda mean: mean)
SQUARE = Moment("square", (square,), lambda mean: mean)
PRODUCT = Moment("product", (product,), lambda mean: mean)
SLOPED = Moment("sloped", (sloped,), lambda mean: mean)

#: Var g = E (g - c)² - (E (g - c))² for any c. With the clean gradient as c both terms are of the size of the
#: variance itself, so that little cancels (Chan, Golub & LeVeque 1983, eq. 1.3); with c = 0, as in E g² - (E g)²,
#: a small variance is what two large numbers leave.
VARIANCE = Moment(
    "variance",
    (deviation, squared_deviation),
    lambda first, second: (second - first.square()).clamp_min(0),
)
