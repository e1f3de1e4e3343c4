"""Models with random weights in some of their layers, which are initialised as before training."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from saliency_bench.core.errors import InputError
from saliency_bench.models.model import Model
from saliency_bench.models.placement import refuse_spread
from saliency_bench.models.threads import PROCESS

EMBEDDINGS, HEAD = "embeddings", "head"


@dataclass(frozen=True)
class Stage:
    """A part of a model that is randomised as one; `parameters` are names within the module."""

    name: str
    parameters: tuple[str, ...]


def stages(module: nn.Module) -> list[Stage]:
    """The parts of a module from its output to its input: the head, the layers, the embeddings.

    Layers are the elements of the outermost `ModuleList`s. Weights that are registered before the first layer belong to the
    embeddings, those after the last layer to the head, and those between layers to the layer before them. A module
    without such lists is split into its children. Tied weights belong to the part that has them first.
    """
    names = [name for name, _ in module.named_parameters()]
    listed = _layers(module)
    layers = listed or [name for name, _ in module.named_children()]
    layer_of = {
        name: next((layer for layer in layers if name.startswith(f"{layer}.")), None)
        for name in names
    }
    last = max((place for place, name in enumerate(names) if layer_of[name]), default=-1)
    parts: dict[str, list[str]] = {}
    current = EMBEDDINGS
    for place, name in enumerate(names):
        current = HEAD if place > last else layer_of[name] or current
        parts.setdefault(current, []).append(name)
    several = len({part.rpartition(".")[0] for part in parts} - {""}) > 1
    return [
        Stage(_shown(part, several) if listed else part, tuple(weights))
        for part, weights in reversed(parts.items())
    ]


def fresh_weights(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """Weights of the same module before training, by name; on its device and of its type.

    A module of transformers is built anew from its configuration. In other modules, every part with `reset_parameters`
    is reset. The global generator is restored.

    Raises:
        InputError: some weights cannot be initialised anew.
    """
    refuse_spread(module, type(module).__name__, "randomising")
    like = next(module.parameters())
    with PROCESS, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if hasattr(module, "config") and hasattr(module, "_init_weights"):
            twin: nn.Module = type(module)(copy.deepcopy(module.config))
        else:
            twin = _restarted(module)
    weights = dict(twin.named_parameters())
    if weights.keys() != dict(module.named_parameters()).keys():
        raise InputError(
            f"a new {type(module).__name__} has other weights than this one, so that its layers cannot be randomised. "
            "Leave the section out: sections=[...]"
        )
    return {name: weight.detach().to(like.device, like.dtype) for name, weight in weights.items()}


def randomised(model: Model, parts: Sequence[Stage], fresh: Mapping[str, Tensor]) -> Model:
    """The model with the weights of some stages replaced by fresh ones; the model itself is not touched."""
    path = next(name for name, part in model.module.named_modules() if part is model.embedding)
    module = copy.deepcopy(model.module)
    weights = dict(module.named_parameters())
    with torch.no_grad():
        for name in (name for part in parts for name in part.parameters):
            weights[name].copy_(fresh[name])
    # A new object, since the proofs about the trained weights do not hold for these.
    return replace(model, module=module, embedding=module.get_submodule(path))


def _layers(module: nn.Module) -> list[str]:
    """The elements of the outermost lists of modules, in order."""
    layers: list[str] = []
    for name, part in module.named_modules():
        inside = any(f"{name}.".startswith(f"{layer}.") for layer in layers)
        if isinstance(part, nn.ModuleList) and not inside and [*part.parameters()]:
            layers += [f"{name}.{index}" for index in range(len(part))]
    return layers


def _shown(name: str, several: bool) -> str:
    """The name of a stage in tables: layers are counted from 1, with the name of their list where there are several."""
    owner, _, index = name.rpartition(".")
    if not owner:
        return name
    return f"{owner if several else 'layer'} {int(index) + 1}"


def _restarted(module: nn.Module) -> nn.Module:
    twin = copy.deepcopy(module)
    reached: set[int] = set()
    for part in twin.modules():
        if callable(reset := getattr(part, "reset_parameters", None)):
            reset()
            reached |= {id(weight) for weight in part.parameters(recurse=False)}
    if left := [name for name, weight in twin.named_parameters() if id(weight) not in reached]:
        raise InputError(
            f"{left[0]} belongs to a module without reset_parameters(), so that it cannot be initialised anew. "
            "Leave the section out: sections=[...]"
        )
    return twin
