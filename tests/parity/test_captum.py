"""Ours against Captum, name by name, to the tolerance that its float32 step sizes force."""

from functools import cache, partial

import numpy as np
import pytest
import torch
from tiny import FrameTokenizer, token_inputs

import saliency_bench as sb
from saliency_bench.attribution import captum, parity
from saliency_bench.attribution.methods import KINDS, METHODS, paths
from saliency_bench.attribution.quadrature import quadrature
from saliency_bench.cli import config
from saliency_bench.core.errors import InputError
from saliency_bench.core.rows import Setting
from saliency_bench.experiments import random_models
from saliency_bench.models.loading import wrap_model
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import encoded_ids
from saliency_bench.studies.block import open_block

PATH = {"baseline": "mean", "baseline_special_tokens": "keep", "n_steps": 9}
NOISE = {
    "noise_std": 0.3,
    "noise_range": None,
    "noise_absolute": None,
    "noise_special_tokens": False,
}
DRAWS = {"n_samples": 6, "sampler": "iid", "relative_error": None, "max_samples": None}
NOISY = [DRAWS | NOISE, DRAWS | NOISE | {"sampler": "antithetic"}]
RANDOM = {"references": "vocabulary", "baseline_special_tokens": "keep"}
#: Three ways to add draws up are three methods with the same parameters; so are the rules of quadrature.
SMOOTH = [
    PATH | DRAWS | NOISE | {"quadrature": "midpoint", "statistic": statistic}
    for statistic in captum.TUNNELS
] + [
    PATH | draws | {"quadrature": "gauss_legendre", "statistic": "variance"} for draws in NOISY[1:]
]
HYPER = {
    "input_baseline_x_gradient": [{key: PATH[key] for key in list(PATH)[:2]}],
    "smoothgrad": NOISY,
    "smoothgrad_squared": NOISY,
    "vargrad": NOISY,
    "smoothgrad_x_input": NOISY,
    "integrated_gradients": [PATH | {"quadrature": rule} for rule in sorted(captum.RULES)],
    "smooth_integrated_gradients": SMOOTH,
    "expected_gradients": [
        RANDOM | DRAWS,
        RANDOM | DRAWS | {"sampler": "antithetic", "baseline_special_tokens": "replace"},
    ],
    "gradient_shap": [RANDOM | noisy for noisy in NOISY],
}
REDUCTIONS = {
    "gradient": ("l2", "dot"),
    "square": ("sum", "l2", "l1"),
    "product": ("sum", "l2", "l1"),
}
CASES = [
    (name, reduction, hyper)
    for name in captum.METHODS.names()
    for reduction in REDUCTIONS[KINDS[name]]
    for hyper in HYPER.get(name, [{}])
]
#: The shared tiny BERT is in float64.
MODELS = [
    ("bert", "float32"),
    ("roberta", "float32"),
    ("roberta", "float64"),
    ("gpt2", "float32"),
    ("gpt2", "float64"),
]

#: The order of sums in float64: what is left where Captum rounds nothing.
EXACT = 1e-12


@cache
def random_model(architecture, dtype="float64"):
    return random_models.random_model(architecture, dtype)


def block_of(model, lengths=(6, 6, 6), budget=100):
    """Texts of these lengths as a block, between special tokens where the model has a tokenizer."""
    inputs = token_inputs(*lengths)
    if model.tokenizer is not None:
        first, last = model.tokenizer.cls_token_id, model.tokenizer.sep_token_id
        inputs = [{"input_ids": [first, *one["input_ids"], last]} for one in inputs]
    encoded = [
        encoded_ids(model, item, str(index), None, "test") for index, item in enumerate(inputs)
    ]
    return open_block(References(model), encoded, "predicted", budget)


def setting_of(name, reduction, hyper, backend="native", output="logit"):
    return Setting(name, name, backend, reduction, "predicted", output, 0, hyper)


def scores(block, setting):
    maps = block.explain([setting])[setting.id]
    found = np.zeros((len(maps), max(len(one.scores) for one in maps)))
    for row, one in enumerate(maps):
        found[row, : len(one.scores)] = one.scores
    return found


def opened(model, name, reduction, hyper, backend="captum", output="logit", **options):
    """A block with its settings of both backends."""
    make = partial(setting_of, name, reduction, hyper, output=output)
    return block_of(model, **options), [make(backend=one) for one in ("native", backend)]


