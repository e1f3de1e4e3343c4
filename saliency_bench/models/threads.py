"""What several threads may share: locks, and attributes that are given back as they were, whoever is first to leave."""

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

#: Held while something is changed that the whole process sees: the global generator, names in other libraries' modules,
#: filters of warnings. Nothing that is held by another thread may be waited for inside.
PROCESS = threading.RLock()

_BOOKS = threading.Lock()
_LOCKS: dict[
    int, tuple[threading.RLock, Any]
] = {}  # by id, with the weak reference that ends the entry
_LENT: dict[
    tuple[int, str], tuple[int, Any]
] = {}  # by id and attribute: how many hold it, and how it was


@contextmanager
def held(root: nn.Module, *others: Any) -> Iterator[None]:
    """While open, no other thread works with a part of this module, with a configuration of one, or with the others.

    Modules that share a part have its lock in common. Locks are taken in one order, so that two threads never wait for
    each other. A thread may hold what it holds already.
    """
    parts = list(root.modules())
    configs = [getattr(part, "config", None) for part in parts]
    things = {id(one): one for one in (*parts, *configs, *others) if one is not None}
    taken = []
    try:
        for lock in _locks_of([things[key] for key in sorted(things)]):
            lock.acquire()
            taken.append(lock)
        yield
    finally:
        for lock in taken:
            lock.release()


@contextmanager
def given_back(things: Iterable[Any], name: str) -> Iterator[None]:
    """Afterwards the attribute of this name is as it was before the first of all who hold it; the last gives it back."""
    mine = list(things)
    with _BOOKS:
        for one in mine:
            count, before = _LENT.get((id(one), name), (0, getattr(one, name)))
            _LENT[id(one), name] = count + 1, before
    try:
        yield
    finally:
        with _BOOKS:
            for one in mine:
                count, before = _LENT.pop((id(one), name))
                if count > 1:
                    _LENT[id(one), name] = count - 1, before
                elif getattr(one, name) != before:
                    setattr(one, name, before)


def in_this_thread(own: Callable[..., Any], others: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is `own` for the thread that makes it, and `others` for all others."""
    me = threading.get_ident()

    def call(*args: Any, **named: Any) -> Any:
        return (own if threading.get_ident() == me else others)(*args, **named)

    return call


def _locks_of(things: Iterable[Any]) -> list[threading.RLock]:
    with _BOOKS:
        return [_lock_of(one) for one in things]


def _lock_of(thing: Any) -> threading.RLock:
    key = id(thing)
    if key not in _LOCKS:
        try:
            ends: Any = weakref.ref(thing, lambda _: _LOCKS.pop(key, None))
        except TypeError:  # of a kind that cannot be referred to weakly: kept
            ends = thing
        _LOCKS[key] = threading.RLock(), ends
    return _LOCKS[key][0]
