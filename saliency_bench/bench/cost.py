"""What one row costs a model, by its length: operations and bytes, measured on small passes; seconds, on whole ones.

Operations are those of matrix products, counted by PyTorch while a pass runs, and bytes the most that tensors hold at
once. Both are found at three lengths, through which a parabola is laid: a + b L + c L² is what a row of L tokens costs
any model whose every token attends to every other.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from saliency_bench.bench.timing import measure, synchronizer
from saliency_bench.encoded import Encoded
from saliency_bench.models.model import Model
from saliency_bench.tasks import sequence_classification as task
from saliency_bench.types import Batch

#: Whether for a gradient, and by the shortened last layer.
Kind = tuple[bool, bool]
KINDS: tuple[Kind, ...] = ((True, True), (True, False), (False, True), (False, False))

#: Tokens of a timed pass on a CPU, where more are hardly faster.
TIMED_TOKENS = 512


@dataclass(frozen=True)
class Parabola:
    """The one through up to three places."""

    coefficients: Float[np.ndarray, " N"]

    @classmethod
    def through(cls, lengths: Sequence[int], values: Sequence[float | int]) -> "Parabola":
        """A line through two places, a constant through one."""
        system = np.vander(np.array(lengths, float), increasing=True)
        return cls(np.linalg.solve(system, np.array(values, float)))

    def __call__(self, length: int) -> float:
        """Never below 0."""
        powers = float(length) ** np.arange(len(self.coefficients))
        return max(0.0, float(self.coefficients @ powers))


@dataclass(frozen=True)
class Costs:
    """Of one row by its length: operations, and bytes beyond the weights; and the bytes of the weights."""

    flops: Mapping[Kind, Parabola]
    bytes: Mapping[Kind, Parabola]
    weights: int
    n_classes: int


def costs(model: Model, text: Encoded) -> Costs:
    """Measured on one row of this text, of its half and of its quarter. The model must be frozen."""
    lengths = sorted({max(1, len(text) // part) for part in (4, 2, 1)})
    flops: dict[Kind, Parabola] = {}
    held: dict[Kind, Parabola] = {}
    n_classes = 0
    for kind in KINDS:
        if kind[1] and model.pooled_layer is None:
            continue
        found = []
        for length in lengths:
            run = _pass(model, task.collate(model, [_cut(text, length)]), 1, *kind)
            with _Watched(model) as watched:
                n_classes = run()
            found.append((watched.flops, watched.peak))
        flops[kind] = Parabola.through(lengths, [one for one, _ in found])
        held[kind] = Parabola.through(lengths, [one for _, one in found])
    for gradient in (True, False):
        flops.setdefault((gradient, True), flops[gradient, False])
        held.setdefault((gradient, True), held[gradient, False])
    weights = sum(one.numel() * one.element_size() for one in model.module.parameters())
    return Costs(flops, held, weights, n_classes)


@dataclass(frozen=True)
class Pace:
    """Seconds of a row by its length, for a gradient and for an answer alone; between lengths by the token."""

    lengths: tuple[int, ...]
    per_token: Mapping[bool, tuple[float, ...]]

    def __call__(self, costs: Costs, kind: Kind, length: int) -> float:
        """What was not timed is taken to go as fast as what was: gradients are timed short, answers whole."""
        gradient, _ = kind
        timed = (gradient, gradient)
        share = costs.flops[kind](length) / max(costs.flops[timed](length), 1.0)
        seconds = np.interp(length, self.lengths, self.per_token[gradient]) * length
        return float(seconds * (share or 1.0))


def pace(model: Model, texts: Sequence[Encoded], token_budget: int) -> Pace:
    """Timed on passes of one text each, repeated to fill them. The model must be frozen."""
    tokens = token_budget if model.device.type != "cpu" else min(token_budget, TIMED_TOKENS)
    by_length = {len(text): text for text in sorted(texts, key=len)}
    n_rows = {length: max(1, tokens // length) for length in by_length}
    passes = {
        f"{length} {gradient}": _pass(
            model, task.collate(model, [text]), n_rows[length], gradient, gradient
        )
        for length, text in by_length.items()
        for gradient in (True, False)
    }
    next(iter(passes.values()))()  # a first pass takes longer
    took = measure(passes, n_repeats=1, n_warmup=0, synchronize=synchronizer(model.device))
    per_token = {
        gradient: tuple(
            took[f"{length} {gradient}"][0] / (rows * length) for length, rows in n_rows.items()
        )
        for gradient in (True, False)
    }
    return Pace(tuple(by_length), per_token)


def _pass(
    model: Model, batch: Batch, n_rows: int, gradient: bool, short: bool
) -> Callable[[], int]:
    """A pass of equal rows, which says how many classes there are."""
    ids = batch.input_ids.expand(n_rows, -1).contiguous()
    given = batch.token_type_ids
    types = None if given is None else given.expand(n_rows, -1).contiguous()
    embeddings = model.embed(ids)

    def run() -> int:
        points = embeddings.detach().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            logits = model.output(ids, None, types, points, short=short)
            if gradient:
                torch.autograd.grad(logits[:, 0].sum(), points)
        return int(logits.shape[-1])

    return run


def _cut(text: Encoded, length: int) -> Encoded:
    """The first tokens of a text, and its last one: some models look for the end."""

    def cut(values: Sequence[Any]) -> tuple[Any, ...]:
        return (*values[: length - 1], values[-1])

    types = text.token_type_ids
    return replace(
        text,
        input_ids=cut(text.input_ids),
        token_type_ids=None if types is None else cut(types),
        special=cut(text.special),
        segments=cut(text.segments),
        position=None if text.position is None else min(text.position, length - 1),
    )


class _Watched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operations while it is open, and the bytes of the tensors made in it, at the most that live at once.

    Operations are counted by PyTorch's own formulas; its `FlopCounterMode` gives the same, and takes several times as
    long, since it keeps them apart by module.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.now = self.peak = 0
        weights = [*model.module.parameters(), *model.module.buffers()]
        self.known = {one.untyped_storage()._cdata for one in weights}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        out = func(*args, **named)
        if (count := _FORMULAS.get(func._overloadpacket)) is not None:
            self.flops += count(*args, **named, out_val=out)
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        name, size = storage._cdata, storage.nbytes()
        if name in self.known:
            return
        self.known.add(name)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, name, size)

    def _gone(self, name: int, size: int) -> None:
        self.known.discard(name)
        self.now -= size


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    shapes = (one.shape for one in (query, key, value))
    return int(flop_counter.sdpa_flop_count(*shapes))  # type: ignore[no-untyped-call]


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    shapes = (one.shape for one in (grad, query, key, value))
    return int(flop_counter.sdpa_backward_flop_count(*shapes))  # type: ignore[no-untyped-call]


#: PyTorch's formulas by operator; of fused attention it has those for GPUs only.
_FORMULAS: dict[Any, Callable[..., int]] = flop_counter.flop_registry | {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