def pair(model, *case, **options):
    """Scores of both backends [B T]."""
    with model.frozen():
        block, settings = opened(model, *case, **options)
        return [scores(block, one) for one in settings]


def both(model, *case, **options):
    """Scores of both backends [B T], and the derived tolerance [B]."""
    with model.frozen():
        block, settings = opened(model, *case, **options)
        tolerance = parity.relative_tolerance(block.context(settings[0].output, 0), settings[0])
        return *(scores(block, one) for one in settings), tolerance


def apart(native, other):
    return np.abs(native - other).max(1) / np.abs(other).max(1)


@pytest.mark.parametrize(("name", "reduction", "hyper"), CASES)
def test_native_is_captum_within_what_captums_rounding_forces(bert, name, reduction, hyper):
    native, other, tolerance = both(bert, name, reduction, hyper)
    assert (apart(native, other) <= tolerance).all()


@pytest.mark.parametrize(("architecture", "dtype"), MODELS)
@pytest.mark.parametrize("name", captum.METHODS.names())
def test_native_is_captum_on_other_models_in_either_type(name, architecture, dtype):
    model = random_model(architecture, dtype)
    reduction = REDUCTIONS[KINDS[name]][0]
    for hyper in HYPER.get(name, [{}]):
        native, other, tolerance = both(model, name, reduction, hyper)
        assert (apart(native, other) <= tolerance).all(), hyper


@pytest.mark.parametrize("name", captum.METHODS.names())
def test_without_cancellation_a_tolerance_is_the_promise_and_a_few_roundings(bert, name):
    for hyper in HYPER.get(name, [{}]):
        _, _, tolerance = both(bert, name, REDUCTIONS[KINDS[name]][0], hyper)
        rounded = 2.0**-16 if "quadrature" in hyper else 0  # 128 roundings to float32
        cancelled = 1e-11 if name == "vargrad" else 0
        assert (tolerance <= EXACT + rounded + cancelled).all(), hyper


# --- Captum's own nodes and weights


def rounded_as_documented(rule, n_steps):
    """What Captum does to a rule, written from its source: weights to float32, Riemann nodes from a float32 linspace."""
    nodes, weights = quadrature(rule, n_steps)
    if rule != "gauss_legendre":
        nodes = torch.linspace(nodes[0], nodes[-1], n_steps, dtype=torch.float32).tolist()
    return tuple(nodes), tuple(np.float32(weights).astype(float).tolist())


def test_captum_rounds_as_documented():
    for rule in captum.RULES:
        for n_steps in (2, 7, 50):
            documented = rounded_as_documented(rule, n_steps)
            for one, other in zip(documented, captum.rounded_rule(rule, n_steps), strict=True):
                np.testing.assert_allclose(one, other, rtol=2**-23)


def test_captums_nodes_are_off_by_at_most_two_roundings_and_its_weights_by_one():
    u = parity.UNIT_ROUNDOFF
    for rule in captum.RULES:
        for n_steps in [*range(2, 40), 50, 100, 300, 1000]:
            nodes, weights = quadrature(rule, n_steps)
            theirs, rounded = captum.rounded_rule(rule, n_steps)
            # Gauss-Legendre nodes of two routines of float64 differ by its rounding.
            allowed = 2**-51 if rule == "gauss_legendre" else 2 * u
            np.testing.assert_allclose(theirs, nodes, rtol=0, atol=allowed)
            np.testing.assert_allclose(rounded, weights, rtol=u * (1 + 1e-6))


@pytest.mark.parametrize("architecture", ["bert", "roberta", "gpt2"])
@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        (name, hyper)
        for name in ("integrated_gradients", "smooth_integrated_gradients")
        for hyper in HYPER[name]
    ],
)
def test_with_captums_own_nodes_and_weights_nothing_is_left_but_the_order_of_sums(
    name, hyper, architecture, monkeypatch
):
    monkeypatch.setattr(paths, "rule", captum.rounded_rule)
    for reduction in ("sum", "l1"):
        native, other = pair(random_model(architecture), name, reduction, hyper)
        assert (apart(native, other) <= EXACT).all()


