"""Times that can be compared: interleaved in one process, every repeat kept."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from saliency_bench.core.averages import median_interval
from saliency_bench.core.errors import InputError

K = TypeVar("K")


def measure(
    contestants: Mapping[K, Callable[[], object]],
    *,
    n_repeats: int,
    n_warmup: int,
    synchronize: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[K, list[float]]:
    """Seconds of each contestant per repeat; repeats with the same index ran side by side.

    The order changes with each repeat as `running_order` says, so that neither slow drift of the
    machine nor what the neighbour left in the caches favours anyone. The garbage collector runs
    only between repeats.

    Raises:
        Exception: what a contestant raised, with its name in a note. Nothing is returned then:
            measure the others again without it.
    """
    if n_repeats < 1 or n_warmup < 0:
        raise InputError(
            f"timing: expected n_repeats >= 1 and n_warmup >= 0, got {n_repeats}, {n_warmup}"
        )
    names = list(contestants)
    seconds: dict[K, list[float]] = {name: [] for name in names}
    for _ in range(n_warmup):
        for name in names:
            _seconds(name, contestants[name], synchronize, clock)
    for repeat in range(n_repeats):
        with _garbage_collected_before():
            for name in running_order(names, repeat):
                seconds[name].append(_seconds(name, contestants[name], synchronize, clock))
    return seconds


def warm_up(
    run: Callable[[], object],
    *,
    at_most: int,
    within: float,
    synchronize: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Seconds of runs until two in a row differ by less than `within` of the shorter, or there were `at_most`."""
    seconds: list[float] = []
    while len(seconds) < at_most and not is_stable(seconds, within):
        seconds.append(_seconds("warm-up", run, synchronize, clock))
    return seconds


def is_stable(seconds: Sequence[float], within: float) -> bool:
    """Whether the last two runs took about as long."""
    if len(seconds) < 2:
        return False
    shorter, longer = sorted(seconds[-2:])
    return longer - shorter < within * shorter


def fastest(
    contestants: Mapping[K, Callable[[], object]],
    *,
    n_repeats: int,
    synchronize: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> K:
    """The key of the contestant with the shortest single run of `n_repeats` interleaved ones."""
    seconds = measure(
        contestants, n_repeats=n_repeats, n_warmup=0, synchronize=synchronize, clock=clock
    )
    return min(seconds, key=lambda key: min(seconds[key]))


def running_order(names: Sequence[K], repeat: int) -> list[K]:
    """The order of a repeat: rotated by one every second repeat and reversed in between (A B C, C B A, B C A, A C B, ...).

    Over 2n repeats of n contestants each stands twice at every place; two contestants run A B B A.
    """
    first = (repeat // 2) % len(names) if names else 0
    order = [*names[first:], *names[:first]]
    return order[::-1] if repeat % 2 else order


def synchronizer(device: torch.device | str) -> Callable[[], None]:
    """A function that waits until the device has done all work it was given."""
    device = torch.device(device)
    if device.type == "cuda":
        return partial(torch.cuda.synchronize, device)
    if device.type == "mps":
        return torch.mps.synchronize
    return _nothing_to_wait_for


def _seconds(
    name: object,
    run: Callable[[], object],
    synchronize: Callable[[], None],
    clock: Callable[[], float],
) -> float:
    try:
        synchronize()
        start = clock()
        run()
        synchronize()
        return clock() - start
    except Exception as error:
        error.add_note(f"while {name!r} was timed")
        raise


@contextmanager
def _garbage_collected_before() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _nothing_to_wait_for() -> None:
    return


def interleaved_ratio(
    seconds_a: Sequence[float], seconds_b: Sequence[float]
) -> tuple[float, float, float]:
    """Median of the ratios a/b of repeats that ran side by side, and an interval for it.

    The interval lies between two order statistics and covers the true median with at least 95 %
    whatever the distribution (Conover 1999, section 3.2); below 6 repeats, where none does, it is
    the whole range.
    """
    if len(seconds_a) != len(seconds_b) or not seconds_a:
        raise InputError(
            f"a ratio needs repeats in pairs, got {len(seconds_a)} and {len(seconds_b)}"
        )
    ratios = np.asarray(seconds_a) / np.asarray(seconds_b)
    if len(ratios) == 1:
        return (float(ratios[0]),) * 3
    return median_interval(ratios, 0.95)
