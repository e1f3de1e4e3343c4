"""Checks for states in which no model can be explained; their messages name the cause, not the symptoms."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from saliency_bench.core.errors import InputError


def refuse_compiled(module: nn.Module) -> None:
    """Refuses a module compiled by `torch.compile`: compiled code ignores hooks on its layers.

    Raises:
        InputError: a part of it is compiled.
    """
    for part in module.modules():
        if "_orig_mod" in part._modules or getattr(part, "_compiled_call_impl", None) is not None:
            raise InputError(
                f"{type(module).__name__} is compiled (torch.compile), so that its embeddings cannot be replaced. Give the "
                "module as it was before: what torch.compile was given, or the compiled module's _orig_mod."
            )


def refuse_autocast(device: torch.device) -> None:
    """Refuses to compute inside `torch.autocast`, where a model computes in another type than its own.

    Raises:
        InputError: autocast is enabled for this kind of device.
    """
    if torch.is_autocast_enabled(device.type):
        dtype = str(torch.get_autocast_dtype(device.type)).removeprefix("torch.")
        raise InputError(
            f"called inside torch.autocast({device.type!r}), where the model computes in {dtype} and not in its own type. "
            f"Call outside of it, with a model of dtype={dtype} if that is what is wanted."
        )


def refuse_inference_mode() -> None:
    """Refuses gradients where PyTorch records none.

    Raises:
        InputError: called inside `torch.inference_mode`.
    """
    if torch.is_inference_mode_enabled():
        raise InputError(
            "called inside torch.inference_mode(), where nothing has a gradient. Call outside of it; torch.no_grad() is fine."
        )


def refuse_inference_weights(weights: Iterable[Tensor]) -> None:
    """Refuses weights that can neither be frozen nor have a gradient.

    Raises:
        InputError: they were created inside `torch.inference_mode`, and are used outside of it.
    """
    if torch.is_inference_mode_enabled():
        return
    if any(weight.is_inference() and not weight.is_meta for weight in weights):
        raise InputError(
            "the model's weights were made inside torch.inference_mode(), so that nothing they compute has a gradient. Load "
            "the model outside of it."
        )


def adapter_note(module: nn.Module) -> str:
    """Advice about a PEFT adapter that is not merged, to append to a message; empty where there is none.

    Most such models can be explained as they are. Adapters of the embedding layer read the ids by themselves.
    """
    if any(type(part).__module__.startswith("peft.") for part in module.modules()):
        return " The likely cause is an adapter of PEFT that is not merged: give what the model's merge_and_unload() returns."
    return ""
