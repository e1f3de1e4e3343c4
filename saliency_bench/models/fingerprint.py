"""A fingerprint of a module, from its parts, their code and a few numbers of each weight, which shows any change."""

import sys
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import chain
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from saliency_bench.models.placement import every_hook, hooks_of

#: Numbers of each weight that are read, at equal distances.
SAMPLES = 8

#: Libraries whose code is identified by a version.
LIBRARIES = frozenset(
    # tqdm: its bars are among the names of transformers' generation, which computes nothing with them.
    {"torch", "transformers", "accelerate", "huggingface_hub", "safetensors", "tqdm"}
    | sys.stdlib_module_names
)
#: The types of attributes that a part computes with beside its weights. Others, such as counters and kept tensors, may
#: change in every pass.
_PLAIN = (bool, int, float, str, FunctionType)


def fingerprint(module: nn.Module) -> Hashable:
    """A value that changes as soon as the module computes anything else.

    It contains the module's parts with their plain attributes, hooks and code, and of each parameter and buffer its identity,
    type, device, address, version counter and `SAMPLES` of its numbers. PyTorch raises the counter with every change in
    place (an optimiser's step, `load_state_dict`). A change through `weight.data` or numpy raises none, and is seen if
    it changes one of these numbers. Training mode and `requires_grad` are no part of it: both are set
    for the time that a model is explained (`threads.frozen`). Of a part that accelerate has placed its devices are compared.
    Of offloaded weights only type and shape are compared, so that a change of their numbers is not seen.
    """
    parts = [*module.modules()]
    weights = [
        weight
        for part in parts
        for weight in (*part._parameters.values(), *part._buffers.values())
        if weight is not None
    ]
    code = frozenset(map(id, functions_of(parts)))
    return code, tuple(map(_of_part, parts)), tuple(map(_of_weight, weights)), _numbers(weights)


def portable_fingerprint(module: nn.Module) -> list[Any]:
    """The class and plain attributes of each part: the fingerprint without identities and weights, for another process."""
    return [
        [
            f"{type(part).__module__}.{type(part).__qualname__}",
            [pair for pair in plain_of(part) if not isinstance(pair[1], FunctionType)],
        ]
        for part in module.modules()
    ]


def of_libraries(module: nn.Module) -> bool:
    """Whether only code of PyTorch, transformers and other `LIBRARIES` decides what the module computes.

    A class, hook or function from elsewhere makes it false, and so does a function that replaces one of a library.
    """
    parts = [*module.modules()]
    if any(_is_overridden(part) or _hooks(part) for part in parts):
        return False
    return all(_library(item) in LIBRARIES for item in chain(functions_of(parts), map(type, parts)))


def _is_overridden(part: nn.Module) -> bool:
    """Whether a part computes more than its class's `forward`; accelerate's own hooks, which call it, do not count."""
    if not hooks_of(part):
        return "forward" in vars(part)
    called = getattr(vars(part).get("_old_forward"), "__func__", None)
    outer = getattr(vars(part).get("forward"), "func", None)
    if called is not type(part).forward or outer is None:
        return True
    return any(_library(item) != "accelerate" for item in (outer, *map(type, every_hook(part))))


def functions_of(parts: Sequence[nn.Module]) -> Iterator[FunctionType]:
    """The functions of the parts' classes, and of the files that define these classes."""
    classes = {base for part in parts for base in type(part).__mro__}
    files = [sys.modules.get(name) for name in {base.__module__ for base in classes}]
    for place in (*classes, *(file for file in files if file is not None)):
        yield from (value for value in vars(place).values() if isinstance(value, FunctionType))


def plain_of(part: nn.Module) -> list[tuple[str, Any]]:
    """The plain attributes of a part by name, functions among them."""
    return [
        (name, value)
        for name, value in vars(part).items()
        if isinstance(value, _PLAIN) and name != "training" and name[0] != "_"
    ]


def _library(item: Any) -> str:
    return str(item.__module__).split(".")[0]


def _of_part(part: nn.Module) -> Hashable:
    placed = tuple((str(hook.execution_device), hook.offload) for hook in hooks_of(part))
    hooks = *_hooks(part), *map(id, every_hook(part))
    plain = ((name, id(v) if isinstance(v, FunctionType) else v) for name, v in plain_of(part))
    return id(part), id(type(part)), hooks, placed, *plain


def _hooks(part: nn.Module) -> tuple[int, ...]:
    """The numbers of a part's hooks, each of which PyTorch uses only once."""
    return *part._forward_hooks, *part._forward_pre_hooks, *part._backward_hooks


def _of_weight(weight: Tensor) -> Hashable:
    if weight.is_meta:  # another one after each pass
        return weight.dtype, weight.shape
    version = None if weight.is_inference() else weight._version
    return id(weight), version, weight.data_ptr(), weight.dtype, weight.device, weight.shape


def _numbers(weights: Iterable[Tensor]) -> Hashable:
    """A few numbers of each weight, by type and device; as bytes, since NaN is not equal to itself."""
    picked: dict[Hashable, list[Tensor]] = {}
    for weight in (weight for weight in weights if not weight.is_meta):
        flat = weight.detach().reshape(-1)
        step = max(1, len(flat) // SAMPLES)
        picked.setdefault((weight.dtype, weight.device), []).append(flat[::step])
    numbers = (torch.cat(some).cpu().view(torch.uint8) for some in picked.values())
    return tuple(some.numpy().tobytes() for some in numbers)
