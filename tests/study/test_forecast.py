"""What a study is said to cost is what it then costs, counted from outside while it runs."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from tiny import FrameTokenizer, framed, token_inputs

from saliency_bench.cli import config
from saliency_bench.models.loading import wrap_model
from saliency_bench.models.preflight import inspect_model
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import encoded_ids
from saliency_bench.store.run import read_run
from saliency_bench.studies import prepare as study
from saliency_bench.studies import run as runner
from saliency_bench.studies.block import plan_blocks

LENGTHS = (4, 7, 7, 9, 12, 16)


def bert(hidden=16, layers=2, ffn=32, attention="eager", max_length=64):
    """PyTorch's counter counts attention that is not fused."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    made = BertConfig(
        vocab_size=50,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=ffn,
        max_position_embeddings=max_length,
        num_labels=3,
        initializer_range=0.5 if hidden < 64 else 0.05,
        attn_implementation=attention,
    )
    return BertForSequenceClassification(made).eval()


@pytest.fixture(scope="module")
def model():
    return wrap_model(bert(), FrameTokenizer())


def texts(model, *lengths):
    given = framed(*token_inputs(*(length - 2 for length in lengths)))
    return tuple(encoded_ids(model, one, str(i), None, "a text") for i, one in enumerate(given))


def study_of(model, encoded, *overrides):
    cfg = config.load(
        ["~experiment", "evaluation.removal=zero", "convergence.n_examples=0", *overrides]
    )
    config.validate(cfg)
    cfg = replace(cfg, runtime=replace(cfg.runtime, token_budget=128))
    model = replace(model, ledger=type(model.ledger)())
    settings, _ = study.fit_settings(model, config.settings(cfg))
    findings = inspect_model(model, encoded[0].input_ids, None)
    identity = study.identity_of(cfg, settings, model, encoded)
    return study.Study(cfg, tuple(settings), model, findings, tuple(encoded), (), identity, cfg)


def worked(study):
    """All that the runner computes, without what it writes."""
    refs = References(study.model)
    checked = {one.example_id for one in study.encoded[: study.config.convergence.n_examples]}
    with study.model.frozen():
        for block in plan_blocks(study.encoded):
            items = [study.encoded[index] for index in block.indices]
            runner.block_tables(study, refs, items, checked)
        if study.config.timing.enabled:
            runner.timings(study, refs)
        runner.captum_tolerances(study, refs)


def counted(study):
    """Rows by a hook on the module, which knows nothing of ledgers or plans."""
    rows = Counter()

    def hook(module, args, kwargs, output):
        n, width = kwargs["input_ids"].shape
        kind = "gradient" if output.logits.requires_grad else "forward"
        rows[kind] += n
        rows[f"{kind} tokens"] += n * width

    _ = study.model.pooled_row  # proved once, which is not the study's
    handle = study.model.module.register_forward_hook(hook, with_kwargs=True)
    before = study.model.ledger.copy()
    try:
        worked(study)
    finally:
        handle.remove()
    return rows, study.model.ledger.since(before).total


IG = "method.integrated_gradients"
SG = "method.smoothgrad"
CASES = {
    "steps that nest": [
        "method=[integrated_gradients]", f"{IG}.baseline=zero", f"{IG}.n_steps=[2,4,8]",
        f"{IG}.quadrature=left",
    ],
    "steps that do not": [
        "method=[integrated_gradients]", f"{IG}.baseline=zero", f"{IG}.n_steps=[3,4,5]",
        f"{IG}.quadrature=[gauss_legendre,trapezoid]",
    ],
    "prefixes of samples": ["method=[smoothgrad]", f"{SG}.n_samples=[4,8,12]", "metric=[]"],
    "several sigmas": ["method=[smoothgrad]", f"{SG}.n_samples=8", f"{SG}.noise_std=[0.1,0.5]"],
    "several baselines": [
        "method=[integrated_gradients]", f"{IG}.baseline=[zero,mean,mask]", f"{IG}.n_steps=4",
        "convergence.n_examples=4",
    ],
    "all at once": [
        "method=[vanilla,input_x_gradient,smoothgrad,integrated_gradients,random,leave_one_out]",
        f"{IG}.n_steps=4", f"{SG}.n_samples=4", "method.leave_one_out.removal=zero",
        "method.random.n_rankings=3", "convergence.n_examples=4",
    ],
    "timed, and compared with Captum": [
        "method=[vanilla,integrated_gradients]", f"{IG}.n_steps=4", "backend=[native,captum]",
        "metric=[]", "timing.enabled=true", "timing.n_examples=3", "timing.n_repeats=2",
        "timing.n_warmup=1",
    ],
    "tokens that are dropped": [
        "method=[vanilla,random,leave_one_out]", "method.random.n_rankings=3",
        "method.leave_one_out.removal=attention", "evaluation.removal=attention",
    ],
    "tokens that are deleted": ["method=[vanilla,random]", "evaluation.removal=delete"],
    "methods that compute by themselves": [
        "method=[idgi,sequential_integrated_gradients,attention_rollout,gradient_attention,occlusion]",
        "method.idgi.n_steps=4", "method.sequential_integrated_gradients.n_steps=3",
    ],
}  # fmt: skip


