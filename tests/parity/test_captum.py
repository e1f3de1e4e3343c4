"""Ours against Captum, name by name, to the tolerance that its float32 step sizes force."""

import numpy as np
import pytest
import torch
from tiny import token_inputs

import saliency_bench as sb
from saliency_bench.attribution import captum, parity, quadrature
from saliency_bench.attribution.methods import KINDS, METHODS
from saliency_bench.blocks import open_block
from saliency_bench.models.references import References
from saliency_bench.rows import Setting
from saliency_bench.tasks import sequence_classification as task

PATH = {"baseline": "mean", "baseline_special_tokens": "keep", "n_steps": 9}
NOISE = {
    "noise_std": 0.3,
    "noise_range": None,
    "noise_absolute": None,
    "noise_special_tokens": False,
}
DRAWS = {"n_samples": 6, "sampler": "iid", "relative_error": None, "max_samples": None}
NOISY = [DRAWS | NOISE, DRAWS | NOISE | {"sampler": "antithetic"}]
HYPER = {
    "input_baseline_x_gradient": [{key: PATH[key] for key in list(PATH)[:2]}],
    "smoothgrad": NOISY,
    "smoothgrad_squared": NOISY,
    "vargrad": NOISY,
    "smoothgrad_x_input": NOISY,
    "integrated_gradients": [PATH | {"quadrature": rule} for rule in sorted(captum.RULES)],
    "smooth_integrated_gradients": [
        PATH | DRAWS | NOISE | {"quadrature": "midpoint", "statistic": statistic}
        for statistic in captum.TUNNELS
    ],
}
CASES = [
    (name, reduction, hyper)
    for name in captum.METHODS.names()
    for reduction in (["l2", "dot"] if KINDS[name] == "gradient" else ["sum", "l1"])
    for hyper in HYPER.get(name, [{}])
]


def both(model, name, reduction, hyper, lengths=(6, 6, 6), budget=20):
    """Scores of both backends [B T], and the derived tolerance [B]."""
    refs = References(model)
    encoded = [
        task.encoded_ids(model, item, str(index), None, "test")
        for index, item in enumerate(token_inputs(*lengths))
    ]
    with model.frozen():
        block = open_block(refs, encoded, "predicted", budget)
        settings = [
            Setting(name, name, backend, reduction, "predicted", "logit", 0, hyper)
            for backend in ("native", "captum")
        ]
        maps = block.explain(settings)
        tolerance = parity.relative_tolerance(block.context("logit", 0), settings[0])
    native, other = (np.stack([one.scores for one in maps[s.id]]) for s in settings)
    return native, other, tolerance


def apart(native, other):
    return np.abs(native - other).max(1) / np.abs(other).max(1)


@pytest.mark.parametrize(("name", "reduction", "hyper"), CASES)
def test_native_is_captum_within_what_captums_rounding_forces(bert, name, reduction, hyper):
    native, other, tolerance = both(bert, name, reduction, hyper)
    assert (apart(native, other) <= tolerance).all()


@pytest.mark.parametrize("rule", sorted(captum.RULES))
def test_the_tolerance_is_tight_enough_to_see_one_wrong_weight(bert, monkeypatch, rule):
    hyper = PATH | {"quadrature": rule}
    right = quadrature.quadrature(rule, 9)
    wrong = (right[0], (right[1][0] * (1 + 1e-3) + 1e-5, *right[1][1:]))
    monkeypatch.setattr(quadrature, "quadrature", lambda *_: wrong)
    native, other, tolerance = both(bert, "integrated_gradients", "sum", hyper)
    assert (apart(native, other) > tolerance).all()


def test_methods_with_one_gradient_have_no_rounding_to_explain(bert):
    for name, reduction in (("vanilla", "l2"), ("input_x_gradient", "sum")):
        _, _, tolerance = both(bert, name, reduction, {})
        assert (tolerance == 1e-12).all()


def test_captums_trapezoid_is_ours_times_one_minus_one_nth(bert):
    ours, _, _ = both(bert, "integrated_gradients", "sum", PATH | {"quadrature": "midpoint"})
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
    assert ours.shape == (3, 6)


def test_captum_is_given_the_same_noise_whatever_its_batches(bert):
    hyper = HYPER["smoothgrad"][0]
    for budget in (6, 40, 1000):
        native, other, _ = both(bert, "smoothgrad", "l2", hyper, budget=budget)
        assert (apart(native, other) <= 1e-12).all()


def test_every_captum_method_has_the_hyperparameters_of_its_native_twin():
    for name in captum.METHODS.names():
        assert captum.METHODS.hyperparameters(name) == METHODS.hyperparameters(name)


def test_captum_does_not_touch_the_global_random_state(bert):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    both(bert, "smoothgrad", "l2", HYPER["smoothgrad"][0])
    assert torch.equal(torch.get_rng_state(), before)
