"""Computes the end of the last layer for the pooled row only, where it is proved that no other row is read.

A classifier that pools its first token needs one row of the last attention. The other rows go through the query projection,
the output projection and the feed-forward network without need, which is five sixths of a layer. Two patterns are searched:

- a module with the attention's output and the layer's input as its two inputs: with row 0 of both it computes the rest of
  the layer for one row;
- linear projections of whose output no logit reads another row: each gets row 0, and its output is repeated for all rows.
  A query of this kind is recognised by its strides, and attention is then computed for one query.

No architectures are listed here: the modules are found, and the equality is proved, on the model itself.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from saliency_bench.models.module_facts import parameters_of
from saliency_bench.models.rounding import equal_within, rounding_share

#: The most rounding errors by which one row alone may differ: the same arithmetic in products of other shapes.
EPSILONS = 256

#: Computes the logits [R C] of token ids, with embeddings in place of the embedding layer's output.
LogitsOf = Callable[[Int[Tensor, "R T"], Float[Tensor, "R T D"]], Float[Tensor, "R C"]]
Embed = Callable[[Int[Tensor, "R T"]], Float[Tensor, "R T D"]]


@dataclass(frozen=True)
class PooledRow:
    """The modules that may be computed for row 0 alone.

    Attributes:
        layer: a module of two inputs, of which it gets row 0.
        projections: linear maps of each row, outside of `layer`.
        attending: the modules that hold these projections, in which attention may have one query.
    """

    layer: nn.Module | None
    projections: tuple[nn.Linear, ...]
    attending: tuple[nn.Module, ...]


class _OneQuery(TorchFunctionMode):
    """Computes attention once where its queries are one row that is repeated without a copy, and repeats the result."""

    entered = False

    def enter(self, *_: Any) -> None:
        """Begins; a hook before the module in which attention is computed."""
        self.__enter__()  # type: ignore[no-untyped-call]
        self.entered = True

    def leave(self, *_: Any) -> None:
        """Ends, if it has begun; a hook after that module, errors included."""
        if self.entered:
            self.entered = False
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Calls the function, with one query where that is the same."""
        named = dict(kwargs or {})
        if func is not functional.scaled_dot_product_attention or len(args) != 3:
            return func(*args, **named)
        query, key, value = args
        n_queries = query.shape[-2]
        if n_queries < 2 or query.stride(-2) != 0 or named.get("is_causal"):
            return func(*args, **named)
        mask = named.get("attn_mask")
        if mask is not None and mask.shape[-2] == n_queries:
            named["attn_mask"] = mask[..., :1, :]
        attended = func(query[..., :1, :], key, value, **named)
        return attended.expand(*attended.shape[:-2], n_queries, attended.shape[-1])


