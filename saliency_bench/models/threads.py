"""Sharing between threads: locks, and attributes that are restored when the last thread leaves."""

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from saliency_bench.models.causes import refuse_inference_weights

#: Held while something is changed that the whole process sees: the global generator, names in other libraries' modules,
#: filters of warnings. Nothing that is held by another thread may be waited for inside.
PROCESS = threading.RLock()

_BOOKS = threading.Lock()
#: By id, with the weak reference that ends the entry.
_LOCKS: dict[int, tuple[threading.RLock, Any]] = {}
#: By id and attribute: how many users have changed it, and its value before the first did.
_LENT: dict[tuple[int, str], tuple[int, Any]] = {}


@contextmanager
def held(root: nn.Module, *others: Any) -> Iterator[None]:
    """Locks the parts of a module, their configurations and other objects against other threads while open.

    Modules that share a part have its lock in common. Locks are taken in one order, so that two threads never wait for
    each other. A thread may hold what it holds already.
    """
    parts = list(root.modules())
    configs = [getattr(part, "config", None) for part in parts]
    objects = {id(item): item for item in (*parts, *configs, *others) if item is not None}
    locked = []
    try:
        for lock in _locks_of([objects[key] for key in sorted(objects)]):
            lock.acquire()
            locked.append(lock)
        yield
    finally:
        for lock in locked:
            lock.release()


@contextmanager
def restored(objects: Iterable[Any], name: str) -> Iterator[None]:
    """Restores an attribute of objects at the end, when the last of its users leaves."""
    owners = list(objects)
    with _BOOKS:
        for owner in owners:
            count, before = _LENT.get((id(owner), name), (0, getattr(owner, name)))
            _LENT[id(owner), name] = count + 1, before
    try:
        yield
    finally:
        with _BOOKS:
            for owner in owners:
                count, before = _LENT.pop((id(owner), name))
                if count > 1:
                    _LENT[id(owner), name] = count - 1, before
                elif getattr(owner, name) != before:
                    setattr(owner, name, before)


@contextmanager
def frozen(root: nn.Module, *others: Any) -> Iterator[None]:
    """Sets evaluation mode and freezes all weights while open; everything is restored at the end.

    Other threads wait, also those of a model that shares a part with this one, or that use one of the `others`.

    Raises:
        InputError: the weights were made inside `torch.inference_mode`.
    """
    weights = list(root.parameters())
    refuse_inference_weights(weights)
    with (
        held(root, *others),
        restored(root.modules(), "training"),
        restored(weights, "requires_grad"),
        _fetched_restored(root),
    ):
        root.eval()
        for weight in weights:
            weight.requires_grad_(False)
        yield


@contextmanager
def _fetched_restored(root: nn.Module) -> Iterator[None]:
    """Restores `requires_grad` of weights that accelerate keeps elsewhere, for which it makes a new tensor after each call."""
    elsewhere = [
        (part, name, weight.requires_grad)
        for part in root.modules()
        for name, weight in part._parameters.items()
        if weight is not None and weight.is_meta
    ]
    try:
        yield
    finally:
        for part, name, before in elsewhere:
            weight = part._parameters[name]
            if weight is not None and weight.requires_grad != before:
                part._parameters[name] = nn.Parameter(torch.empty_like(weight), before)


def in_this_thread(here: Callable[..., Any], elsewhere: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that calls `here` in the present thread, and `elsewhere` in all other threads."""
    thread = threading.get_ident()

    def call(*args: Any, **named: Any) -> Any:
        return (here if threading.get_ident() == thread else elsewhere)(*args, **named)

    return call


def _locks_of(objects: Iterable[Any]) -> list[threading.RLock]:
    with _BOOKS:
        return [_lock_of(item) for item in objects]


def _lock_of(item: Any) -> threading.RLock:
    key = id(item)
    if key not in _LOCKS:
        try:
            reference: Any = weakref.ref(item, lambda _: _LOCKS.pop(key, None))
        except TypeError:  # no weak reference is possible: the object is kept
            reference = item
        _LOCKS[key] = threading.RLock(), reference
    return _LOCKS[key][0]