def test_the_engine_in_captums_rounding_is_left_as_found():
    model, before = random_model("bert"), paths.rule
    hyper = HYPER["integrated_gradients"][0]
    setting = setting_of("integrated_gradients", "sum", hyper)
    with model.frozen():
        block = block_of(model)
        context = block.context("logit", 0)
        rounded = parity.in_captums_rounding(context, setting).scores.numpy()
        plain = scores(block, setting)
        tolerance = parity.relative_tolerance(context, setting, copied=True)
    assert paths.rule is before
    assert 0 < apart(rounded, plain).max() < 1e-6
    assert (tolerance == EXACT).all()


# --- what a tolerance sees


@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        *(("integrated_gradients", hyper) for hyper in HYPER["integrated_gradients"]),
        *(("smooth_integrated_gradients", hyper) for hyper in SMOOTH[:3]),
    ],
)
def test_the_tolerance_is_tight_enough_to_see_one_wrong_weight(bert, monkeypatch, name, hyper):
    nodes, weights = quadrature(hyper["quadrature"], 9)
    wrong = (weights[0] * (1 + 1e-3) + 1e-5, *weights[1:])
    monkeypatch.setattr(paths, "rule", lambda *_: (nodes, wrong))
    native, other, tolerance = both(bert, name, "sum", hyper)
    assert (apart(native, other) > tolerance).all()


@pytest.mark.parametrize("name", ["smoothgrad", "smoothgrad_squared", "vargrad", "gradient_shap"])
def test_the_tolerance_is_tight_enough_to_see_a_millionth_more_noise(bert, name):
    hyper = HYPER[name][0]
    reduction = REDUCTIONS[KINDS[name]][0]
    _, other, tolerance = both(bert, name, reduction, hyper)
    native, _ = pair(bert, name, reduction, hyper | {"noise_std": 0.3 * (1 + 1e-6)})
    assert (apart(native, other) > tolerance).all()


def test_methods_with_one_gradient_have_no_rounding_to_explain(bert):
    for name, reduction in (("vanilla", "l2"), ("input_x_gradient", "sum")):
        _, _, tolerance = both(bert, name, reduction, {})
        assert (tolerance == EXACT).all()


def test_the_less_noise_the_more_of_captums_variance_is_cancelled():
    model = random_model("bert", "float32")
    allowed = []
    for noise_std in (1.0, 0.1, 0.01, 0.001):
        hyper = HYPER["vargrad"][0] | {"noise_std": noise_std}
        native, other, tolerance = both(model, "vargrad", "sum", hyper)
        assert (apart(native, other) <= tolerance).all()
        allowed.append(tolerance.max())
    # E g² / Var g grows with σ⁻².
    assert allowed == sorted(allowed)
    assert allowed[-1] > 100 * allowed[1]


def test_our_variance_keeps_digits_that_captums_loses():
    # The same draws in both types: what float32 changes is rounding alone.
    hyper = HYPER["vargrad"][0] | {"noise_std": 0.001}
    true, _ = pair(random_model("bert", "float64"), "vargrad", "sum", hyper)
    native, other = pair(random_model("bert", "float32"), "vargrad", "sum", hyper)
    assert 100 * apart(native, true).max() < apart(other, true).max()


def test_captums_trapezoid_is_ours_times_one_minus_one_nth(bert):
    refs = {"baseline": "mean", "n_steps": 9}
    trapezoid = sb.attribute(bert, token_inputs(6, 6, 6), quadrature="trapezoid", **refs)
    biased = sb.attribute(
        bert, token_inputs(6, 6, 6), quadrature="captum_riemann_trapezoid", backend="captum", **refs
    )
    for one, other in zip(trapezoid, biased, strict=True):
        # Captum's float32 weights: 2^-24 each.
        np.testing.assert_allclose(
            other.scores, one.scores * 8 / 9, rtol=0, atol=1e-6 * np.abs(one.scores).max()
        )


# --- the layer


@pytest.mark.parametrize("special", ["keep", "replace"])
@pytest.mark.parametrize("baseline", ["mask", "pad", "unk"])
@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert"])
def test_the_layers_integrated_gradients_are_those_of_its_output(architecture, baseline, special):
    # With pad, RoBERTa would count other positions; but the real ids stay in place on the path.
    model = random_model(architecture)
    path = PATH | {"baseline": baseline, "baseline_special_tokens": special}
    for rule in captum.RULES:
        hyper = path | {"quadrature": rule}
        native, other, tolerance = both(model, "integrated_gradients", "sum", hyper, "captum_layer")
        assert (apart(native, other) <= tolerance).all()
        assert (native[:, [0, -1]] == 0).all() == (special == "keep")


