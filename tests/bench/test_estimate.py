"""What a study is said to cost is what it then costs, counted from outside while it runs."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from tiny import FrameTokenizer, framed, token_inputs
from torch.utils.flop_counter import FlopCounterMode

from saliency_bench import config, runner, study
from saliency_bench.bench import cost, floor
from saliency_bench.bench import estimate as estimating
from saliency_bench.bench.cost import Parabola, costs
from saliency_bench.bench.memory import peak_memory
from saliency_bench.blocks import open_block, plan_blocks
from saliency_bench.models.ledger import CURVES
from saliency_bench.models.loading import wrap_model
from saliency_bench.models.preflight import inspect_model
from saliency_bench.models.references import References
from saliency_bench.models.stand_in import stand_in
from saliency_bench.store.run import read_run
from saliency_bench.tasks import sequence_classification as task

LENGTHS = (4, 7, 7, 9, 12, 12, 16, 18)


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
    return tuple(
        task.encoded_ids(model, one, str(i), None, "a text") for i, one in enumerate(given)
    )


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
    """Rows and operations by a hook on the module and PyTorch's counter: neither knows of ledgers or plans."""
    rows = Counter()

    def hook(module, args, kwargs, output):
        n, width = kwargs["input_ids"].shape
        kind = "gradient" if output.logits.requires_grad else "forward"
        rows[kind] += n
        rows[f"{kind} tokens"] += n * width

    _ = study.model.pooled_layer  # proved once, which is not the study's
    handle = study.model.module.register_forward_hook(hook, with_kwargs=True)
    try:
        with FlopCounterMode(display=False) as flops:
            worked(study)
    finally:
        handle.remove()
    return rows, flops.get_total_flops()


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


@pytest.mark.parametrize("name", CASES)
def test_the_estimate_is_what_is_then_counted(model, name):
    study = study_of(model, texts(model, *LENGTHS), *CASES[name])
    foreseen = runner.foresee(study).total
    rows, flops = counted(study)
    assert foreseen.gradients == pytest.approx(rows["gradient"], abs=1e-6)
    assert foreseen.gradient_tokens == pytest.approx(rows["gradient tokens"], abs=1e-6)
    assert foreseen.forward_rows == pytest.approx(rows["forward"], rel=0.25)
    assert foreseen.forward_tokens == pytest.approx(rows["forward tokens"], rel=0.25)
    assert foreseen.flops == pytest.approx(flops, rel=0.25)


@pytest.mark.parametrize("name", ["steps that nest", "all at once"])
def test_what_is_spent_is_what_is_counted_from_outside(model, name):
    study = study_of(model, texts(model, 5, 5, 8), *CASES[name])
    _ = study.model.pooled_layer
    before = study.model.ledger.copy()
    rows, flops = counted(study)
    ledger = study.model.ledger.since(before)
    with study.model.frozen():
        paid = estimating.spent(ledger, costs(study.model, study.encoded[-1]))
    assert paid.gradients == rows["gradient"] > 0
    assert paid.forward_rows == rows["forward"] > 0
    assert paid.gradient_tokens == rows["gradient tokens"]
    assert paid.forward_tokens == rows["forward tokens"]
    assert paid.flops == pytest.approx(flops, rel=0.02)


def test_between_rehearsed_lengths_gradients_stay_exact(model, monkeypatch):
    monkeypatch.setattr(estimating, "MOST_LENGTHS", 3)
    study = study_of(model, texts(model, *LENGTHS), *CASES["all at once"])
    foreseen = runner.foresee(study).total
    rows, flops = counted(study)
    assert foreseen.gradients == pytest.approx(rows["gradient"], abs=1e-6)
    assert foreseen.forward_rows == pytest.approx(rows["forward"], rel=0.25)
    assert foreseen.flops == pytest.approx(flops, rel=0.25)


def test_rankings_that_agree_are_seen_to_ask_less(model):
    """A sweep whose settings are nearly alike: most of their questions are the same."""
    sweep = ["method=[integrated_gradients]", f"{IG}.n_steps=[24,28,32,36]"]
    study = study_of(model, texts(model, *LENGTHS), *sweep, f"{IG}.baseline=zero")
    foreseen = runner.foresee(study)
    rows, _ = counted(study)
    metrics = next(line for line in foreseen.lines if line.place.stage == CURVES)
    assert metrics.least.forward_rows <= metrics.work.forward_rows < metrics.most.forward_rows / 1.5
    assert foreseen.total.forward_rows == pytest.approx(rows["forward"], rel=0.25)


