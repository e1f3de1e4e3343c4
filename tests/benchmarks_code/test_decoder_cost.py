"""What the engine adds to a decoder's gradients: both compute the same, and the committed intervals meet."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny_heads import tiny_head

from benchmarks import decoder_cost, rounds
from saliency_bench import wrap_model
from saliency_bench.models.references import References

ROOT = Path(__file__).parents[2]


@pytest.fixture
def model():
    return wrap_model(tiny_head("text-generation", "llama").float(), task="text-generation")


@pytest.mark.parametrize("setting", decoder_cost.SETTINGS, ids=lambda setting: setting.method)
def test_the_engine_and_the_bare_loop_have_the_same_scores(model, setting):
    texts = decoder_cost.texts_of(model, 3, 8)
    with model.frozen(), torch.enable_grad():
        passes = decoder_cost.passes_of(model, texts, setting)
        assert decoder_cost.difference(model, texts, setting, passes) <= decoder_cost.SAME
        wrong = replace(passes, points=passes.points * 1.1)
        assert decoder_cost.difference(model, texts, setting, wrong) > decoder_cost.SAME


def test_every_contestant_is_held_against_the_bare_loop_of_its_own_round(model, monkeypatch):
    seconds = iter(range(1, 100))
    monkeypatch.setattr(rounds, "process_seconds", lambda run: float(next(seconds)))
    texts = decoder_cost.texts_of(model, 2, 6)
    table = decoder_cost.ratios(model, texts, decoder_cost.SETTINGS[0], 2)
    assert list(table[decoder_cost.ENGINE]) == [2 / 1, 5 / 8]
    assert list(table[decoder_cost.BARE]) == [1, 1]


@pytest.mark.parametrize("setting", decoder_cost.SETTINGS, ids=lambda setting: setting.method)
def test_the_engine_takes_the_passes_of_the_loop_with_both_ends_and_no_others(model, setting):
    texts = decoder_cost.texts_of(model, 3, 8)
    with model.frozen(), torch.enable_grad():
        passes, references = decoder_cost.passes_of(model, texts, setting), References(model)
        decoder_cost.engine(references, texts, setting)  # trials of a model are made once
        before = model.ledger.copy()
        decoder_cost.engine(references, texts, setting)
        paid = model.ledger.since(before).total
    assert paid.gradients == len(passes.points)
    assert paid.forward_rows == sum(map(len, passes.ends))


def costs():
    table = pd.read_csv(ROOT / "results" / "decoder_cost" / "cost.csv")
    return table.set_index(["method", "contestant"])


@pytest.mark.parametrize("setting", decoder_cost.SETTINGS, ids=lambda setting: setting.method)
def test_the_engine_costs_what_its_passes_cost_by_hand(setting):
    """Each interval has the median with 95 %: two that do not meet are of different medians."""
    ours, by_hand = (
        costs().loc[setting.name, name] for name in (decoder_cost.ENGINE, decoder_cost.WITH_ENDS)
    )
    assert ours["low"] <= by_hand["high"]
