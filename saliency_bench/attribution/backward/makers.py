"""Finds the module of a model that has made each node of its graph."""

from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from saliency_bench.attribution.backward.graph import Node

Makers = MutableMapping[Node, str]


@contextmanager
def noted_makers(module: nn.Module) -> Iterator[Makers]:
    """While open, records for each node the innermost module that made it in a forward pass, by its dotted path.

    The hooks are removed at the end. Only one thread may use the module in the meantime.
    """
    makers: Makers = {}
    running = [""]
    handles = []
    for name, part in module.named_modules():
        enter, leave = partial(_enter, makers, running, name), partial(_leave, makers, running)
        handles.append(part.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(part.register_forward_hook(leave))
    try:
        yield makers
    finally:
        for handle in handles:
            handle.remove()


def _enter(makers: Makers, running: list[str], name: str, _: Any, args: Any, kwargs: Any) -> None:
    """Assigns the inputs of a module to the module that calls it, unless they are assigned already."""
    _claim(makers, running[-1], [args, kwargs])
    running.append(name)


def _leave(makers: Makers, running: list[str], _: Any, inputs: Any, output: Any) -> None:
    _claim(makers, running.pop(), output)


def _claim(makers: Makers, name: str, value: Any) -> None:
    """Records a module as the maker of all nodes behind some tensors that have none yet."""
    waiting = [tensor.grad_fn for tensor in _tensors(value)]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in makers:
            makers[node] = name
            waiting += [before for before, _ in node.next_functions]


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested lists, tuples and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        inner: Iterable[Any] = value.values() if isinstance(value, dict) else value
        for item in inner:
            yield from _tensors(item)