@pytest.mark.parametrize(
    "overrides",
    [
        [
            "method=[smoothgrad]", f"{SG}.n_samples=auto", f"{SG}.relative_error=0.3",
            f"{SG}.max_samples=256", f"{SG}.noise_std=0.3",
        ],
        [
            "method=[integrated_gradients_adaptive]",
            "method.integrated_gradients_adaptive.baseline=zero",
            "method.integrated_gradients_adaptive.max_steps=200",
        ],
    ],
)  # fmt: skip
def test_what_goes_on_until_it_is_sure_lies_between_the_bounds(model, overrides):
    study = study_of(model, texts(model, *LENGTHS), *overrides, "metric=[]")
    foreseen = runner.foresee(study)  # learns the density, if one is needed
    rows, _ = counted(study)
    least = sum(line.least.gradients for line in foreseen.lines)
    assert least <= rows["gradient"] <= foreseen.most.gradients
    assert least < foreseen.most.gradients
    # Three of ten texts speak for all.
    assert foreseen.total.gradients == pytest.approx(rows["gradient"], rel=0.5)


def test_where_all_is_soon_done_the_model_is_not_asked_for_maps(model):
    study = study_of(model, texts(model, *LENGTHS), *CASES["steps that nest"])
    assert runner.foresee(study, long_seconds=1e9).tasted == 0
    assert runner.foresee(study).tasted > 0


def test_an_estimate_leaves_the_model_and_the_generator_as_they_were(model):
    study = study_of(model, texts(model, *LENGTHS), *CASES["all at once"])
    module = study.model.module.train()
    state = torch.random.get_rng_state()
    runner.foresee(study)
    assert module.training
    assert all(one.requires_grad for one in module.parameters())
    assert torch.equal(state, torch.random.get_rng_state())
    module.eval()


def test_no_answer_of_a_stand_in_outlives_it(model):
    """A density learnt from random answers must not be taken for the model's."""
    from saliency_bench.attribution import calibration

    study = study_of(model, texts(model, 5, 6), "method=[integrated_gradients_adaptive]")
    calibration._KNOWN.pop(study.model.module, None)
    with study.model.frozen():
        other = stand_in(study.model, 3, seed=0)
        runner._rehearse(study, References(other), study.encoded[0])
    assert study.model.module not in calibration._KNOWN
    assert other.facts["source"] == "stand-in"  # no kind that is kept on disk


@pytest.mark.parametrize("length", [3, 11, 20])
def test_operations_are_the_closed_forms_of_an_encoder(length):
    hidden, ffn, layers, classes = 16, 32, 2, 3
    whole = wrap_model(bert(hidden, layers, ffn), FrameTokenizer())
    with whole.frozen():
        measured = costs(whole, texts(whole, 24)[0])
    head = 2 * hidden**2 + 2 * hidden * classes  # pooler and classifier, for one token
    forward = floor.forward_flops(layers, hidden, ffn, [length]) + head
    gradient = floor.gradient_flops(layers, hidden, ffn, [length], 1) + 2 * head
    assert measured.flops[False, False](length) == pytest.approx(forward, rel=1e-9)
    assert measured.flops[True, False](length) == pytest.approx(gradient, rel=1e-9)
    assert measured.flops[True, True](length) < gradient  # one row of the last layer's end
    assert measured.n_classes == classes


def test_fused_attention_on_a_cpu_is_counted():
    found = []
    for attention in ("eager", "sdpa"):
        one = wrap_model(bert(attention=attention), FrameTokenizer())
        with one.frozen():
            found.append(costs(one, texts(one, 24)[0]).flops[False, False](24))
    assert found[0] == found[1]


def test_a_parabola_goes_through_its_places():
    found = Parabola.through([2, 4, 8], [3 + 2 * n + 5 * n**2 for n in (2, 4, 8)])
    assert found(6) == pytest.approx(3 + 12 + 180)
    assert Parabola.through([3], [7.0])(9) == 7.0
    assert Parabola.through([1, 2], [5.0, 1.0])(9) == 0.0


