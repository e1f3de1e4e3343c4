"""A model whose weights are random in some of its layers, and initialised as the model itself would be."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from saliency_bench.core.errors import InputError
from saliency_bench.models.model import Model
from saliency_bench.models.threads import PROCESS

EMBEDDINGS, HEAD = "embeddings", "head"


@dataclass(frozen=True)
class Stage:
    """A part of a model that is randomised as one; `parameters` are names within the module."""

    name: str
    parameters: tuple[str, ...]


def stages(module: nn.Module) -> list[Stage]:
    """The parts of a module from its output to its input: the head, the layers, the embeddings.

    Layers are the elements of the outermost `ModuleList`s. What is registered before the first of them embeds, what
    comes after the last is the head, and what stands between belongs to the layer before it. A module without such
    lists is taken apart into its children. Weights that are tied belong to the part that has them first.
    """
    names = [name for name, _ in module.named_parameters()]
    layers = _layers(module) or [name for name, _ in module.named_children()]
    of = {name: next((one for one in layers if name.startswith(f"{one}.")), None) for name in names}
    last = max((place for place, name in enumerate(names) if of[name]), default=-1)
    found: dict[str, list[str]] = {}
    current = EMBEDDINGS
    for place, name in enumerate(names):
        current = HEAD if place > last else of[name] or current
        found.setdefault(current, []).append(name)
    listed = list(found) if not _layers(module) else [*_numbered(found)]
    return [
        Stage(shown, tuple(own))
        for shown, own in reversed(list(zip(listed, found.values(), strict=True)))
    ]


def fresh_weights(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """The weights that a module like this one has before it is trained, by name; on its device and of its type.

    A module of transformers is built anew from its configuration. Of another one, every part with `reset_parameters`
    starts again. The global generator is left as it was.

    Raises:
        InputError: some weights cannot be initialised anew.
    """
    like = next(module.parameters())
    with PROCESS, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        twin = _rebuilt(module) if _configured(module) else _restarted(module)
    weights = dict(twin.named_parameters())
    if weights.keys() != dict(module.named_parameters()).keys():
        raise InputError(
            f"a new {type(module).__name__} has other weights than this one, so that its layers cannot be randomised. "
            "Leave the section out: sections=[...]"
        )
    return {name: one.detach().to(like.device, like.dtype) for name, one in weights.items()}


def randomised(model: Model, parts: Sequence[Stage], fresh: Mapping[str, Tensor]) -> Model:
    """The model with the weights of some stages replaced by fresh ones; the model itself is not touched."""
    path = next(name for name, one in model.module.named_modules() if one is model.embedding)
    module = copy.deepcopy(model.module)
    own = dict(module.named_parameters())
    with torch.no_grad():
        for name in (name for part in parts for name in part.parameters):
            own[name].copy_(fresh[name])
    # A new object: what was proved of the trained weights is not known of these.
    return replace(model, module=module, embedding=module.get_submodule(path))


def _layers(module: nn.Module) -> list[str]:
    """The elements of the outermost lists of modules, in order."""
    found: list[str] = []
    for name, one in module.named_modules():
        inside = any(name.startswith(f"{layer}.") or name == layer for layer in found)
        if (
            isinstance(one, nn.ModuleList)
            and not inside
            and next(one.parameters(), None) is not None
        ):
            found += [f"{name}.{index}" for index in range(len(one))]
    return found


def _numbered(found: Mapping[str, Sequence[str]]) -> list[str]:
    """Names of stages as people count them: layers from 1, each list by its own name where there are several."""
    lists = list(
        dict.fromkeys(one.rpartition(".")[0] for one in found if one not in (EMBEDDINGS, HEAD))
    )
    shown = []
    for one in found:
        if one in (EMBEDDINGS, HEAD):
            shown.append(one)
            continue
        owner, _, index = one.rpartition(".")
        word = "layer" if len(lists) == 1 else owner
        shown.append(f"{word} {int(index) + 1}")
    return shown


def _configured(module: nn.Module) -> bool:
    return hasattr(module, "config") and hasattr(module, "_init_weights")


def _rebuilt(module: nn.Module) -> nn.Module:
    twin: nn.Module = type(module)(copy.deepcopy(module.config))
    return twin


def _restarted(module: nn.Module) -> nn.Module:
    twin = copy.deepcopy(module)
    reached: set[int] = set()
    for one in twin.modules():
        if callable(reset := getattr(one, "reset_parameters", None)):
            reset()
            reached |= {id(weight) for weight in one.parameters(recurse=False)}
    if left := [name for name, weight in twin.named_parameters() if id(weight) not in reached]:
        raise InputError(
            f"{left[0]} belongs to a module without reset_parameters(), so that it cannot be initialised anew. "
            "Leave the section out: sections=[...]"
        )
    return twin
