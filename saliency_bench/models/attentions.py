"""Attention weights of a transformer's forward pass; the model is left as it was."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saliency_bench.core.errors import InputError
from saliency_bench.models.checkpoint import EAGER
from saliency_bench.models.intake import captured
from saliency_bench.models.model import Model
from saliency_bench.models.threads import restored

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Attentions:
    """The outputs of one model's forward passes; `take` returns the attention weights of the last one."""

    name: str
    device: torch.device
    outputs: list[Any]

    def take(self) -> tuple[Float[Tensor, "R H T T"], ...]:
        """The attention weights of the pass since the last call, a tensor for each layer, first layer first.

        Raises:
            InputError: there was not one pass, or it gave no square attention weights.
        """
        outputs = self.outputs.copy()
        self.outputs.clear()
        if len(outputs) != 1:
            raise InputError(
                f"model {self.name}: expected one call of its transformer per forward pass, but there were "
                f"{len(outputs)}, so that it is unclear which attention is meant. Use another method."
            )
        layers = getattr(outputs[0], "attentions", None)
        if not layers:
            raise InputError(
                f"model {self.name}: expected attention weights of all layers, but its transformer gives none (it returned "
                f"{type(outputs[0]).__name__}; encoder-decoders have no one chain of layers). Use another method."
            )
        for layer in layers:
            if layer.ndim != 4 or layer.shape[-1] != layer.shape[-2]:
                raise InputError(
                    f"model {self.name}: expected attention weights [B heads T T], but its transformer gives "
                    f"{tuple(layer.shape)}. Use another method."
                )
        return tuple(layer.to(self.device) for layer in layers)


@contextmanager
def recorded_attentions(model: Model) -> Iterator[Attentions]:
    """Records the attention weights of forward passes, whatever `forward` the model is called with.

    Only the eager implementation forms the weights, so it is used for the time, and logits may change in the last
    digits. What asking for attentions leaves behind (transformers 5 never removes its hooks) is taken away again.

    Raises:
        InputError: there is not one transformers model in the module.
    """
    transformer = transformer_of(model)
    with (
        without_additions(model.module),
        _eager(transformer),
        captured(transformer) as outputs,
    ):
        yield Attentions(model.name, model.device, outputs)


def transformer_of(model: Model, lacking: str = "gives no attention weights") -> "PreTrainedModel":
    """The one transformers model that the module is, or that it has inside.

    Raises:
        InputError: there is none, or there are several. `lacking` completes the message.
    """
    from transformers import PreTrainedModel

    def outermost(module: nn.Module) -> list[PreTrainedModel]:
        if isinstance(module, PreTrainedModel):
            return [module]
        return [inner for child in module.children() for inner in outermost(child)]

    transformers = outermost(model.module)
    if len(transformers) != 1:
        raise InputError(
            f"model {model.name} {lacking}: expected one transformers model in the module, "
            f"found {len(transformers)}. Use a method that needs none, such as integrated_gradients."
        )
    return transformers[0]


@contextmanager
def without_additions(root: nn.Module) -> Iterator[None]:
    """Removes, at the end, the hooks and attributes that the parts of a module did not have before."""
    before = {module: (set(module._forward_hooks), set(vars(module))) for module in root.modules()}
    try:
        yield
    finally:
        for module, (hooks, names) in before.items():
            for key in set(module._forward_hooks) - hooks:
                del module._forward_hooks[key]
            for name in set(vars(module)) - names:
                delattr(module, name)


def configurations_with(transformer: "PreTrainedModel", name: str) -> list[Any]:
    """The configurations of a transformer's parts that have the named attribute, each once."""
    configs = [getattr(module, "config", None) for module in transformer.modules()]
    return [*{id(config): config for config in configs if hasattr(config, name)}.values()]


@contextmanager
def attention_by(configs: Sequence[Any], name: str) -> Iterator[None]:
    """Sets the implementation of attention in configurations of transformers; it is restored at the end."""
    with restored(configs, "_attn_implementation_internal"):
        for config in configs:
            # Not through its setter, which also writes into the configurations of other parts.
            config._attn_implementation_internal = name
        yield


@contextmanager
def _eager(transformer: "PreTrainedModel") -> Iterator[None]:
    """Makes the transformer form and return attention weights; its configurations are restored at the end."""
    configs = configurations_with(transformer, "output_attentions")
    # Restored in the opposite order: output_attentions cannot be set to true while attention is not eager.
    with attention_by(configs, EAGER), restored(configs, "output_attentions"):
        for config in configs:
            config.output_attentions = True
        yield
