"""How token ids reach a model's embedding layer, and what takes the place of what it gives."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saliency_bench.core.errors import InputError, is_out_of_memory
from saliency_bench.models.module_facts import configured, fact, typical_weight

#: Tokens of the rows that a model is watched on.
WATCHED = 5

#: What a module may raise that cannot be called on these ids, or not backwards.
FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AssertionError, AttributeError)


@dataclass(frozen=True)
class Intake:
    """What was seen of the embedding layer in one pass.

    `time_first`: it is asked for ids [T B], as by XLNet.
    `echoes`: layers with the same table that are asked for the text again, one place later: the decoders of T5 and
    BART, which classify a text by reading it twice.
    `table`: the layer's own part, or itself, that looks the ids up.
    `call`: calls the layer on one row of other ids, with all else as the module gave it; None where it is given none.
    """

    time_first: bool = False
    echoes: tuple[nn.Module, ...] = ()
    table: nn.Embedding | None = None
    call: "Call | None" = None


#: A layer, and ids in place of those that the module gave it in one row.
Call = Callable[[nn.Module, Int[Tensor, "1 5"]], Float[Tensor, "1 5 D"]]


@dataclass(frozen=True)
class PositionTable:
    """A table that is asked for the places of a text's tokens."""

    first: int  # of the first token
    most: int  # tokens from there on


def watched_ids(
    vocabulary: int, end: object, device: torch.device, n_rows: int = 1, pad: int | None = None
) -> Int[Tensor, "R 5"]:
    """Ids that are neither positions nor constant, so that no other table can receive the same numbers.

    `pad` is not among them: RoBERTa and its kin count no position for it. `end` is the last of each row, and only that.
    """
    steps = 7 * torch.arange(WATCHED, device=device) + 3
    ids = torch.stack([steps.roll(row) + row for row in range(n_rows)]) % vocabulary
    for _ in range(2):  # what stands in for one of the two may be the other
        for special in (pad, end):
            if isinstance(special, int):
                ids[ids == special] = (special + 1) % vocabulary
    if isinstance(end, int) and 0 <= end < vocabulary:
        ids[:, -1] = (
            end  # BART pools there, and refuses a text without it, or with another number of them
        )
    return ids


def how_ids_arrive(
    module: nn.Module, layer: nn.Module, run: Callable[[Int[Tensor, "R 5"]], Any], ids: Tensor
) -> Intake:
    """Watches one pass over two rows; a model that refuses such ids is taken for an ordinary one."""
    tables = [one for one in module.modules() if isinstance(one, nn.Embedding)]
    asked: dict[nn.Module, list[Tensor]] = {}
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    handle = layer.register_forward_pre_hook(
        lambda _, args, named: calls.append((args, named)), with_kwargs=True
    )
    try:
        with _listening({layer, *tables}, asked), torch.no_grad():
            run(ids)
            if not isinstance(layer, nn.Embedding):  # what is no table may be given more than ids
                calls.clear()
                run(ids[:1])
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        return Intake()
    finally:
        handle.remove()
    turned = any(torch.equal(one, ids.T) for one in asked.get(layer, ()))
    weight = getattr(layer, "weight", None)
    echoes = [
        table
        for table in tables
        if table is not layer
        and table.weight is weight
        and any(_begins(one[..., 1:], ids[:, :-1]) for one in asked.get(table, ()))
    ]
    own = {one for one in layer.modules() if isinstance(one, nn.Embedding)}
    looked = [
        one for one in tables if one in own and any(_begins(i, ids) for i in asked.get(one, ()))
    ]
    call = _with_other_ids(calls[0], ids[:1]) if len(calls) == 1 else None
    return Intake(turned, tuple(echoes), looked[0] if len(looked) == 1 else None, call)


def position_tables(
    module: nn.Module, run: Callable[[Int[Tensor, "1 T"]], Any], ids: Int[Tensor, "1 T"]
) -> list[PositionTable]:
    """The tables that are asked for consecutive numbers, one for each token, in one pass."""
    weights = {one: getattr(one, "weight", None) for one in module.modules()}
    sizes = {
        one: len(weight)
        for one, weight in weights.items()
        if isinstance(weight, Tensor) and weight.ndim == 2
    }
    asked: dict[nn.Module, list[Tensor]] = {}
    with _listening({*sizes}, asked), torch.no_grad():
        run(ids)
    steps = torch.arange(ids.shape[1], device=ids.device)
    return [
        PositionTable(first, sizes[table] - first)
        for table, given in asked.items()
        for one in given
        if not one.is_floating_point() and one.ndim and one.shape[-1] >= len(steps)
        for first in [int(one.flatten()[0])]
        if bool((one[..., : len(steps)] == steps + first).all())
    ]


def _with_other_ids(
    given: tuple[tuple[Any, ...], dict[str, Any]], ids: Int[Tensor, "1 5"]
) -> Call | None:
    """The same call again with other ids; None where it was not given these."""
    args, named = given

    def is_ids(value: Any) -> bool:
        return isinstance(value, Tensor) and torch.equal(value, ids)

    if not any(map(is_ids, (*args, *named.values()))):
        return None

    def call(layer: nn.Module, other: Int[Tensor, "1 5"]) -> Float[Tensor, "1 5 D"]:
        own = [other if is_ids(value) else value for value in args]
        output: Tensor = layer(
            *own, **{name: other if is_ids(value) else value for name, value in named.items()}
        )
        return output

    return call


