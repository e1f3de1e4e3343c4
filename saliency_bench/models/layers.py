"""A transformer's layers with one token's value vector zeroed in their attention, from a model left as it was found.

Attention goes through the interface of transformers: an implementation of ours is registered there under a name of its
own, zeroes values and hands on to the model's own eager attention. Which modules are layers is seen in a pass: those
members of a list of modules that call attention once each, and of which each is given what the one before it gave.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from saliency_bench.core.errors import InputError
from saliency_bench.models.attentions import left_as_found, transformer_of
from saliency_bench.models.model import Model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Our implementation of attention, as transformers finds it.
NAME = "saliency_bench_zeroed_values"

#: One forward pass of the model.
Run = Callable[[], object]


@dataclass
class _Attention:
    """What attention does in the passes of one thread: whose values stay, and which modules have called it."""

    stays: Bool[Tensor, "R T"] | None = None
    callers: list[nn.Module] = field(default_factory=list)
    lengths: list[tuple[int, int]] = field(default_factory=list)  # of queries and of values


_NOW: ContextVar[_Attention | None] = ContextVar("saliency_bench_attention", default=None)


class Layers:
    """The layers of a model, open for as long as `opened_layers` is."""

    def __init__(self, blocks: Sequence[nn.Module], attention: _Attention) -> None:
        self.blocks = blocks
        self.attention = attention

    def states(self, run: Run) -> list[Float[Tensor, "R T D"]]:
        """What the first layer is given in a pass, and what each layer gives."""
        with _watched(self.blocks) as (given, outputs):
            run()
        return [given[0], *outputs]

    def without_values(
        self, run: Run, stays: Bool[Tensor, "R T"], states: Sequence[Float[Tensor, "R T D"]]
    ) -> list[Float[Tensor, "R T D"]]:
        """What each layer gives of `states`, those of a plain pass, where the values of tokens that do not stay are zero."""
        self.attention.stays = stays
        try:
            with _watched(self.blocks, instead=states) as (_, outputs):
                run()
        finally:
            self.attention.stays = None
        return outputs


@contextmanager
def opened_layers(model: Model, run: Run) -> Iterator[Layers]:
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
    token = _NOW.set(attention)
    try:
        with left_as_found(model.module), _implementation(transformer, NAME):
            run()
            blocks = _blocks(model, transformer, attention)
            yield Layers(blocks, attention)
    finally:
        _NOW.reset(token)


def _blocks(model: Model, transformer: nn.Module, attention: _Attention) -> list[nn.Module]:
    if not attention.callers:
        parts = {type(one).__name__ for one in transformer.modules()}
        named = sorted(name for name in parts if "attention" in name.lower())
        raise InputError(
            f"value_zeroing: {', '.join(named) or 'nothing'} in {model.name} does not compute attention through the "
            "interface of transformers, where values could be zeroed. Use attention_rollout, or a gradient method."
        )
    paths = {module: path for path, module in transformer.named_modules()}
    found = [_member(transformer, paths[caller]) for caller in attention.callers]
    crossed = any(queries != values for queries, values in attention.lengths)
    blocks = [block for block in found if block is not None]
    if crossed or len(blocks) < len(found) or len({*map(id, blocks)}) < len(blocks):
        names = ", ".join(sorted({type(one).__name__ for one in attention.callers}))
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
    """What the layers are given and give in a pass; they are given `instead` where it is there.

    Raises:
        InputError: a layer is not given what the one before it gave.
    """
    given: list[Tensor] = []
    outputs: list[Tensor] = []

    def before(block: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        key, state = _state(args, named)
        if outputs and not torch.equal(state.nan_to_num(), outputs[-1].nan_to_num()):
            raise InputError(
                f"value_zeroing: {type(block).__name__} is not given what the layer before it gave, so that the layers "
                "are no chain. Use attention_rollout, or a gradient method."
            )
        given.append(state)
        if instead is None:
            return None
        own = instead[len(given) - 1]
        if isinstance(key, int):
            return (*args[:key], own, *args[key + 1 :]), named
        return args, named | {key: own}

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        outputs.append(output if isinstance(output, Tensor) else output[0])

    handles = [one.register_forward_pre_hook(before, with_kwargs=True) for one in blocks]
    handles += [one.register_forward_hook(after) for one in blocks]
    try:
        yield given, outputs
    finally:
        for handle in handles:
            handle.remove()


def _state(args: tuple[Any, ...], named: dict[str, Any]) -> tuple[int | str, Tensor]:
    """Where a layer is given the states of its tokens: the first numbers [R T D] among its arguments."""
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
    """The eager attention of the module's own file, with values that do not stay zeroed."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    now = _NOW.get()
    if now is not None:
        now.callers.append(module)
        now.lengths.append((query.shape[2], value.shape[2]))
        if now.stays is not None:
            value = value.masked_fill(~now.stays[:, None, :, None], 0.0)
    file = sys.modules[type(module).__module__]
    attend = getattr(file, "eager_attention_forward", sdpa_attention_forward)
    return attend(module, query, key, value, *rest, **named)


@contextmanager
def _implementation(transformer: "PreTrainedModel", name: str) -> Iterator[None]:
    """Attention is computed by the named implementation; every part has its configuration back afterwards."""
    parts = [getattr(module, "config", None) for module in transformer.modules()]
    configs: list[Any] = list(
        {id(one): one for one in parts if hasattr(one, "_attn_implementation_internal")}.values()
    )
    before = [one._attn_implementation_internal for one in configs]
    try:
        for config in configs:
            # Not through its setter, which would write into configurations of parts that are not here as well.
            config._attn_implementation_internal = name
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation_internal = implementation
