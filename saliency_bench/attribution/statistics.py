"""Statistics of gradients over points: their mean, square or variance, or the mean of their product with the displacement.

A moment consists of terms, each a function of the gradient at one point, and of a function of the weighted means of the
terms. Terms are added up while gradients are computed, so that every gradient is computed once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Row(NamedTuple):
    """Gradients at the points of rows, with the other inputs of terms; None where no term uses them.

    `clean` is the gradient at the unperturbed input of the same example, `displacement` the vector from the start to the
    end of the point's path.
    """

    gradient: Float[Tensor, "R T D"]
    clean: Float[Tensor, "R T D"] | None
    displacement: Float[Tensor, "R T D"] | None


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
    """A statistic of gradients: `finish` computes it from the weighted means of `terms`."""

    name: str
    terms: tuple[Term, ...]
    finish: Callable[..., Float[Tensor, "B T D"]]


MEAN = Moment("mean", (gradient,), lambda mean: mean)
SQUARE = Moment("square", (square,), lambda mean: mean)
PRODUCT = Moment("product", (product,), lambda mean: mean)
SLOPED = Moment("sloped", (sloped,), lambda mean: mean)

#: Var g = E (g - c)² - (E (g - c))² for any c. With the clean gradient as c both terms have the size of the variance, so
#: that little cancels (Chan, Golub & LeVeque 1983, eq. 1.3). With c = 0, as in E g² - (E g)², a small variance would be
#: the difference of two large numbers.
VARIANCE = Moment(
    "variance",
    (deviation, squared_deviation),
    lambda first, second: (second - first.square()).clamp_min(0),
)
