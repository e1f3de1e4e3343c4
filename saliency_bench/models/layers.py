"""The layers of a transformer, with the value vectors of chosen tokens set to zero in their attention.

Attention goes through the interface of transformers. An implementation of ours is registered there under a name of its
own; it zeroes values and calls the model's own eager attention. The layers are found in one forward pass. They are those
members of a list of modules that call attention once each, where the input of each is the output of the one before it.
The model is restored at the end.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from saliency_bench.core.errors import InputError
from saliency_bench.models.attentions import (
    attention_by,
    configurations_with,
    transformer_of,
    without_additions,
)
from saliency_bench.models.model import Model

#: Our implementation of attention, as transformers finds it.
NAME = "saliency_bench_zeroed_values"

#: Runs one forward pass of the model.
ForwardPass = Callable[[], object]


@dataclass
class _Attention:
    """The state of attention in one thread: the tokens whose values stay, and the modules that have called it."""

    stays: Bool[Tensor, "R T"] | None = None
    callers: list[nn.Module] = field(default_factory=list)
    lengths: list[tuple[int, int]] = field(default_factory=list)  # of queries and of values


_ATTENTION: ContextVar[_Attention | None] = ContextVar("saliency_bench_attention", default=None)


class Layers:
    """The layers of a model, open for as long as `opened_layers` is."""

    def __init__(self, blocks: Sequence[nn.Module], attention: _Attention) -> None:
        self.blocks = blocks
        self.attention = attention

    def states(self, run: ForwardPass) -> list[Float[Tensor, "R T D"]]:
        """The input of the first layer in a pass, and the output of each layer."""
        with _watched(self.blocks) as (inputs, outputs):
            run()
        return [inputs[0], *outputs]

    def without_values(
        self,
        run: ForwardPass,
        stays: Bool[Tensor, "R T"],
        states: Sequence[Float[Tensor, "R T D"]],
    ) -> list[Float[Tensor, "R T D"]]:
        """The output of each layer where the values of tokens that do not stay are zero.

        Args:
            run: one pass.
            stays: the tokens whose values are kept.
            states: the input of each layer, as `states` returns them for a plain pass.
        """
        self.attention.stays = stays
        try:
            with _watched(self.blocks, instead=states) as (_, outputs):
                run()
        finally:
            self.attention.stays = None
        return outputs


@contextmanager
def opened_layers(model: Model, run: ForwardPass) -> Iterator[Layers]:
    """The layers of a model, found in one pass.

    Args:
        model: inside `Model.frozen`.
        run: the pass, over any rows.

    Raises:
        InputError: there is not one transformers model, its attention does not go through the interface of
            transformers, or its layers are no one chain.
    """
    transformer = transformer_of(model, "has no layers with attention")
    _register()
    attention = _Attention()
    token = _ATTENTION.set(attention)
    try:
        configs = configurations_with(transformer, "_attn_implementation_internal")
        with without_additions(model.module), attention_by(configs, NAME):
            run()
            blocks = _blocks(model, transformer, attention)
            yield Layers(blocks, attention)
    finally:
        _ATTENTION.reset(token)


def _blocks(model: Model, transformer: nn.Module, attention: _Attention) -> list[nn.Module]:
    if not attention.callers:
        parts = {type(module).__name__ for module in transformer.modules()}
        named = sorted(name for name in parts if "attention" in name.lower())
        raise InputError(
            f"value_zeroing: {', '.join(named) or 'nothing'} in {model.name} does not compute attention through the "
            "interface of transformers, where values could be zeroed. Use attention_rollout, or a gradient method."
        )
    paths = {module: path for path, module in transformer.named_modules()}
    members = [_member(transformer, paths[caller]) for caller in attention.callers]
    crossed = any(queries != values for queries, values in attention.lengths)
    blocks = [block for block in members if block is not None]
    if crossed or len(blocks) < len(members) or len({*map(id, blocks)}) < len(blocks):
        names = ", ".join(sorted({type(caller).__name__ for caller in attention.callers}))
        raise InputError(
            f"value_zeroing: expected layers in one list, each with one attention over the text, but in {model.name} "
            f"{names} is called otherwise (encoder-decoders, shared layers). Use attention_rollout, or a gradient method."
        )
    return blocks


def _member(transformer: nn.Module, path: str) -> nn.Module | None:
    """The outermost module on a path that is a member of a list."""
    module = transformer
    for name in path.split("."):
        inner = getattr(module, name)
        if isinstance(module, nn.ModuleList):
            return inner if isinstance(inner, nn.Module) else None
        module = inner
    return None


@contextmanager
def _watched(
    blocks: Sequence[nn.Module], instead: Sequence[Tensor] | None = None
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Records the inputs and outputs of the layers in a pass. The inputs are replaced by `instead` where it is given.

    Raises:
        InputError: the input of a layer is not the output of the one before it.
    """
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def before(block: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        key, state = _state(args, named)
        if outputs and not torch.equal(state.nan_to_num(), outputs[-1].nan_to_num()):
            raise InputError(
                f"value_zeroing: {type(block).__name__} does not get the output of the layer before it, so that the layers "
                "are no chain. Use attention_rollout, or a gradient method."
            )
        inputs.append(state)
        if instead is None:
            return None
        state = instead[len(inputs) - 1]
        if isinstance(key, int):
            return (*args[:key], state, *args[key + 1 :]), named
        return args, named | {key: state}

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        outputs.append(output if isinstance(output, Tensor) else output[0])

    handles = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks]
    handles += [block.register_forward_hook(after) for block in blocks]
    try:
        yield inputs, outputs
    finally:
        for handle in handles:
            handle.remove()


def _state(args: tuple[Any, ...], named: dict[str, Any]) -> tuple[int | str, Tensor]:
    """The states of the tokens among a layer's arguments, and their place: the first numbers [R T D]."""
    places: list[tuple[int | str, Any]] = [*enumerate(args), *named.items()]
    for key, value in places:
        if isinstance(value, Tensor) and value.ndim == 3 and value.is_floating_point():
            return key, value
    raise InputError("value_zeroing: expected layers that are given the states of tokens [B T D]")


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["eager"])


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **named: Any
) -> Any:
    """The eager attention of the module's own file, where the values of tokens that do not stay are zero."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    attention = _ATTENTION.get()
    if attention is not None:
        attention.callers.append(module)
        attention.lengths.append((query.shape[2], value.shape[2]))
        if attention.stays is not None:
            value = value.masked_fill(~attention.stays[:, None, :, None], 0.0)
    file = sys.modules[type(module).__module__]
    attend = getattr(file, "eager_attention_forward", sdpa_attention_forward)
    return attend(module, query, key, value, *rest, **named)
