"""The type, the attention and the device that a loaded model gets."""

import re
from typing import Any, TypedDict

import torch
from torch import nn

from saliency_bench.core.errors import InputError, one_of, unknown
from saliency_bench.models.checkpoint import EAGER
from saliency_bench.models.heads import SEQUENCE_CLASSIFICATION
from saliency_bench.models.model import Model
from saliency_bench.models.placement import PLACEMENT, device_of, placement_of
from saliency_bench.models.rounding import TF32
from saliency_bench.models.wrapping import model_of

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    TF32: torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
ATTENTION = ("sdpa", EAGER)


class LoadOptions(TypedDict, total=False):
    """Options for loading a bundled model; the defaults are those of `load_model`."""

    dtype: str
    device: str
    attention: str


def resolve_device(device: str) -> torch.device:
    """The device of that name; "auto" is the CPU where there is no GPU.

    Raises:
        InputError: there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise unknown("runtime.device", device, ["auto", "cpu", "cuda", "cuda:0"])
    if device.startswith("cuda") and (
        not torch.cuda.is_available()
        or (torch.device(device).index or 0) >= torch.cuda.device_count()
    ):
        raise InputError(
            f"runtime.device={device}: there is no such GPU here. Use runtime.device=cpu or auto."
        )
    return torch.device(device)


def check_runtime(dtype: str, attention: str) -> None:
    """Refuses an unknown dtype or attention implementation."""
    one_of("runtime.dtype", dtype, DTYPES)
    one_of("runtime.attention", attention, ATTENTION)


def finish(
    module: nn.Module,
    tokenizer: Any,
    name: str,
    device: str,
    dtype: str,
    facts: dict[str, Any],
    task: str = SEQUENCE_CLASSIFICATION,
) -> Model:
    """The model of a loaded module, in eval mode and on its device; `facts` are what its manifest says of it."""
    placed = placement_of(module)
    where = resolve_device(device) if placed is None else device_of(module)
    if dtype == TF32 and where.type != "cuda":
        raise InputError(
            f"runtime.dtype={TF32} needs an NVIDIA GPU, and the device is {where.type}: use float32"
        )
    return model_of(
        (module.to(where) if placed is None else module).eval(),
        tokenizer,
        task=task,
        name=name,
        facts=facts if placed is None else facts | {PLACEMENT: placed},
        tf32=dtype == TF32,
    )
