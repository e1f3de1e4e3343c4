"""Facts about a module, also where it is inside a wrapper without a configuration (`DataParallel`, a user's own)."""

import inspect
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

#: Modules that have a configuration, by how deep they lie; the module itself is at depth 0.
Configured = Sequence[Sequence[nn.Module]]


def configured(module: nn.Module) -> Configured:
    """The modules with a `config` by depth, outermost first; the inside of a transformers model is skipped."""
    level, levels = [module], []
    while level:
        levels.append([part for part in level if getattr(part, "config", None) is not None])
        level = [child for part in level if not of_transformers(part) for child in part.children()]
    return levels


def fact(modules: Configured, name: str, *, of_head: bool = False) -> Any:
    """The value in the outermost configuration that has one; None where several at that depth disagree.

    `of_head`: the value describes the outputs. Then a bare encoder inside another module is skipped, since its
    configuration still describes the head that its checkpoint was trained with.
    """
    for depth, level in enumerate(modules):
        values = [
            value
            for part in level
            if not (of_head and depth and getattr(part, "base_model", None) is part)
            and (value := getattr(part.config, name, None)) is not None
        ]
        if values:
            return values[0] if all(value == values[0] for value in values) else None
    return None


def class_names_in(id2label: Any) -> tuple[str, ...]:
    """The names in a configuration's `id2label`, by class; none where its keys are not the numbers of all classes.

    The keys may be text, as JSON has them.
    """
    if not isinstance(id2label, Mapping):
        return ()
    try:
        names = {int(key): str(name) for key, name in id2label.items()}
    except (TypeError, ValueError):
        return ()
    if sorted(names) != list(range(len(id2label))):
        return ()
    return tuple(names[index] for index in range(len(names)))


def typical_weight(module: nn.Module) -> Tensor:
    """The weight that stands for the device and type of all: the first of floating point, parameters before buffers."""
    first = None
    for weight in chain(module.parameters(), module.buffers()):
        if weight.is_floating_point():
            return weight
        first = weight if first is None else first
    return torch.empty(0) if first is None else first


def embedding_tables(module: nn.Module) -> dict[str, nn.Embedding]:
    """The embedding tables inside a module, by name."""
    parts = module.named_modules()
    return {name: part for name, part in parts if isinstance(part, nn.Embedding)}


def called(module: nn.Module) -> nn.Module:
    """The module whose `forward` names the inputs, inside wrappers that pass on everything (`DataParallel`)."""
    inside = [*module.children()]
    if len(inside) == 1 and "input_ids" not in parameters_of(module):
        return called(inside[0])
    return module


def named_inputs(module: nn.Module) -> frozenset[str]:
    """The inputs that the module's `forward` names; with a PEFT adapter, those of the model inside too."""
    module = called(module)
    names = frozenset(parameters_of(module))
    inner = getattr(module, "get_base_model", None)
    return names | named_inputs(inner()) if callable(inner) else names


def parameters_of(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    """The named parameters of the module's `forward`."""
    parameters = inspect.signature(module.forward).parameters
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        name: parameter for name, parameter in parameters.items() if parameter.kind not in kinds
    }


def of_transformers(module: nn.Module) -> bool:
    """Whether the module is one of transformers, by its configuration."""
    return hasattr(getattr(module, "config", None), "model_type")
