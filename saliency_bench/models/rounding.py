"""How products of float32 matrices are rounded while a model is asked."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

#: TensorFloat-32 is float32 with products of 10 bits, on NVIDIA GPUs.
TF32 = "tf32"

_INHERITED = "none"


@contextmanager
def products(tf32: bool) -> Iterator[None]:
    """Products rounded to TensorFloat-32, or not, whatever the process has set, which is found again afterwards.

    PyTorch has an older flag for all of its libraries, which refuses to be read where somebody has set the newer ones
    of each in another way. Where it can be read it is used, since others read it (torch.compile does).
    """
    flags = _flags()
    older = _older()
    before = [_own(one) for one in flags]
    try:
        if older is None:
            for one, value in zip(flags, (TF32 if tf32 else "ieee", "ieee"), strict=True):
                one.fp32_precision = value
        else:
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
        yield
    finally:
        if older is not None:
            torch.set_float32_matmul_precision(older)
        for one, value in zip(flags, before, strict=True):
            one.fp32_precision = value


def _flags() -> tuple[Any, Any]:
    """Of products on NVIDIA GPUs and on CPUs."""
    return torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


def _older() -> str | None:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _own(flag: Any) -> str:
    """What a flag says of itself: read, it gives what it inherits where it says nothing."""
    value = str(flag.fp32_precision)
    flag.fp32_precision = _INHERITED
    if flag.fp32_precision == value:
        return _INHERITED
    flag.fp32_precision = value
    return value