@pytest.mark.parametrize("output", ["logit", "probability", "log_probability"])
def test_the_layer_explains_the_output_that_is_asked_for(output):
    hyper = PATH | {"baseline": "unk", "quadrature": "gauss_legendre"}
    native, other, tolerance = both(
        random_model("gpt2"), "integrated_gradients", "sum", hyper, "captum_layer", output
    )
    assert (apart(native, other) <= tolerance).all()


def test_the_layer_explains_a_models_own_criterion_and_is_given_its_mask():
    plain = random_model("bert")
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    model = wrap_model(plain.module, plain.tokenizer, criterion=loss)
    hyper = PATH | {"baseline": "mask", "quadrature": "midpoint"}
    for lengths in ((6, 6), (4, 7)):
        native, other, tolerance = both(
            model, "integrated_gradients", "sum", hyper, "captum_layer", lengths=lengths
        )
        assert (apart(native, other) <= tolerance).all()
        logit, _ = pair(plain, "integrated_gradients", "sum", hyper, lengths=lengths)
        assert (apart(native, logit) > 1e-3).all()


def test_a_layer_that_starts_from_the_text_gives_zeros(bert):
    model = random_model("bert")
    (one,) = sb.attribute(
        model, {"input_ids": [4, 4, 4]}, backend="captum_layer", baseline="mask", n_steps=3
    )
    assert (one.scores == 0).all()
    assert one.output_difference == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backend": "captum_layer", "baseline": "zero"}, ["baseline=zero", "mask, pad, unk"]),
        ({"backend": "captum_layer", "baseline": "mean"}, ["baseline=mean", "token ids"]),
        ({"backend": "captum", "n_steps": 1, "quadrature": "right"}, ["n_steps=1", "at least 2"]),
        ({"backend": "captum_layer", "n_steps": 1, "quadrature": "left"}, ["n_steps=1"]),
        ({"backend": "captum", "quadrature": "trapezoid"}, ["quadrature=trapezoid", "midpoint"]),
        ({"backend": "captum_layer", "method": "vanilla"}, ["captum_layer", "vanilla"]),
    ],
)
def test_what_captum_lacks_is_refused_with_a_way_out(given, said):
    with pytest.raises(InputError) as refused:
        sb.attribute(random_model("bert"), token_inputs(4), **given)
    assert all(word in str(refused.value) for word in said), refused.value