class _FirstRow:
    """The hooks of a linear map that is computed for row 0, and whose output is repeated for all rows."""

    n_rows = 0

    def before(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Keeps row 0 of the input."""
        self.n_rows = args[0].shape[1]
        return (args[0][:, :1],)

    def after(self, _: nn.Module, __: Any, row: Tensor) -> Tensor:
        """Repeats the row, without a copy."""
        return row.expand(-1, self.n_rows, -1)


@contextmanager
def first_row_only(pooled: PooledRow | None) -> Iterator[None]:
    """While open, the modules of `pooled` are computed for row 0 alone; with None nothing is changed."""
    with ExitStack() as hooks:
        if pooled is None:
            yield
            return
        if pooled.layer is not None:
            hooks.enter_context(pooled.layer.register_forward_pre_hook(_both_first))
        for projection in pooled.projections:
            row = _FirstRow()
            hooks.enter_context(projection.register_forward_pre_hook(row.before))
            hooks.enter_context(projection.register_forward_hook(row.after))
        for module in pooled.attending:
            mode = _OneQuery()
            hooks.enter_context(module.register_forward_pre_hook(mode.enter))
            hooks.enter_context(module.register_forward_hook(mode.leave, always_call=True))
        yield


def _both_first(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return args[0][:, :1], args[1][:, :1], *args[2:]


def find_pooled_row(
    module: nn.Module, logits: LogitsOf, embed: Embed, ids: Int[Tensor, "R T"]
) -> PooledRow | None:
    """The modules that may be computed for row 0 alone; None where there are none, or the proof fails.

    The proof has two parts. Through these modules no logit depends on any other row: the gradients there are exactly
    zero. And with row 0 alone the logits and their gradients at the embeddings are the same within rounding. Where
    that fails with projections, it is tried without them.

    Args:
        module: in evaluation mode, its weights frozen.
        logits: calls it.
        embed: the embedding layer's output.
        ids: at least two texts of at least two tokens.
    """
    try:
        embeddings = embed(ids)
        layer = _first_that_reads_row_0(module, logits, ids, embeddings)
        projections = _unread_projections(module, layer, logits, ids, embeddings)
        if layer is None and not projections:
            return None
        whole = _outputs(logits, ids, embeddings)
    except Exception:  # whatever stands in the way of a proof, the model is used as it is
        return None
    for chosen in dict.fromkeys([projections, ()]):
        if layer is None and not chosen:
            continue
        attending = [part for part in module.modules() if {*part.children()} & {*chosen}]
        pooled = PooledRow(layer, chosen, tuple(attending))
        try:
            with first_row_only(pooled):
                short = _outputs(logits, ids, embeddings)
        except Exception:
            continue
        if all(_close(a, b) for a, b in zip(whole, short, strict=True)):
            return pooled
    return None


def _unread_projections(
    module: nn.Module,
    layer: nn.Module | None,
    logits: LogitsOf,
    ids: Int[Tensor, "R T"],
    embeddings: Float[Tensor, "R T D"],
) -> tuple[nn.Linear, ...]:
    """The linear maps outside of `layer` that are called once, and of whose outputs the logits read row 0 alone."""
    inside = set() if layer is None else {*layer.modules()}
    candidates = [
        part for part in module.modules() if type(part) is nn.Linear and part not in inside
    ]
    if not candidates:
        return ()
    outputs: dict[nn.Linear, list[Tensor]] = {}
    before: set[nn.Linear] = set()  # called before the layer, which computes one row from there
    reached = False

    def watch(linear: nn.Linear, args: tuple[Any, ...], output: Tensor) -> Tensor:
        copy = output.clone()
        outputs.setdefault(linear, []).append(copy)
        if not reached:
            before.add(linear)
        return copy

    def reach(*_: Any) -> None:
        nonlocal reached
        reached = True

    with ExitStack() as hooks, torch.enable_grad():
        if layer is not None:
            hooks.enter_context(layer.register_forward_pre_hook(reach))
        for part in candidates:
            hooks.enter_context(part.register_forward_hook(watch))
        total = logits(ids, embeddings.detach().requires_grad_()).sum(0)
    once = {
        linear: calls[0]
        for linear, calls in outputs.items()
        if len(calls) == 1 and linear in before and _alike(calls, embeddings.shape[:2])
    }
    return tuple(linear for linear, output in once.items() if _reads_row_0(total, (output,)))


def _first_that_reads_row_0(
    module: nn.Module, logits: LogitsOf, ids: Int[Tensor, "R T"], embeddings: Float[Tensor, "R T D"]
) -> nn.Module | None:
    candidates = [layer for layer in module.modules() if _takes_two(layer)]
    if not candidates:
        return None
    inputs: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}

    def watch(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if len(args) < 2 or not _alike(args[:2], embeddings.shape[:2]):
            return None
        # Copies, so that only the paths to the logits through this layer count.
        copies = args[0].clone(), args[1].clone()
        inputs.setdefault(layer, []).append(copies)
        return *copies, *args[2:]

    with ExitStack() as hooks, torch.enable_grad():
        for layer in candidates:
            hooks.enter_context(layer.register_forward_pre_hook(watch))
        total = logits(ids, embeddings.detach().requires_grad_()).sum(0)
    once = {layer: calls[0] for layer, calls in inputs.items() if len(calls) == 1}
    return next((layer for layer, copies in once.items() if _reads_row_0(total, copies)), None)


def _takes_two(layer: nn.Module) -> bool:
    """Whether its `forward` has exactly two required arguments."""
    parameters = parameters_of(layer).values()
    required = [p for p in parameters if p.default is p.empty and p.kind is not p.KEYWORD_ONLY]
    return len(required) == 2


def _alike(args: Sequence[Any], rows_and_tokens: torch.Size) -> bool:
    return all(
        isinstance(value, Tensor) and value.ndim == 3 and value.shape[:2] == rows_and_tokens
        for value in args
    )


def _reads_row_0(total: Float[Tensor, " C"], inputs: tuple[Tensor, ...]) -> bool:
    """Whether each class's logit has a gradient at row 0, and exactly none at the others."""
    somewhere = False
    for logit in total:
        for gradient in torch.autograd.grad(logit, inputs, retain_graph=True, allow_unused=True):
            if gradient is None:
                return False
            if bool((gradient[:, 1:] != 0).any()):
                return False
            somewhere |= bool((gradient[:, 0] != 0).any())
    return somewhere


def _outputs(
    logits: LogitsOf, ids: Int[Tensor, "R T"], embeddings: Float[Tensor, "R T D"]
) -> tuple[Tensor, Tensor]:
    """LogitsOf, and the gradient of each text's first."""
    start = embeddings.detach().requires_grad_()
    with torch.enable_grad():
        outputs = logits(ids, start)
        (gradient,) = torch.autograd.grad(outputs[:, 0].sum(), start)
    return outputs.detach(), gradient


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and equal_within(b, a, rounding_share(a.dtype, epsilons=EPSILONS))
