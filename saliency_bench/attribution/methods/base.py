"""What a method is: a function of a `Context` and its hyperparameters that says what is added up, and how."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from saliency_bench.attribution.noise import Draws
from saliency_bench.attribution.points import Points
from saliency_bench.attribution.statistics import MEAN, Moment
from saliency_bench.core.method_facts import COLOR, Role
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
    given, is a moment of whole draws: the square or the variance of one draw's sum. `model(i)`, where given, is open
    while the gradients of draw i are taken: each draw has a model of its own.
    """

    points: Points
    draws: Draws
    sample: Callable[[int], Sequence[tuple[Any, float]]]
    moment: Moment = MEAN
    across: Moment | None = None
    multiplier: Float[Tensor, "B T D"] | None = None
    difference: Float[Tensor, " B"] | None = None
    model: Callable[[int], AbstractContextManager[None]] | None = None


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


@dataclass(frozen=True)
class About:
    """What a method says of itself beside its kind, for people, figures and checks.

    `label` is how it is written in text. `family` is the method whose variant it is, or its own name where
    others are variants of it; figures show these first. `color` is "#RRGGBB"; without one it is a shade of the
    family's colour, or one that follows from the name. `signed` says whether scores can be negative, before any
    reduction to lengths (None: the scores tell). `role` is "method", "chance", "baseline" or "bound".
    `explains_output=False` says that the explained output has no say. `dot_twin` is the method that this one is when
    its gradient is multiplied with the input, `limit` the method whose many steps it comes close to with more of its
    own, `at_input` that the gradient at the input is all it needs of the model, `calibrated` that it has
    quadrature=calibrated, and `backward` that its gradients may be taken by a backward
    rule; `own_gradient` says why they may not, where it is not clear from its kind. `sums_to` says in words what the
    scores of a text sum to, where the method claims it.
    """

    label: str
    family: str | None = None
    color: str | None = None
    signed: bool | None = None
    role: Role = "method"
    explains_output: bool = True
    dot_twin: str | None = None
    limit: str | None = None
    at_input: bool = False
    calibrated: bool = False
    backward: bool = False
    own_gradient: str | None = None
    sums_to: str | None = None

    def __post_init__(self) -> None:
        if self.color is not None and not COLOR.fullmatch(self.color):
            raise ValueError(f"color={self.color!r}: expected #RRGGBB")


#: What methods say of themselves, by name.
ABOUT: dict[str, About] = {}


def method(
    kind: Kind, *, only: str | None = None, label: str | None = None, **about: Any
) -> Callable[[Method], Method]:
    """Registers a method under its function's name.

    Args:
        kind: what its raw values are.
        only: the one backend that it has, if it is another's.
        label: how it is written in text; the function's name without one.
        about: further fields of `About`. Squares have no sign; gradients and products do, unless it is said otherwise.
    """

    def register(function: Method) -> Method:
        name = function.__name__
        sign = None if kind == "token" else kind != "square"
        said = About(label or name.replace("_", " ").capitalize(), **{"signed": sign} | about)
        KINDS[name], ABOUT[name] = kind, said
        if only is not None:
            ONLY[name] = only
        return METHODS.add(name, function)

    return register
