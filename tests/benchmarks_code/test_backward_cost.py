"""What a backward rule costs: the interval by its definition, and the committed numbers against the promise."""

from itertools import product
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny import tiny_bert

from benchmarks import backward_cost, rounds
from saliency_bench import wrap_model
from saliency_bench.attribution.backward import NAMES, PLAIN, RULES

ROOT = Path(__file__).parents[2]
MOST = 1.3  # a gradient by a rule over a plain one


@pytest.mark.parametrize("n", [6, 9, 15])
def test_an_interval_of_a_median_has_the_probability_that_it_claims(n):
    """Counted over all 2^n ways in which n numbers lie below or above the median."""
    found = rounds.summary(pd.DataFrame({"rule": range(1, n + 1)})).iloc[0]
    low, high = int(found["low"]), int(found["high"])
    sides = [sum(way) for way in product((0, 1), repeat=n)]  # how many lie below
    enclosed = [low <= below < high for below in sides]
    assert low + high == n + 1
    assert sum(enclosed) / len(enclosed) >= 0.95
    narrower = [low + 1 <= below < high - 1 for below in sides]
    assert sum(narrower) / len(narrower) < 0.95


def test_every_rule_is_held_against_the_plain_gradient_of_its_own_round(monkeypatch):
    seconds = iter(range(1, 100))
    taken = []

    def gradient_seconds(_context, rule):
        taken.append(rule)
        return float(next(seconds))

    monkeypatch.setattr(backward_cost, "gradient_seconds", gradient_seconds)
    table = backward_cost.ratios(wrap_model(tiny_bert(torch.float32)), 2)
    assert taken == [PLAIN, *NAMES, *NAMES[1:], PLAIN]
    assert list(table[NAMES[1]]) == [3 / 2, 6 / 9]
    assert list(table[PLAIN]) == [1, 1]


def test_the_committed_costs_keep_the_promise():
    costs = pd.read_csv(ROOT / "results" / "backward_cost" / "cost.csv")
    rules = costs[costs["rule"] != PLAIN]
    assert set(rules["rule"]) == set(RULES)
    assert rules["median"].max() <= MOST