@pytest.mark.parametrize(
    ("family", "said"),
    [
        (
            "gpt2",
            "more than once",
        ),  # its tokenizer tells of two texts, and types are looked up as words
        ("bart", "more than once"),
        ("xlnet", r"not \[B T D\]"),
        ("ctrl", "in place"),
    ],
)
def test_a_layer_that_captum_would_replace_otherwise_than_we_do_is_refused(family, said):
    """Captum's maps of the first two would be zeros, or those of another function; the others would raise."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    sizes = {"d_model": 16, "d_inner": 16, "n_layer": 1, "n_head": 2, "dff": 16, "n_embd": 16}
    if family == "bart":
        sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "eos_token_id": 2}
        sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = AutoConfig.for_model(family, vocab_size=60, pad_token_id=1, **sizes)
    module = AutoModelForSequenceClassification.from_config(config).double().eval()
    given = {"input_ids": [5, 6, 9, 8, 2], "token_type_ids": [0, 0, 1, 1, 1]}
    text = given if family == "gpt2" else {"input_ids": given["input_ids"]}
    model = sb.wrap_model(module, FrameTokenizer())
    options = {"baseline": "pad", "baseline_special_tokens": "keep", "n_steps": 24}
    ours, captums = sb.attribute(model, text, backend=["native", "captum"], **options)
    # Captum rounds the weights of a rule to float32.
    assert np.abs(ours.scores - captums.scores).max() <= 1e-6 * np.abs(ours.scores).max()
    with pytest.raises(InputError, match=f"captum_layer.*{said}.*backend=captum"):
        sb.attribute(model, text, backend="captum_layer", **options)


def test_the_three_backends_stand_beside_each_other_where_they_apply():
    cfg = config.load(
        [
            "~experiment",
            "backend=[native,captum,captum_layer]",
            "method=[vanilla,integrated_gradients]",
        ]
    )
    config.validate(cfg)
    backends = [(one.method, one.backend) for one in config.settings(cfg)]
    assert backends == [
        ("vanilla", "native"),
        ("vanilla", "captum"),
        ("integrated_gradients", "native"),
        ("integrated_gradients", "captum"),
        ("integrated_gradients", "captum_layer"),
    ]
    maps = sb.attribute(
        random_model("bert"),
        token_inputs(5),
        backend=["native", "captum", "captum_layer"],
        n_steps=4,
    )
    assert [one.setting["backend"] for one in maps] == ["native", "captum", "captum_layer"]
    assert len({one.setting["setting_id"] for one in maps}) == 3
    assert len({one.n_gradients for one in maps}) == 1


# --- random draws


@pytest.mark.parametrize(
    "name", ["smoothgrad", "vargrad", "smooth_integrated_gradients", "gradient_shap"]
)
def test_captum_is_given_the_same_draws_whatever_its_batches(name):
    model = random_model("bert")
    reduction = REDUCTIONS[KINDS[name]][0]
    for hyper in HYPER[name][:2]:
        first, *rest = (
            pair(model, name, reduction, hyper, budget=budget)[1] for budget in (24, 60, 1000)
        )
        for other in rest:
            assert (apart(first, other) <= EXACT).all()


@pytest.mark.parametrize("name", captum.METHODS.names())
def test_captum_does_not_touch_the_global_random_states(bert, name):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - the state that Captum would draw from
    before, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    pair(bert, name, REDUCTIONS[KINDS[name]][0], HYPER.get(name, [{}])[0])
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numbers).all()  # noqa: NPY002


def test_captum_is_left_as_found_also_when_the_model_fails(bert, monkeypatch):
    from captum.attr._core import gradient_shap as module

    before = {name: getattr(module, name) for name in ("np", "NoiseTunnel")}

    def fail(*_):
        assert module.NoiseTunnel is not before["NoiseTunnel"]
        raise ZeroDivisionError

    with bert.frozen():
        block = block_of(bert)
        context = block.context("logit", 0)
        context.score = fail
        with pytest.raises(ZeroDivisionError):
            captum.METHODS.call("gradient_shap", context, HYPER["gradient_shap"][0])
    assert {name: getattr(module, name) for name in before} == before


def smoothgrads(model, sigma, seeds, n_samples=25):
    """SmoothGrad's `dot` scores [seed B T] through Captum's noise tunnel as it is, with its own draws."""
    from captum.attr import NoiseTunnel, Saliency

    found = []
    with model.frozen(), torch.random.fork_rng(devices=[]):
        context = block_of(model).context("logit", 0)
        rows = torch.arange(len(context.batch))
        for seed in seeds:
            torch.manual_seed(seed)
            values = NoiseTunnel(Saliency(context.score)).attribute(
                context.embeddings.clone().requires_grad_(),
                additional_forward_args=rows,
                nt_samples=n_samples,
                stdevs=sigma,
                abs=False,
            )
            found.append((values * context.embeddings).sum(-1).numpy())
    return np.stack(found)


def standard_errors_apart(ours, theirs):
    """|difference of means| over its standard error, from independent seeds."""
    errors = [one.std(0, ddof=1) / np.sqrt(len(one)) for one in (ours, theirs)]
    return np.abs(ours.mean(0) - theirs.mean(0)) / np.hypot(*errors)


def test_smoothgrad_with_captums_own_draws_has_the_same_mean(bert):
    sigma, seeds = 0.3, range(20)
    maps = sb.attribute(
        bert,
        token_inputs(6, 6, 6),
        "smoothgrad",
        reduction="dot",
        noise_absolute=sigma,
        n_samples=25,
        sampler="iid",
        seed=list(seeds),
    )
    ours = np.array([one.scores for one in maps]).reshape(3, 20, 6).swapaxes(0, 1)
    same = standard_errors_apart(ours, smoothgrads(bert, sigma, seeds))
    assert same.max() < 4
    # And it would be seen if Captum's σ were another one.
    assert standard_errors_apart(ours, smoothgrads(bert, 2 * sigma, seeds)).max() > 4


def test_every_captum_method_has_the_hyperparameters_of_its_native_twin():
    for registry in captum.BACKENDS.values():
        for name in registry.names():
            assert registry.hyperparameters(name) == METHODS.hyperparameters(name)
