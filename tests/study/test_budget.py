"""Tokens per pass: a number is a number, a word is measured once and kept."""

import pytest
import torch
from tiny import scored_by, tiny_bert

import saliency_bench as sb
from saliency_bench.core.errors import InputError
from saliency_bench.studies import budget
from saliency_bench.studies.budget import (
    AUTO,
    CALIBRATE,
    ON_CPU,
    check_budget,
    choose,
    resolve,
    times,
)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_the_smallest_budget_is_chosen_that_no_other_beats_by_much():
    # A pass costs 10 ms and 10 µs a token: 1 / (1 + 1000 / n) of the fastest there could be.
    seconds = {n: 0.010 + 1e-5 * n for n in (1024, 2048, 4096, 8192, 16384, 32768, 65536)}
    assert choose(seconds) == 32768  # 0.970 of the limit, where 65536 has 0.985 and 16384 has 0.942
    assert choose({1024: 1.0}) == 1024
    # Caches that overflow: larger is slower.
    assert choose({1024: 1.0, 2048: 1.9, 4096: 5.0, 8192: 10.0}) == 2048


def test_numbers_stay_and_auto_measures_nothing_on_a_cpu(monkeypatch):
    model = sb.wrap_model(tiny_bert())
    monkeypatch.setattr(budget, "times", None)  # any measurement would fail
    assert resolve(7, model, [5]) == 7
    assert resolve(AUTO, model, [5]) == ON_CPU


@pytest.mark.parametrize("asked", [0, -1, 2.5, True, "large", None, [2048]])
def test_what_is_no_number_of_tokens_is_refused(asked):
    with pytest.raises(InputError, match=r"runtime\.token_budget"):
        check_budget(asked, "runtime.token_budget")


def test_a_calibration_is_made_once_per_shape_and_kept(monkeypatch, empty_cache):
    calls = []

    def measured(model, length):
        calls.append(length)
        return {1024: 1.0, 2048: 1.0, 4096: 4.0}

    monkeypatch.setattr(budget, "times", measured)
    model = sb.wrap_model(tiny_bert(seed=0))
    assert [resolve(CALIBRATE, model, [3, 9, 5]) for _ in range(2)] == [2048, 2048]
    resolve(CALIBRATE, sb.wrap_model(tiny_bert(seed=1)), [4])  # other weights take the same time
    assert calls == [5]
    resolve(CALIBRATE, sb.wrap_model(tiny_bert(torch.float32)), [4])
    assert calls == [5, 4]
    for path in empty_cache.rglob("*.json"):
        path.write_text("{")
    assert resolve(CALIBRATE, model, [6]) == 2048
    assert calls == [5, 4, 6]


def test_times_are_of_gradients_over_that_many_tokens(monkeypatch):
    monkeypatch.setattr(budget, "CANDIDATES", (20, 40, 80))
    passes = []
    model = scored_by(lambda x: passes.append(tuple(x.shape[:2])) or x.sum((1, 2)))
    with model.frozen():  # what is asked to know the model is not timed
        passes.clear()
    found = times(model, 10)
    assert list(found) == [20, 40, 80]
    assert [rows for rows, _ in sorted(set(passes))] == [2, 4, 8]
    assert {length for _, length in passes} == {10}


def test_a_budget_that_does_not_fit_ends_the_search(monkeypatch):
    def passes(model, rows, length, clock):
        if rows * length > 5000:
            raise torch.OutOfMemoryError
        return 1e-3

    monkeypatch.setattr(budget, "_seconds", passes)
    assert list(times(sb.wrap_model(tiny_bert()), 1)) == [1024, 2048, 4096]
