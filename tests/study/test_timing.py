"""Interleaved timing, told by a fake clock."""

import gc
import itertools
from collections import Counter
from math import comb

import pytest
import torch

from saliency_bench.core.errors import InputError
from saliency_bench.studies.timing import interleaved_ratio, measure, running_order, synchronizer


class Laboratory:
    """A clock that only work and synchronisation move, and a log of what happened."""

    def __init__(self):
        self.now, self.log = 100.0, []

    def clock(self):
        self.log.append("clock")
        return self.now

    def synchronize(self):
        self.log.append("sync")
        self.now += 0.25

    def contestant(self, name, seconds):
        def work():
            self.log.append(name)
            self.now += seconds

        return work


@pytest.fixture
def lab():
    return Laboratory()


def timed(lab, names, **settings):
    contestants = {name: lab.contestant(name, i + 1.0) for i, name in enumerate(names)}
    return measure(contestants, synchronize=lab.synchronize, clock=lab.clock, **settings)


def test_each_time_holds_the_work_and_the_wait_for_it(lab):
    # By hand: 1 or 2 s of work and one synchronisation of 0.25 s inside the two clock readings.
    assert timed(lab, "ab", n_repeats=3, n_warmup=0) == {"a": [1.25] * 3, "b": [2.25] * 3}


def test_the_device_is_idle_before_the_clock_starts_and_stops(lab):
    timed(lab, "a", n_repeats=1, n_warmup=0)
    assert lab.log == ["sync", "clock", "a", "sync", "clock"]


def test_warm_up_runs_and_does_not_count(lab):
    seconds = timed(lab, "ab", n_repeats=2, n_warmup=3)
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}
    assert Counter(lab.log)["a"] == Counter(lab.log)["b"] == 5


def test_contestants_take_turns(lab):
    timed(lab, "abc", n_repeats=4, n_warmup=1)
    runs = "".join(entry for entry in lab.log if entry in "abc")
    assert runs == "abc" + "abc" + "cba" + "bca" + "acb"


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_every_contestant_stands_twice_at_every_place(n):
    names = [f"m{i}" for i in range(n)]
    places = Counter(
        (place, name)
        for repeat in range(2 * n)
        for place, name in enumerate(running_order(names, repeat))
    )
    assert places == dict.fromkeys(itertools.product(range(n), names), 2)


def test_a_slow_drift_favours_nobody(lab):
    # Every run is 1 s slower than the one before: with a fixed order b would lose by 1 s a repeat.
    def drifting():
        lab.now += drifting.seconds
        drifting.seconds += 1.0

    drifting.seconds = 1.0
    seconds = measure(
        {"a": drifting, "b": drifting},
        n_repeats=4,
        n_warmup=0,
        synchronize=lambda: None,
        clock=lab.clock,
    )
    assert sum(seconds["a"]) == sum(seconds["b"])


def test_a_failure_names_the_contestant_and_leaves_the_collector_on(lab):
    def broken():
        raise ArithmeticError("no")

    for n_warmup in (0, 1):
        with pytest.raises(ArithmeticError) as caught:
            measure(
                {"fine": lab.contestant("fine", 1.0), "broken": broken},
                n_repeats=2,
                n_warmup=n_warmup,
                synchronize=lab.synchronize,
                clock=lab.clock,
            )
        assert caught.value.__notes__ == ["while 'broken' was timed"]
        assert gc.isenabled()


def test_no_garbage_is_collected_while_the_clock_runs(lab):
    states = []
    contestants = {"a": lambda: states.append(gc.isenabled())}
    measure(contestants, n_repeats=2, n_warmup=0, synchronize=lab.synchronize, clock=lab.clock)
    assert states == [False, False] and gc.isenabled()


def test_a_collector_that_was_off_stays_off(lab):
    gc.disable()
    try:
        timed(lab, "a", n_repeats=1, n_warmup=0)
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize(("n_repeats", "n_warmup"), [(0, 1), (-1, 0), (1, -1)])
def test_numbers_of_repeats_that_make_no_sense_are_refused(lab, n_repeats, n_warmup):
    with pytest.raises(InputError, match="n_repeats >= 1"):
        timed(lab, "a", n_repeats=n_repeats, n_warmup=n_warmup)


def test_the_ratio_is_the_median_of_the_pairs_not_the_ratio_of_medians():
    # By hand: ratios 4, 1/2, 2, 1, 3; the ratio of the medians would be 3/2.
    ratio = interleaved_ratio([4.0, 1.0, 4.0, 3.0, 3.0], [1.0, 2.0, 2.0, 3.0, 1.0])
    assert ratio == (2.0, 0.5, 4.0)


def test_the_same_times_have_ratio_one():
    assert interleaved_ratio([1.0, 5.0, 2.0], [1.0, 5.0, 2.0]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("n", [5, 6, 8, 9, 20, 50])
def test_the_interval_is_the_narrowest_between_order_statistics_that_covers_95_percent(n):
    _, low, high = interleaved_ratio([float(i) for i in range(1, n + 1)], [1.0] * n)

    # P(the median lies outside the j-th smallest and largest) = 2 P(Binomial(n, 1/2) < j).
    def misses(j):
        return 2 * sum(comb(n, i) for i in range(j)) / 2**n

    covering = [j for j in range(1, n // 2 + 1) if misses(j) <= 0.05] or [1]
    assert (low, high) == (covering[-1], n + 1 - covering[-1])


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0])])
def test_repeats_that_are_not_in_pairs_are_refused(a, b):
    with pytest.raises(InputError, match="pairs"):
        interleaved_ratio(a, b)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_on_the_cpu_there_is_nothing_to_wait_for(device):
    assert synchronizer(device)() is None
