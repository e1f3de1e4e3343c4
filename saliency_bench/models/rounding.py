"""Rounding of float32 products (TensorFloat-32), and gradients of models in half precision."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

#: TensorFloat-32 is float32 with products of 10 bits, on NVIDIA GPUs.
TF32 = "tf32"

_INHERITED = "none"

#: The most rounding errors by which two orders of the same arithmetic may differ.
EPSILONS = 1024
#: The largest share, since in half precision so many rounding errors would allow any difference.
LARGEST_DIFFERENCE = 0.05


def rounding_share(
    dtype: torch.dtype, *, epsilons: int = EPSILONS, in_float32: bool = False
) -> float:
    """The most by which two ways to compute the same may differ, as a share of the largest number.

    Args:
        dtype: of the model.
        epsilons: the most rounding errors.
        in_float32: parts of the model may be computed in float32 whatever its weights are, as some norms and softmaxes.
    """
    epsilon = torch.finfo(dtype).eps
    if in_float32:
        epsilon = max(epsilon, torch.finfo(torch.float32).eps)
    return min(epsilons * epsilon, LARGEST_DIFFERENCE)


def coarse_share(dtype: torch.dtype) -> float:
    """A coarser limit, for checks that a model is sound: a thousand rounding errors, but at most a tenth."""
    return min(1e3 * torch.finfo(dtype).eps, 0.1)


def equal_within(values: Float[Tensor, "*N"], expected: Float[Tensor, "*N"], share: float) -> bool:
    """Whether numbers differ from the expected ones by no more than a share of the largest of these; other shapes do."""
    if values.shape != expected.shape:
        return False
    difference = float((values.double() - expected.double()).abs().max())
    return difference <= share * float(expected.double().abs().max())


class Scaling:
    """Keeps the gradients of a model in half precision near 1 in size.

    The gradient of a probability near 1 is too small for float16. So each row's gradient is multiplied by a power of two
    where it enters the model at its outputs, and divided by the same power at the embeddings, which are in float32. This
    rounds nothing.
    """

    def __init__(self) -> None:
        self._powers: Tensor | None = None

    def embeddings(self, values: Float[Tensor, "R T D"]) -> Float[Tensor, "R T D"]:
        """The same values; in the backward pass the power of two is divided out."""
        same: Tensor = _Changed.apply(values, self._taken_off)  # type: ignore[no-untyped-call]
        return same

    def outputs(self, values: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
        """The same values; in the backward pass each row's largest number is brought between 1/2 and 1."""
        same: Tensor = _Changed.apply(values, self._put_on)  # type: ignore[no-untyped-call]
        return same

    def _put_on(self, gradient: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
        largest = gradient.abs().amax(-1)
        usable = largest.isfinite() & (largest > 0)
        # A number over its mantissa is a power of two.
        self._powers = torch.where(usable, largest / torch.frexp(largest).mantissa, 1.0)
        return gradient / self._powers[:, None]

    def _taken_off(self, gradient: Float[Tensor, "R T D"]) -> Float[Tensor, "R T D"]:
        return gradient if self._powers is None else gradient * self._powers[:, None, None]


class _Changed(torch.autograd.Function):
    """The identity, whose gradient is changed by a function."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.change(*gradients), None


_CHANGED = threading.Condition()
#: The open calls of `products`, in order: the thread, whether it rounds, and the flags before the first of them.
_INSIDE: "list[tuple[int, bool, _Flags]]" = []


@contextmanager
def products(tf32: bool) -> Iterator[None]:
    """Turns TensorFloat-32 on or off while open; the setting of the process is restored at the end.

    The flags belong to the whole process. Threads that do not round share them; a thread that rounds waits until it is the
    only one.
    """
    this_thread = threading.get_ident()

    def may_enter() -> bool:
        return not any(thread != this_thread and (tf32 or rounds) for thread, rounds, _ in _INSIDE)

    with _CHANGED:
        _CHANGED.wait_for(may_enter)
        flags = _INSIDE[0][2] if _INSIDE else _Flags()
        entry = this_thread, tf32, flags
        _INSIDE.append(entry)
        flags.change(tf32)
    try:
        yield
    finally:
        with _CHANGED:
            _INSIDE.remove(entry)
            if _INSIDE:
                flags.change(_INSIDE[-1][1])
            else:
                flags.put_back()
            _CHANGED.notify_all()


class _Flags:
    """The original values of the process's flags.

    PyTorch has an older flag for all of its libraries, which cannot be read where the newer flags of single libraries
    contradict it. Where it can be read it is used, since torch.compile and others read it.
    """

    def __init__(self) -> None:
        self.older = _older()
        self.newer = [_value_of(flag) for flag in _flags()]

    def change(self, tf32: bool) -> None:
        """Turns rounding on or off."""
        if self.older is None:
            for flag, value in zip(_flags(), (TF32 if tf32 else "ieee", "ieee"), strict=True):
                flag.fp32_precision = value
        else:
            torch.set_float32_matmul_precision("high" if tf32 else "highest")

    def put_back(self) -> None:
        """Restores the flags."""
        if self.older is not None:
            torch.set_float32_matmul_precision(self.older)
        for flag, value in zip(_flags(), self.newer, strict=True):
            flag.fp32_precision = value


def _flags() -> tuple[Any, Any]:
    """The flags for products on NVIDIA GPUs and on CPUs."""
    return torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


def _older() -> str | None:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _value_of(flag: Any) -> str:
    """The value that was set for a flag; `none` where it inherits one."""
    value = str(flag.fp32_precision)
    flag.fp32_precision = _INHERITED
    if flag.fp32_precision == value:
        return _INHERITED
    flag.fp32_precision = value
    return value