@contextmanager
def captured(layer: nn.Module) -> Iterator[list[Any]]:
    """While open, what the layer gives is kept."""
    seen: list[Any] = []
    handle = layer.register_forward_hook(lambda _, __, output: seen.append(output))
    try:
        yield seen
    finally:
        handle.remove()


def only_output(seen: list[Any], ids: Int[Tensor, "R T"]) -> Float[Tensor, "R T D"]:
    """The one output that was kept, without padding of the model's own.

    Raises:
        InputError: there are several or none, or it is no vector for each token.
    """
    if len(seen) != 1:
        raise InputError(
            f"the embedding layer was called {len(seen)} times in one forward pass, expected 1: name another one in "
            "embeddings="
        )
    rows, length = ids.shape
    output = seen[0]
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if (
        not isinstance(output, Tensor)
        or output.ndim != 3
        or output[:, :length].shape[:2] != ids.shape
    ):
        raise InputError(
            f"the embedding layer gives {shape}, expected a tensor [B T D] with [B T] = {[rows, length]}: name "
            "another one in embeddings="
        )
    return output[:, :length].detach()


def find_embedding(
    module: nn.Module, run: Callable[[Int[Tensor, "1 T"]], Any], vocabulary: int
) -> nn.Module:
    """The one embedding layer that receives exactly the token ids, found by watching one forward pass.

    What `get_input_embeddings()` returns is not asked: T5 and BART do not call it. Ids may be followed by padding of
    the model's own (Longformer), and a table of positions that is handed the ids for their shape (MVP) does not count.

    Raises:
        InputError: none or several layers receive the ids, or the layer is called more than once.
    """
    device = typical_weight(module).device
    ids = watched_ids(vocabulary, fact(configured(module), "eos_token_id"), device)
    asked: dict[nn.Module, list[Tensor]] = {}
    names = {one: name for name, one in module.named_modules() if isinstance(one, nn.Embedding)}
    try:
        with _listening(set(names), asked), torch.no_grad():
            run(ids)
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"the module could not be called on token ids alone ({type(error).__name__}: {error}). "
            "Say how: forward=lambda module, inputs: ... in wrap_model()"
        ) from error
    seen = [
        (name, layer)
        for layer, name in names.items()
        for one in asked.get(layer, ())
        if _begins(one, ids) or torch.equal(one, ids.T)
    ]
    if len(seen) > 1:
        seen = [(name, layer) for name, layer in seen if _tells_apart(layer, ids)]
    if len(seen) != 1:
        found = ", ".join(name for name, _ in seen) or "none"
        raise InputError(
            "expected one embedding layer that receives the token ids, "
            f"found: {found}. Name it: embeddings='path.to.layer' in wrap_model()"
        )
    return seen[0][1]


@contextmanager
def replaced(
    layer: nn.Module,
    embeddings: Float[Tensor, "R T D"] | None,
    intake: Callable[[], Intake],
    types: Int[Tensor, "R T"] | None = None,
) -> Iterator[None]:
    """While open, the layer's output is `embeddings`; that it fired exactly once is checked.

    A call on the token types does not count and is left alone: GPT-2 and its kin look these up as words too.
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
        own = embeddings[:, :-1].to(output.dtype)
        return torch.cat([output[:, :1], own], 1)  # the first is a token of its own

    handles = [layer.register_forward_hook(hook)]
    handles += [one.register_forward_hook(echo) for one in how.echoes]
    try:
        yield
        if fired != 1:
            raise InputError(
                f"the embedding layer was called {fired} times in one forward pass, expected 1"
            )
    finally:
        for handle in handles:
            handle.remove()


def _in_place_of(output: Any, embeddings: Float[Tensor, "R T D"], time_first: bool) -> Tensor:
    if not isinstance(output, Tensor):
        raise InputError(
            f"the embedding layer returns {type(output).__name__}, expected a tensor [B T D]: name another one in "
            "embeddings="
        )
    mine = (embeddings.transpose(0, 1) if time_first else embeddings).to(output.dtype)
    length = mine.shape[1]
    if output.ndim == 3 and output.shape[1] > length and output[:, :length].shape == mine.shape:
        return torch.cat([mine, output[:, length:]], 1)  # padding of the model's own
    if output.shape != mine.shape:
        raise InputError(
            f"the embedding layer gives {tuple(output.shape)}, expected {tuple(mine.shape)} [B T D]"
        )
    return mine.clone()  # CTRL scales it in place


@contextmanager
def _listening(layers: set[nn.Module], asked: dict[nn.Module, list[Tensor]]) -> Iterator[None]:
    """While open, what each layer is called with is kept."""

    def hook(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = next((one for one in (*args[:1], *named.values()) if isinstance(one, Tensor)), None)
        if given is not None:
            asked.setdefault(layer, []).append(given)

    handles = [one.register_forward_pre_hook(hook, with_kwargs=True) for one in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _same_memory(one: Any, other: Tensor) -> bool:
    """Whether these are the same numbers in the same place, seen without waiting for a GPU."""
    return (
        isinstance(one, Tensor)
        and one.data_ptr() == other.data_ptr()
        and one.numel() == other.numel()
    )


def _begins(one: Tensor, ids: Int[Tensor, "R T"]) -> bool:
    """Whether `one` is the ids, or has the ids first in each row."""
    rows, length = ids.shape
    return one.ndim == 2 and len(one) == rows and torch.equal(one[:, :length], ids)


@torch.no_grad()
def _tells_apart(layer: nn.Module, ids: Int[Tensor, "1 T"]) -> bool:
    return not torch.equal(layer(ids), layer(ids.roll(1, 1)))
