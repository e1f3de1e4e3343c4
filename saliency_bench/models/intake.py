"""Finds a model's embedding layer by watching its passes, and replaces the output of that layer."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saliency_bench.core.errors import InputError, is_out_of_memory
from saliency_bench.models.module_facts import configured, embedding_tables, fact
from saliency_bench.models.placement import device_of, stored_weights

T = TypeVar("T")

#: The number of tokens in the rows by which a model is watched.
WATCHED = 5

#: Calls a module on ids [R T].
CallOnIds = Callable[[Int[Tensor, "R T"]], Any]

#: Errors of a module that cannot be called on some ids, or has no gradient there.
FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AssertionError, AttributeError)


def attempted(call: Callable[[], T]) -> T | None:
    """The result of the call, or None where the module fails; running out of memory is raised."""
    try:
        return call()
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        return None


@dataclass(frozen=True)
class Intake:
    """The calls of the embedding layer in one pass.

    Attributes:
        time_first: the layer gets ids [T B], as in XLNet.
        echoes: layers with the same table that get the text again, one place later. These are the decoders of T5 and
            BART, which classify a text by reading it twice.
        table: the part of the layer, or the layer itself, that looks the ids up.
    """

    time_first: bool = False
    echoes: tuple[nn.Module, ...] = ()
    table: nn.Embedding | None = None


@dataclass(frozen=True)
class PositionTable:
    """A table of position embeddings."""

    first: int  # the position of the first token
    most: int  # the number of positions from there on


def watched_ids(
    vocabulary: int, end: object, device: torch.device, n_rows: int = 1, pad: int | None = None
) -> Int[Tensor, "R 5"]:
    """Ids that are neither positions nor constant, so that they can be recognised among the inputs of a layer.

    `pad` is not among them, since RoBERTa and similar models count no position for it. `end` is the last id of each row,
    and stands nowhere else.
    """
    steps = 7 * torch.arange(WATCHED, device=device) + 3
    ids = torch.stack([steps.roll(row) + row for row in range(n_rows)]) % vocabulary
    for _ in range(2):  # the replacement of one of the two may be the other
        for special in (pad, end):
            if isinstance(special, int):
                ids[ids == special] = (special + 1) % vocabulary
    if isinstance(end, int) and 0 <= end < vocabulary:
        # BART pools there, and refuses a text without it, or with another number of them.
        ids[:, -1] = end
    return ids


def watch_intake(module: nn.Module, layer: nn.Module, run: CallOnIds, ids: Tensor) -> Intake:
    """Watches the calls of the embedding layer in one pass over two rows; the default `Intake` where the pass fails."""
    tables = embedding_tables(module).values()
    with _listening({layer, *tables}) as received, torch.no_grad():
        if attempted(lambda: (run(ids),)) is None:
            return Intake()
    turned = any(torch.equal(tensor, ids.T) for tensor in received.get(layer, ()))
    echoes = [
        table
        for table in tables
        if table is not layer
        and _same_table(module, table, layer)
        and any(_begins(tensor[..., 1:], ids[:, :-1]) for tensor in received.get(table, ()))
    ]
    receivers = [
        table
        for table in embedding_tables(layer).values()
        if any(_begins(tensor, ids) for tensor in received.get(table, ()))
    ]
    table = receivers[0] if len(receivers) == 1 else None
    return Intake(turned, tuple(echoes), table)


def position_tables(
    module: nn.Module, run: CallOnIds, ids: Int[Tensor, "1 T"]
) -> list[PositionTable]:
    """The tables that receive consecutive numbers, one for each token, in one pass."""
    sizes = {
        layer: len(weight)
        for layer in module.modules()
        if isinstance(weight := getattr(layer, "weight", None), Tensor) and weight.ndim == 2
    }
    with _listening(sizes) as received, torch.no_grad():
        run(ids)
    steps = torch.arange(ids.shape[1], device=ids.device)
    return [
        PositionTable(first, sizes[table] - first)
        for table, tensors in received.items()
        for tensor in tensors
        if not tensor.is_floating_point() and tensor.ndim and tensor.shape[-1] >= len(steps)
        for first in [int(tensor.flatten()[0])]
        if bool((tensor[..., : len(steps)] == steps + first).all())
    ]


@contextmanager
def captured(layer: nn.Module) -> Iterator[list[Any]]:
    """Keeps the outputs of a layer while open."""
    outputs: list[Any] = []
    with layer.register_forward_hook(lambda _, __, output: outputs.append(output)):
        yield outputs


class _Stop(Exception):
    """Ends a forward pass early."""


def output_at(layer: nn.Module, run: CallOnIds, ids: Int[Tensor, "R T"]) -> Float[Tensor, "R T D"]:
    """The output of a layer in a pass over ids; the pass ends there."""
    outputs: list[Any] = []

    def stop(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        outputs.append(output)
        raise _Stop

    with suppress(_Stop), layer.register_forward_hook(stop):
        run(ids)
    return only_output(outputs, ids)


def only_output(outputs: list[Any], ids: Int[Tensor, "R T"]) -> Float[Tensor, "R T D"]:
    """The only output of a layer in a pass, without padding that the model has added.

    Raises:
        InputError: there are several outputs or none, or the output is not a vector for each token.
    """
    if len(outputs) != 1:
        raise InputError(
            f"the embedding layer was called {len(outputs)} times in one pass, expected 1: name another one in embeddings="
        )
    output, shape = outputs[0], _shape(outputs[0])
    vectors: Tensor | None = output[:, : ids.shape[1]] if len(shape) == 3 else None
    if vectors is None or vectors.shape[:2] != ids.shape:
        raise InputError(
            f"the embedding layer gives {shape}, expected [B T D] with [B T] = {[*ids.shape]}: name another in embeddings="
        )
    return vectors.detach()


def _shape(output: Any) -> Any:
    """The shape of a tensor; the type of any other value."""
    return tuple(output.shape) if isinstance(output, Tensor) else (type(output).__name__,)


def find_embedding(module: nn.Module, run: CallOnIds, vocabulary: int) -> nn.Module:
    """The one embedding layer that receives exactly the token ids, found by watching one forward pass.

    The result of `get_input_embeddings()` is not used, since T5 and BART do not call that layer. The ids may be followed by
    padding that the model adds (Longformer). A table of positions that gets the ids for their shape (MVP) does not count.

    Raises:
        InputError: none or several layers receive the ids, or the layer is called more than once.
    """
    device = device_of(module)
    ids = watched_ids(vocabulary, fact(configured(module), "eos_token_id"), device)
    tables = embedding_tables(module)
    try:
        with _listening(tables.values()) as received, torch.no_grad():
            run(ids)
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"the module could not be called on token ids alone ({type(error).__name__}: {error}). "
            "Say how: forward=lambda module, inputs: ... in wrap_model()"
        ) from error
    receivers = [
        (name, layer)
        for name, layer in tables.items()
        for tensor in received.get(layer, ())
        if _begins(tensor, ids) or torch.equal(tensor, ids.T)
    ]
    if len(receivers) > 1:
        receivers = [(name, layer) for name, layer in receivers if _tells_apart(layer, ids)]
    if len(receivers) != 1:
        listed = ", ".join(name for name, _ in receivers) or "none"
        raise InputError(
            "expected one embedding layer that receives the token ids, "
            f"found: {listed}. Name it: embeddings='path.to.layer' in wrap_model()"
        )
    return receivers[0][1]


@contextmanager
def replaced(
    layer: nn.Module,
    embeddings: Float[Tensor, "R T D"] | None,
    intake: Callable[[], Intake],
    types: Int[Tensor, "R T"] | None = None,
) -> Iterator[None]:
    """Replaces the output of a layer while open; checks that the layer was called exactly once.

    A call on the token types does not count and is not changed: GPT-2 and similar models look these up in the same table.
    """
    if embeddings is None:
        yield
        return
    how = intake()
    fired = 0

    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
        nonlocal fired
        if types is not None and args and _same_memory(args[0], types):
            return None
        fired += 1
        return _in_place_of(output, embeddings, how.time_first)

    def echo(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        # The first token of the decoder is not one of the text.
        return torch.cat([output[:, :1], embeddings[:, :-1].to(output)], 1)

    with ExitStack() as hooks:
        hooks.enter_context(layer.register_forward_hook(hook))
        for decoder in how.echoes:
            hooks.enter_context(decoder.register_forward_hook(echo))
        yield
        if fired != 1:
            raise InputError(
                f"the embedding layer was called {fired} times in one forward pass, expected 1"
            )


def _in_place_of(output: Any, embeddings: Float[Tensor, "R T D"], time_first: bool) -> Tensor:
    vectors = embeddings.transpose(0, 1) if time_first else embeddings
    shape, (rows, length, width) = _shape(output), vectors.shape
    if len(shape) != 3 or shape[::2] != (rows, width) or shape[1] < length:
        raise InputError(
            f"the embedding layer gives {shape}, expected {tuple(vectors.shape)} [B T D]: name another in embeddings="
        )
    # Padding that the model has added follows the text. Always a copy, since CTRL scales it in place.
    return torch.cat([vectors.to(output), output[:, length:]], 1)


@contextmanager
def _listening(layers: Iterable[nn.Module]) -> Iterator[dict[nn.Module, list[Tensor]]]:
    """Keeps the inputs of each layer while open."""
    received: dict[nn.Module, list[Tensor]] = {}

    def hook(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        tensor = next(
            (value for value in (*args[:1], *named.values()) if isinstance(value, Tensor)), None
        )
        if tensor is not None:
            received.setdefault(layer, []).append(tensor)

    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.register_forward_pre_hook(hook, with_kwargs=True))
        yield received


def _same_table(module: nn.Module, table: nn.Embedding, layer: nn.Module) -> bool:
    """Whether two layers have the same weight. Offloaded weights are compared by value, since each has its own tensor."""
    weight = getattr(layer, "weight", None)
    if table.weight is weight or not (
        table.weight.is_meta and isinstance(weight, Tensor) and weight.is_meta
    ):
        return table.weight is weight
    of = {id(stored.part): stored for stored in stored_weights(module).values()}
    return torch.equal(of[id(table)].read(), of[id(layer)].read())


def _same_memory(value: Any, other: Tensor) -> bool:
    """Whether a value is a tensor at the same address and of the same size; does not wait for a GPU."""
    return (
        isinstance(value, Tensor)
        and value.data_ptr() == other.data_ptr()
        and value.numel() == other.numel()
    )


def _begins(tensor: Tensor, ids: Int[Tensor, "R T"]) -> bool:
    """Whether the tensor is the ids, or begins with the ids in each row."""
    rows, length = ids.shape
    return tensor.ndim == 2 and len(tensor) == rows and torch.equal(tensor[:, :length], ids)


@torch.no_grad()
def _tells_apart(layer: nn.Module, ids: Int[Tensor, "1 T"]) -> bool:
    """Whether the output of a layer depends on the ids; false where it cannot be called on ids alone."""
    both = attempted(lambda: (layer(ids), layer(ids.roll(1, 1))))
    return both is not None and not torch.equal(*both)
