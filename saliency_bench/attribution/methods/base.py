"""Plans and the registry of methods.

A method is a function of a `Context` and hyperparameters that returns a plan: the gradients to add up and their weights.
"""

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
from saliency_bench.core.tensors import Attribution, Uncertainty

#: The kind of a method's values, on which the possible reductions depend: "gradient" (not multiplied by the input),
#: "square" (of gradients, never negative), "product" (multiplied by the input), "token" (one number per token already).
Kind = Literal["gradient", "square", "product", "token"]


@dataclass(frozen=True)
class GradientSum:
    """multiplier ⊙ Σ_s weights[s] ∇F(points at nodes[s]): the general form of a gradient method.

    `moment` is the statistic of the gradients that is added up. `difference` is F(x) - F(x') if the method claims that its
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

    `sample(i)` returns the nodes of draw i and their weights. `moment` is the statistic over single points. `across`, if
    not None, is the statistic over whole draws: the square or the variance of the sum of a draw. `model(i)`, if not None,
    is a context manager that changes the model's weights while the gradients of draw i are taken.
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
    """The result of a method that computes by itself: one vector per token before the reduction, and its cost."""

    values: Float[Tensor, "B T D"]
    n_gradients: int | Int[np.ndarray, " B"]
    difference: Float[Tensor, " B"] | None = None
    convergence: Uncertainty | None = None


Plan = GradientSum | Expectation
Method = Callable[..., Plan | Values | Attribution]
METHODS: Registry[Method] = Registry("method", "saliency_bench.methods")

KINDS: dict[str, Kind] = {}

#: The backend of each method that only one backend has.
ONLY: dict[str, str] = {}


@dataclass(frozen=True)
class About:
    """Facts of a method beside its kind, for reports, figures and checks.

    Attributes:
        label: its name in text.
        family: the method of which it is a variant, or its own name if it has variants; figures show these first.
        color: "#RRGGBB". If None, it is a shade of the family's colour, or is derived from the name.
        signed: whether scores can be negative before a reduction to lengths. If None, it is read off the scores.
        role: "method", "chance", "baseline" or "bound".
        explains_output: whether the scores depend on the output that is explained.
        dot_twin: the method that has the numbers of this one multiplied by the input.
        limit: the method to which this one converges with more steps.
        at_input: whether the gradient at the input is the only one that it needs.
        calibrated: whether it has quadrature=calibrated.
        backward: whether its gradients may be taken by a backward rule.
        no_rule: the reason for which they may not, if it does not follow from the kind.
        sums_to: the sum of a text's scores in words, if the method claims one.
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
    no_rule: str | None = None
    sums_to: str | None = None

    def __post_init__(self) -> None:
        if self.color is not None and not COLOR.fullmatch(self.color):
            raise ValueError(f"color={self.color!r}: expected #RRGGBB")


#: The facts of methods, by name.
ABOUT: dict[str, About] = {}


def method(
    kind: Kind, *, only: str | None = None, label: str | None = None, **about: Any
) -> Callable[[Method], Method]:
    """Registers a method under its function's name.

    Args:
        kind: the kind of its values.
        only: its backend, if only one backend has it.
        label: its name in text; by default the function's name.
        about: further fields of `About`. By default squares have no sign, and gradients and products have one.
    """

    def register(function: Method) -> Method:
        name = function.__name__
        sign = None if kind == "token" else kind != "square"
        text = label or name.replace("_", " ").capitalize()
        KINDS[name], ABOUT[name] = kind, About(text, **{"signed": sign} | about)
        if only is not None:
            ONLY[name] = only
        return METHODS.add(name, function)

    return register
