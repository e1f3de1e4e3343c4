"""What a conformance test says of an architecture: numbers that must be rounding errors, or why there are none."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from saliency_bench.core.errors import InputError
from saliency_bench.models.model import Model, frozen

PASSES, REFUSED, NOT_BUILT, WRONG = "passes", "refused", "not built", "wrong"

#: Scores must be those of Captum and of the table in float64 within this. Some models compute a softmax, rotations or
#: a state in float32 whatever their weights are, which padding rounds in another way: a hundred of its rounding errors.
SAME, SAME_IN_FLOAT32 = 1e-9, 1e-5


@dataclass(frozen=True)
class Finding:
    """The result of one architecture."""

    name: str
    status: str
    reason: str = ""

    def row(self) -> dict[str, str]:
        """For a table: numbers to two digits."""
        return {key: cell(value) for key, value in asdict(self).items()}

    def within(self, limits: Mapping[str, float], *faults: str) -> Self:
        """The same, but wrong where a number is above its limit (or no number), or where there are other faults."""
        numbers = {key: getattr(self, key) for key in limits}
        bad = [f"{key} {numbers[key]:.2g}" for key in limits if not numbers[key] <= limits[key]]
        reason = ", ".join([*bad, *faults])
        return replace(self, status=WRONG, reason=reason) if reason else self


F = TypeVar("F", bound=Finding)


def examined(
    kind: type[F], name: str, build: Callable[[], nn.Module], measure: Callable[[nn.Module], F]
) -> F:
    """Builds an architecture and measures it; with the reason where it cannot be built, is refused or fails."""
    try:
        module = build()
    except Exception as error:  # of many kinds: a missing library, an impossible configuration
        return kind(name, NOT_BUILT, _short(error))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return measure(module)
    except InputError as error:
        return kind(name, REFUSED, _short(error))
    except Exception as error:  # what the probe should have refused
        return kind(name, WRONG, f"{type(error).__name__}: {_short(error)}")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def cell(value: str | float | None) -> str:
    """A value as text."""
    if value is None:
        return ""
    return f"{value:.1e}" if isinstance(value, float) else str(value)


def difference(values: Tensor | np.ndarray, expected: Tensor | np.ndarray) -> float:
    """The largest difference, relative to the largest expected number."""
    values, expected = (np.asarray(torch.as_tensor(side).detach()) for side in (values, expected))
    return float(np.abs(values - expected).max() / np.abs(expected).max())


def table_gradient(
    model: Model, output: Callable[[], Tensor], weights: Tensor | None = None
) -> Tensor:
    """The gradient [V D] of an output (weighted) at the embedding table, in a pass that nothing of ours takes part in."""
    table = model.embedding.weight
    with frozen(model.module), torch.enable_grad():
        table.requires_grad_(True)
        (gradient,) = torch.autograd.grad(output(), table, weights)
    return gradient
