"""What the engine adds to a decoder's gradients: both compute the same, and the committed numbers stand on the page."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny_heads import tiny_head

from benchmarks import decoder_cost
from saliency_bench import wrap_model

ROOT = Path(__file__).parents[2]
MOST = 1.15  # the engine over a bare loop


@pytest.fixture
def model():
    return wrap_model(tiny_head("text-generation", "llama").float(), task="text-generation")


@pytest.mark.parametrize("setting", decoder_cost.SETTINGS, ids=lambda setting: setting.method)
def test_the_engine_and_the_bare_loop_have_the_same_scores(model, setting):
    texts = decoder_cost.texts_of(model, 3, 8)
    with model.frozen(), torch.enable_grad():
        passes = decoder_cost.passes_of(model, texts, setting)
        assert decoder_cost.difference(model, texts, setting, passes) <= decoder_cost.SAME
        wrong = decoder_cost.Passes(passes.text, passes.points * 1.1, passes.target, passes.weights)
        assert decoder_cost.difference(model, texts, setting, wrong) > decoder_cost.SAME


def test_every_contestant_is_held_against_the_bare_loop_of_its_own_round(model, monkeypatch):
    seconds = iter(range(1, 100))
    monkeypatch.setattr(decoder_cost, "_seconds", lambda run: float(next(seconds)))
    texts = decoder_cost.texts_of(model, 2, 6)
    table = decoder_cost.ratios(model, texts, decoder_cost.SETTINGS[0], 2)
    assert list(table[decoder_cost.ENGINE]) == [2 / 1, 4 / 6]
    assert list(table[decoder_cost.BARE]) == [1, 1]


@pytest.mark.skipif(
    not (ROOT / "results" / "decoder_cost").exists(),
    reason="not measured yet: python -m benchmarks.decoder_cost",
)
def test_the_committed_costs_keep_the_promise_and_stand_on_the_page():
    costs = pd.read_csv(ROOT / "results" / "decoder_cost" / "cost.csv").set_index("contestant")
    assert costs.loc[decoder_cost.ENGINE, "median"].max() <= MOST
    page = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    for name in (decoder_cost.ENGINE, decoder_cost.ALL_LOGITS):
        for _, row in costs.loc[name].iterrows():
            assert f"{row['median']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" in page