#: What rankings ask together differs from text to text; only a sample of them is run.
CLOSE = 0.25


@pytest.mark.parametrize("name", CASES)
def test_what_is_spent_is_counted_and_foreseen_gradients_are_exact_and_rows_close(model, name):
    study = study_of(model, texts(model, *LENGTHS), *CASES[name])
    total = runner.foresee(study).total
    rows, paid = counted(study)
    assert paid.gradients == rows["gradient"]
    assert paid.gradient_tokens == rows["gradient tokens"]
    assert paid.forward_rows == rows["forward"]
    assert paid.forward_tokens == rows["forward tokens"]
    assert total.gradients == pytest.approx(rows["gradient"], rel=1e-9)
    assert total.gradient_tokens == pytest.approx(rows["gradient tokens"], rel=CLOSE)
    assert total.forward_rows == pytest.approx(rows["forward"], rel=CLOSE)
    assert total.forward_tokens == pytest.approx(rows["forward tokens"], rel=CLOSE)
    assert total.seconds > 0


def test_gradients_stay_exact_where_few_blocks_are_run(model):
    lengths = [*range(4, 24)]
    study = study_of(model, texts(model, *lengths), *CASES["steps that do not"], "metric=[]")
    few = runner.foresee(study, n_blocks=2)
    rows, _ = counted(study)
    assert 2 <= few.sampled < len(lengths)  # two blocks
    assert few.total.gradients == pytest.approx(rows["gradient"], rel=1e-9)


def test_stages_add_up_and_settings_that_share_points_are_named(model):
    study = study_of(model, texts(model, *LENGTHS), *CASES["prefixes of samples"])
    found = runner.foresee(study)
    assert found.stages.keys() == {"maps", "metrics"}
    assert found.total.gradients == sum(work.gradients for work in found.stages.values())
    (shared,) = found.shared
    assert (shared.n_settings, shared.union, shared.largest) == (3, 12, 12)


def test_seconds_and_memory_are_those_of_a_run(model):
    study = study_of(model, texts(model, *LENGTHS * 2), *CASES["all at once"])
    ledger = study.model.ledger
    # A machine that takes a second for each token, and nothing else.
    ledger.clock = lambda: ledger.total.gradient_tokens + ledger.total.forward_tokens
    found = runner.foresee(study)
    before = ledger.copy()
    worked(study)
    paid = ledger.since(before).total
    assert found.total.seconds == pytest.approx(paid.seconds, rel=CLOSE)
    weights = sum(one.numel() * one.element_size() for one in model.module.parameters())
    assert found.peak_bytes is None or found.peak_bytes >= weights


def test_a_forecast_leaves_the_model_and_the_generator_as_they_were(model):
    study = study_of(model, texts(model, *LENGTHS), *CASES["all at once"])
    state = torch.get_rng_state()
    weights = {name: one.clone() for name, one in model.module.state_dict().items()}
    runner.foresee(study)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one, weights[name]) for name, one in model.module.state_dict().items())
    assert all(one.requires_grad for one in model.module.parameters())


def run_of(study, monkeypatch, folder):
    monkeypatch.setattr(runner, "prepare", lambda *_: study)
    monkeypatch.setattr(runner, "folder_of", lambda _: folder)
    said = []
    cfg = replace(study.config, out=str(folder))
    runner.run(cfg, study.settings, ["x"], announce=said.append)
    return said, read_run(folder).manifest["circumstances"]


def test_a_long_run_says_before_what_it_will_cost_and_after_what_it_did(
    model, monkeypatch, tmp_path
):
    monkeypatch.setattr(runner, "LONG_SECONDS", 0.0)
    monkeypatch.setattr(runner, "FORESEEN_TEXTS", len(LENGTHS))
    study = study_of(model, texts(model, *LENGTHS), *CASES["all at once"])
    (sentence,), kept = run_of(study, monkeypatch, tmp_path / "run")
    assert sentence.startswith("About ")
    expected, paid = kept["estimate"]["total"], kept["spent"]
    assert kept["estimate"]["sampled"] > 0
    assert paid["forward_rows"] > expected["forward_rows"] / 2
    assert paid["seconds"] > 0
    assert paid["budget_halvings"] == 0
    assert paid["calls"] > 0


def test_a_run_of_few_texts_is_not_foreseen(model, monkeypatch, tmp_path):
    study = study_of(model, texts(model, 5, 6), *CASES["steps that nest"])
    said, kept = run_of(study, monkeypatch, tmp_path / "run")
    assert said == []
    assert kept["estimate"] is None