@pytest.fixture(scope="module")
def larger():
    """Large enough that its passes stand out of what a process takes anyway."""
    return wrap_model(bert(256, 4, 1024, "sdpa"), FrameTokenizer())


@pytest.mark.parametrize("method", ["vanilla", "smoothgrad"])
def test_memory_is_what_a_block_is_seen_to_take(larger, method):
    encoded = texts(larger, *[24] * 40)
    overrides = [f"method=[{method}]", "metric=[]"]
    study = study_of(larger, encoded, *overrides)
    runtime = replace(study.config.runtime, token_budget=1024)
    study = replace(study, config=replace(study.config, runtime=runtime))
    foreseen = runner.foresee(study, long_seconds=1e9).peak_bytes
    weights = sum(one.numel() * 4 for one in larger.module.parameters())

    def explained():
        open_block(References(larger), encoded, "predicted", 1024).explain(study.settings)

    with larger.frozen():
        with cost._Watched(larger) as watched:
            explained()
        with peak_memory("cpu") as peak:
            explained()
    tensors = (foreseen - weights) / estimating.RESIDENT["cpu"]
    assert tensors == pytest.approx(watched.peak, rel=0.15)
    if peak.peak_bytes is None:
        pytest.skip("this system cannot reset its high-water mark")
    assert foreseen == pytest.approx(peak.peak_bytes + weights, rel=0.25)


def test_a_run_says_before_what_it_will_cost_and_after_what_it_did(model, monkeypatch, tmp_path):
    study = study_of(model, texts(model, *LENGTHS), *CASES["all at once"])
    monkeypatch.setattr(runner, "prepare", lambda *_: study)
    monkeypatch.setattr(runner, "LONG_SECONDS", 0.0)
    said = []
    cfg = replace(study.config, out=str(tmp_path / "run"))
    monkeypatch.setattr(runner, "folder_of", lambda _: tmp_path / "run")
    folder = runner.run(cfg, study.settings, ["x"], announce=said.append)
    (sentence,) = said
    assert sentence.startswith("About ")
    kept = read_run(folder).manifest["circumstances"]
    expected, paid = kept["estimate"]["total"], kept["spent"]
    assert paid["gradients"] == pytest.approx(expected["gradients"])
    assert paid["forward_rows"] == pytest.approx(expected["forward_rows"], rel=0.25)
    assert paid["flops"] == pytest.approx(expected["flops"], rel=0.25)
    assert paid["seconds"] > 0
    assert paid["budget_halvings"] == 0
    assert paid["calls"] > 0


def test_a_short_run_says_nothing_and_a_finished_one_is_left_alone(model, monkeypatch, tmp_path):
    study = study_of(model, texts(model, 5, 6), *CASES["steps that nest"])
    monkeypatch.setattr(runner, "prepare", lambda *_: study)
    monkeypatch.setattr(runner, "folder_of", lambda _: tmp_path)
    said = []
    kept = [
        read_run(runner.run(study.config, study.settings, ["x"], announce=said.append)).manifest
        for _ in range(2)
    ]
    assert said == []
    assert kept[0]["circumstances"]["estimate"]["tasted"] == 0
    assert kept[1] == kept[0]


def test_a_study_does_not_fail_for_want_of_an_estimate(model, monkeypatch, tmp_path):
    study = study_of(model, texts(model, 5, 6), *CASES["steps that nest"])
    monkeypatch.setattr(runner, "prepare", lambda *_: study)
    monkeypatch.setattr(runner, "folder_of", lambda _: tmp_path)

    def fails(*_, **__):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(runner, "estimate", fails)
    said = []
    runner.run(study.config, study.settings, ["x"], announce=said.append)
    assert said == ["No estimate of what this will cost: no such luck"]


def test_pace_scales_what_was_not_timed_by_its_operations(model):
    with model.frozen():
        measured = costs(model, texts(model, 24)[0])
    pace = cost.Pace((10, 20), {True: (1.0, 2.0), False: (0.5, 0.5)})
    assert pace(measured, (True, True), 15) == pytest.approx(1.5 * 15)
    assert pace(measured, (False, False), 15) == pytest.approx(0.5 * 15)
    whole = measured.flops[True, False](15) / measured.flops[True, True](15)
    assert pace(measured, (True, False), 15) == pytest.approx(1.5 * 15 * whole)
