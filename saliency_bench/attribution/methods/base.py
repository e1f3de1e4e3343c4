"""What a method is: a function of a `Context` and its hyperparameters that says what is added up, and how."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from saliency_bench.attribution.noise import Draws
from saliency_bench.attribution.points import Points
from saliency_bench.attribution.statistics import MEAN, Moment
from saliency_bench.core.registry import Registry
from saliency_bench.core.tensors import Attribution, Convergence

#: What a method's raw values are, which decides how they may be reduced to one number per token:
#: "gradient" (nothing multiplied in), "square" (of gradients, never negative), "product" (the input multiplied in),
#: "token" (one number already).
Kind = Literal["gradient", "square", "product", "token"]


@dataclass(frozen=True)
class GradientSum:
    """multiplier ⊙ Σ_s weights[s] ∇F(points at nodes[s]): what a gradient method is.

    `moment` says what of the gradients is added up. `difference` is F(x) - F(x') where the method claims that its
    scores sum to it (completeness).
    """

    points: Points
    nodes: Sequence[Any]
    weights: Sequence[float]
    moment: Moment = MEAN
    multiplier: Float[Tensor, "B T D"] | None = None
    difference: Float[Tensor, " B"] | None = None


@dataclass(frozen=True)
class Expectation:
    """The mean over random draws of Σ_s w_s ∇F(p_s): a `GradientSum` whose points are drawn.

    `sample(i)` gives the nodes of draw i and their weights. `moment` is that of single points; `across`, where
    given, is a moment of whole draws: the square or the variance of one draw's sum.
    """

    points: Points
    draws: Draws
    sample: Callable[[int], Sequence[tuple[Any, float]]]
    moment: Moment = MEAN
    across: Moment | None = None
    multiplier: Float[Tensor, "B T D"] | None = None
    difference: Float[Tensor, " B"] | None = None


@dataclass(frozen=True)
class Values:
    """What a method computed by itself: one vector per token, still to be reduced, and what it cost."""

    values: Float[Tensor, "B T D"]
    n_gradients: int | Int[np.ndarray, " B"]
    difference: Float[Tensor, " B"] | None = None
    convergence: Convergence | None = None


Plan = GradientSum | Expectation
Method = Callable[..., Plan | Values | Attribution]
METHODS: Registry[Method] = Registry("method", "saliency_bench.methods")

KINDS: dict[str, Kind] = {}

#: The backend of methods that only one has.
ONLY: dict[str, str] = {}


def method(kind: Kind, *, only: str | None = None) -> Callable[[Method], Method]:
    """Registers a method under its function's name; `only` names the one backend that it has, if it is another's."""

    def register(function: Method) -> Method:
        KINDS[function.__name__] = kind
        if only is not None:
            ONLY[function.__name__] = only
        return METHODS.add(function.__name__, function)

    return register
