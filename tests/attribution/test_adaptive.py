"""Nodes by density, and Integrated Gradients to a stated accuracy."""

import json
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline, KroghInterpolator
from scipy.special import erf
from tiny import scored_by, tiny_bert, token_inputs
from transformers import LlamaConfig, LlamaForSequenceClassification

import saliency_bench as sb
from saliency_bench.attribution import calibration
from saliency_bench.attribution.adaptive import Refinement, schedule
from saliency_bench.attribution.density import (
    Density,
    calibrated_rule,
    cell_integrals,
    learn,
    middles,
    refined,
    spline_weights,
    uniform,
    unpredicted,
)
from saliency_bench.core.errors import InputError

PATH = {"baseline": "mean", "baseline_special_tokens": "keep"}


def peak(alpha, at=0.1, width=0.05):
    return 1 / (1 + ((alpha - at) / width) ** 2)


def slow_cells(u, values):
    """The same integrals by scipy: the natural spline between the nodes, its tangents outside."""
    spline = CubicSpline(u, values, bc_type="natural")
    first, last = spline(u[0], 1), spline(u[-1], 1)
    before = u[0] * values[0] - u[0] ** 2 / 2 * first
    after = (1 - u[-1]) * values[-1] + (1 - u[-1]) ** 2 / 2 * last
    return [before, *(spline.integrate(a, b) for a, b in pairwise(u)), after]


@pytest.mark.parametrize("n", [3, 4, 9])
def test_cells_are_the_integrals_of_the_natural_spline(n):
    rng = np.random.default_rng(n)
    u, values = np.sort(rng.random(n)), rng.normal(size=n)
    expected = slow_cells(u, values)
    # A tridiagonal system of n equations with a condition number below 1e3.
    np.testing.assert_allclose(cell_integrals(u, values), expected, rtol=0, atol=1e-11)
    assert spline_weights(u) @ values == pytest.approx(sum(expected), abs=1e-11)


def test_cells_integrate_straight_lines_exactly():
    u = np.array([0.0, 0.2, 0.5, 1.0])
    assert cell_integrals(u, 2 * u + 1).sum() == pytest.approx(2.0, abs=1e-14)
    assert spline_weights(u) @ (2 * u + 1) == pytest.approx(2.0, abs=1e-14)


@pytest.mark.parametrize("n", [4, 5, 12])
def test_a_node_is_predicted_by_the_cubic_through_its_four_neighbours(n):
    rng = np.random.default_rng(n)
    u, values = np.sort(rng.random(n)), rng.normal(size=(n, 2))
    found = unpredicted(u, values)
    for node in range(n):
        first = min(max(node - 2, 0), max(n - 5, 0))
        near = [other for other in range(first, min(first + 5, n)) if other != node]
        for token in range(2):
            predicted = KroghInterpolator(u[near], values[near, token])(u[node])
            assert found[node, token] == pytest.approx(values[node, token] - predicted, rel=1e-8)


@pytest.mark.parametrize("density", [uniform(), learn([peak(np.linspace(0, 1, 65))[:, None]])])
def test_calibrated_weights_sum_to_one_and_nodes_are_inside(density):
    for n in (3, 8, 50):
        alphas, weights = calibrated_rule(density, n)
        assert weights.sum() == pytest.approx(1, abs=1e-14)
        assert ((alphas > 0) & (alphas < 1)).all()
        assert (np.diff(alphas) > 0).all()


@pytest.mark.parametrize("density", [uniform(), learn([peak(np.linspace(0, 1, 65), 0.8)[:, None]])])
def test_a_density_fit_or_unfit_gives_a_rule_that_converges(density):
    exact = 0.05 * (np.arctan(18) + np.arctan(2))
    errors = []
    for n in (32, 64, 128):
        alphas, weights = calibrated_rule(density, n)
        errors.append(abs(weights @ peak(alphas) - exact))
    # At least second order; a table of 2049 points bounds how smooth the change of variable is.
    assert errors[1] < errors[0] / 3 or errors[1] < 1e-6
    assert errors[2] < errors[1] / 3 or errors[2] < 1e-6


def test_nodes_stand_where_the_integrand_is_large():
    density = learn([peak(np.linspace(0, 1, 65))[:, None]])
    alphas, weights = calibrated_rule(density, 16)
    equal = (np.arange(16) + 0.5) / 16
    exact = 0.05 * (np.arctan(18) + np.arctan(2))
    assert abs(weights @ peak(alphas) - exact) < abs(peak(equal).mean() - exact) / 5


def test_texts_count_alike_whatever_the_size_of_their_scores():
    grid = np.linspace(0, 1, 65)
    one, other = peak(grid)[:, None], peak(grid, 0.9)[:, None]
    a, b = learn([one, other]), learn([1000 * one, other])
    np.testing.assert_allclose(a.values, b.values, rtol=1e-12)


def test_texts_without_scores_teach_nothing():
    assert learn([np.zeros((65, 3))]).values.tolist() == uniform().values.tolist()


def test_cumulative_and_alpha_are_inverse():
    density = learn([peak(np.linspace(0, 1, 65))[:, None]])
    u = np.linspace(0, 1, 17)
    back = np.interp(density.alpha(u), density.alphas, density.cumulative)
    np.testing.assert_allclose(back, u, atol=1e-12)


def test_further_nodes_go_where_the_residual_is():
    u = np.array([0.25, 0.5, 0.75])
    assert refined(u, np.array([0.0, 0.0, 1.0, 0.0]), 2).tolist() == pytest.approx([7 / 12, 8 / 12])
    # A half counts as an eighth: the second cell comes before the first is halved again.
    assert refined(u, np.array([1.0, 0.2, 0.0, 0.0]), 2).tolist() == pytest.approx([0.125, 0.375])


def test_no_node_goes_into_a_cell_without_width():
    u = np.array([0.5, 1.0])
    assert (refined(np.array([0.25, 0.5, 1.0]), np.array([0.0, 0.0, 0.0, 5.0]), 1) < 1).all()
    assert len(refined(u, np.zeros(3), 3)) == 3


def test_residuals_are_what_the_score_knows_and_the_spline_does_not():
    work = Refinement.at_input(uniform(), 0.0, 1.0, np.array([2.0]), 1e-16)
    u = middles(4)
    step = work.add(u, 2 * u[:, None], u**2)  # F = α²: the integrand is a straight line
    assert step.error < 1e-12
    assert step.scores == pytest.approx([1.0])
    wrong = Refinement.at_input(uniform(), 0.0, 1.0, np.array([2.0]), 1e-16)
    assert wrong.add(u, 2 * u[:, None] + 0.1, u**2).error > 0.01


# --- what `converged` promises, on nets whose integrals are known


class ReluNet:
    """Σ_h v_h relu(b_h + w_h · x), w_h by token and dimension."""

    def __init__(self, rng, n_tokens, n_units, depth=4):
        self.weights = rng.normal(size=(n_units, n_tokens, depth))
        self.bias = rng.normal(size=n_units) * (n_tokens * depth) ** 0.5 / 2
        self.out = rng.normal(size=n_units)

    def path(self, rng):
        moved = (self.weights * rng.normal(size=self.weights.shape[1:])).sum(2)
        return ReluPath(self.bias, moved, self.out)


class ReluPath:
    """The path from 0 to a text, with the scores of its tokens in closed form."""

    def __init__(self, bias, moved, out):
        self.bias, self.moved, self.out = bias, moved, out
        self.slope = moved.sum(1)
        # A unit is active on one side of its kink: the share of the path that lies there is its integral.
        kink = np.clip(-bias / self.slope, 0, 1)
        self.scores = (out * np.where(self.slope > 0, 1 - kink, kink)) @ moved

    def values(self, alpha):
        return np.maximum(self.bias + np.outer(alpha, self.slope), 0) @ self.out

    def integrands(self, alpha):
        return (self.out * (self.bias + np.outer(alpha, self.slope) > 0)) @ self.moved


class SoftPath(ReluPath):
    """The same with softplus(4 z) / 4 for relu(z): a path without kinks."""

    def __init__(self, bias, moved, out):
        super().__init__(bias, moved, out)
        ends = [self.soft(bias + alpha * self.slope) for alpha in (0, 1)]
        self.scores = (out * (ends[1] - ends[0]) / self.slope) @ moved

    def soft(self, z):
        return np.logaddexp(0, 4 * z) / 4

    def values(self, alpha):
        return self.soft(self.bias + np.outer(alpha, self.slope)) @ self.out

    def integrands(self, alpha):
        inside = self.bias + np.outer(alpha, self.slope)
        return (self.out / (1 + np.exp(-4 * inside))) @ self.moved


def spiked(path, at, width, share):
    """The path with a bump of two tokens, + and -: neither F nor the sum over tokens has it."""
    size = share * np.abs(path.scores).max()
    bump = np.zeros(len(path.scores))
    bump[:2] = size, -size

    def integrands(alpha):
        heights = np.exp(-(((alpha - at) / width) ** 2)) / (width * np.pi**0.5)
        return path.integrands(alpha) + heights[:, None] * bump

    whole = (erf((1 - at) / width) + erf(at / width)) / 2
    return SimpleNamespace(
        values=path.values, integrands=integrands, scores=path.scores + whole * bump
    )


def refine(path, density, tolerance=0.01, unit=1.0, most=128):
    """What `integrate` does with one text, in the output's unit."""
    ends = np.array([0.0, 1.0])
    start, end = unit * path.values(ends)
    at_input = unit * path.integrands(ends[1:])[0]
    work = Refinement.at_input(density, start, end, at_input, np.finfo(float).eps)
    step = None
    for n_more in schedule(tolerance, most):
        u = middles(n_more) if step is None else work.next_nodes(n_more)
        alpha = density.alpha(u)
        step = work.add(u, unit * path.integrands(alpha), unit * path.values(alpha))
        if max(step.error, step.gap) <= tolerance:
            break
    return step


def learnt_from(paths):
    grid = np.linspace(0, 1, calibration.N_NODES)
    return learn([path.integrands(grid) for path in paths])


def true_and_stated(paths, tolerance=0.01):
    """Largest token errors over the largest score, true and stated; a density is learnt from other paths."""
    density = learnt_from(paths[:24])
    found = []
    for path in paths[24:]:
        step = refine(path, density, tolerance)
        true = np.abs(step.scores - path.scores).max() / np.abs(path.scores).max()
        found.append((true, max(step.error, step.gap)))
    return found


@pytest.mark.parametrize("tolerance", [0.02, 0.01, 0.005])
def test_of_converged_maps_of_relu_nets_one_in_a_hundred_is_off_by_more(tolerance):
    found = []
    for n_tokens in (4, 10, 25):
        for n_units in (8, 32, 128):
            rng = np.random.default_rng([n_tokens, n_units])
            net = ReluNet(rng, n_tokens, n_units)
            found += true_and_stated([net.path(rng) for _ in range(24 + 40)], tolerance)
    true, stated = np.array(found).T
    converged = stated <= tolerance
    assert converged.mean() > 0.8
    # Of 360 texts: within two standard errors of 1 %.
    assert (true[converged] > tolerance).mean() <= 0.02
    assert true[converged].max() < 2 * tolerance
    assert (true > stated).mean() <= 0.02


def test_maps_of_smooth_nets_that_converged_are_all_within_the_tolerance():
    rng = np.random.default_rng(5)
    net = ReluNet(rng, 10, 32)
    paths = [net.path(rng) for _ in range(24 + 60)]
    found = true_and_stated([SoftPath(one.bias, one.moved, one.out) for one in paths])
    true, stated = np.array(found).T
    assert (stated <= 0.01).all()
    assert (true <= stated).all()


@pytest.mark.parametrize("width", [0.05, 0.1])
def test_an_error_that_cancels_between_tokens_is_seen(width):
    rng = np.random.default_rng(6)
    net = ReluNet(rng, 10, 32)
    paths = [net.path(rng) for _ in range(24 + 40)]
    soft = [SoftPath(one.bias, one.moved, one.out) for one in paths]
    found = true_and_stated([spiked(one, rng.uniform(0.2, 0.8), width, 0.1) for one in soft])
    true, stated = np.array(found).T
    assert (true[stated <= 0.01] <= 0.01).all()
    assert (true <= stated).all()


@pytest.mark.parametrize("unit", [2.0**-40, 0.01, 1000.0, 2.0**40])
def test_a_multiple_of_the_output_has_that_multiple_of_the_map_and_the_same_certificate(unit):
    rng = np.random.default_rng(7)
    net = ReluNet(rng, 6, 16)
    paths = [net.path(rng) for _ in range(24 + 8)]
    density = learnt_from(paths[:24])
    for path in paths[24:]:
        one, other = refine(path, density), refine(path, density, unit=unit)
        assert one.n == other.n
        np.testing.assert_allclose(other.scores, unit * one.scores, rtol=1e-9)
        assert other.error == pytest.approx(one.error, rel=1e-9)


def zero_map(values):
    """The step after nodes at which the gradient is 0 and F is this."""
    work = Refinement.at_input(uniform(), values[0], values[-1], np.zeros(2), np.finfo(float).eps)
    inside = np.array(values[1:-1])
    return work.add(middles(len(inside)), np.zeros((len(inside), 2)), inside)


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_a_map_of_zeros_is_certified_only_where_the_output_does_not_change(unit):
    flat, rounded = [unit] * 8, [unit, *[unit * (1 + 2**-52)] * 7]
    step, there_and_back = [unit] * 4 + [2 * unit] * 4, [unit, unit, 2 * unit, *[unit] * 5]
    for values in (flat, rounded):
        assert zero_map(values).error == 0
    for values in (step, there_and_back):
        assert zero_map(values).error == np.inf


def test_a_model_that_jumps_where_its_gradient_is_zero_is_not_certified():
    # The last dimension has a gradient and is 0 in every text: nothing moves along it.
    model = scored_by(
        lambda embeddings: embeddings.sum((1, 2)).round() + embeddings[..., -1].sum(1)
    )
    model.module.embedding.weight.data[:, -1] = 0
    (one,) = sb.attribute(
        model, token_inputs(6), "integrated_gradients_adaptive", baseline="zero", max_steps=16
    )
    assert (one.scores == 0).all()
    assert one.output_difference != 0
    assert not one.converged
    assert "every score is 0" in one.reason


def scaled(model, unit):
    """The model with this multiple of its logits."""
    with torch.no_grad():
        model.classifier.weight.mul_(unit)
        model.classifier.bias.mul_(unit)
    return sb.wrap_model(model)


def test_the_certificate_of_a_model_does_not_depend_on_the_unit_of_its_logits():
    items = token_inputs(6, 9)
    options = {"target": 1, "tolerance": 0.01, **PATH}
    ones = sb.attribute(
        sb.wrap_model(tiny_bert()), items, "integrated_gradients_adaptive", **options
    )
    for unit in (1e-3, 128.0):
        others = sb.attribute(
            scaled(tiny_bert(), unit), items, "integrated_gradients_adaptive", **options
        )
        for one, other in zip(ones, others, strict=True):
            assert (one.n_gradients, one.converged) == (other.n_gradients, other.converged)
            assert other.error == pytest.approx(one.error, rel=1e-6)
            np.testing.assert_allclose(other.scores, unit * one.scores, rtol=1e-8)


@pytest.mark.parametrize("tolerance", [0.05, 0.01, 0.001])
@pytest.mark.parametrize("most", [13, 20, 128])
def test_rounds_never_exceed_the_most_steps(tolerance, most):
    assert sum(schedule(tolerance, most)) == most - 1


def errors_of(model, items, **options):
    dense = sb.attribute(model, items, n_steps=400, **PATH)
    found = sb.attribute(model, items, "integrated_gradients_adaptive", **PATH, **options)
    apart = [
        float(np.abs(one.scores - two.scores).max() / np.abs(two.scores).max())
        for one, two in zip(found, dense, strict=True)
    ]
    return found, np.array(apart)


def test_errors_stay_below_their_estimates_for_most_texts():
    # A random network with weights this large is harsher than a trained one; its errors still keep to what they say.
    model = sb.wrap_model(tiny_bert())
    found, apart = errors_of(model, token_inputs(*[7] * 30), tolerance=0.01)
    stated = np.array([one.error for one in found])
    assert (apart <= stated).mean() >= 0.8
    assert np.quantile(apart, 0.9) < 0.02


def test_a_smaller_tolerance_costs_more_and_errs_less(bert):
    items = token_inputs(*[7] * 8)
    rough, far = errors_of(bert, items, tolerance=0.05)
    fine, near = errors_of(bert, items, tolerance=0.001)
    assert sum(one.n_gradients for one in rough) < sum(one.n_gradients for one in fine)
    assert near.max() < far.max()


def test_what_did_not_converge_says_so_and_why(bert):
    found, _ = errors_of(bert, token_inputs(*[7] * 8), tolerance=1e-5, max_steps=14)
    assert not any(one.converged for one in found)
    assert all("14 gradients" in one.reason for one in found)
    assert {one.n_gradients for one in found} == {14}


def test_a_zero_baseline_of_a_model_that_sees_no_scale_is_not_passed_off_as_converged():
    # RMSNorm first and no positions: on the way to zero nothing changes until the very end, where all of it does.
    torch.manual_seed(0)
    shape = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "pad_token_id": 0}
    config = LlamaConfig(**shape, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.2)
    model = sb.wrap_model(LlamaForSequenceClassification(config).double())
    gaps = {}
    for baseline in ("zero", "mean"):
        options = {"baseline": baseline, "n_steps": 64, "quadrature": "gauss_legendre"}
        fixed = sb.attribute(model, token_inputs(9, 9), **options)
        gaps[baseline] = [abs(one.completeness_gap / one.output_difference) for one in fixed]
    assert max(gaps["mean"]) < 1e-3 < 0.1 < min(gaps["zero"])
    options = {"method": "integrated_gradients_adaptive", "baseline": "zero", "tolerance": 0.01}
    for one in sb.attribute(model, token_inputs(9, 9), **options, max_steps=128):
        assert abs(one.completeness_gap) > 0.01 * np.abs(one.scores).max()
        assert not one.converged
        assert "128 gradients" in one.reason


def test_texts_that_converged_have_no_reason_not_to(bert):
    found, _ = errors_of(bert, token_inputs(*[7] * 4), tolerance=0.05)
    assert all(one.converged and one.reason is None for one in found)


def test_adaptive_scores_do_not_depend_on_company_order_or_budget(bert):
    items = token_inputs(5, 9, 5, 7)
    options = {"tolerance": 0.01, **PATH}
    together = sb.attribute(bert, items, "integrated_gradients_adaptive", **options)
    turned = sb.attribute(bert, items[::-1], "integrated_gradients_adaptive", **options)[::-1]
    small = sb.attribute(bert, items, "integrated_gradients_adaptive", token_budget=1, **options)
    for a, b, c in zip(together, turned, small, strict=True):
        assert a.n_gradients == b.n_gradients == c.n_gradients
        for other in (b, c):
            np.testing.assert_allclose(
                a.scores, other.scores, rtol=0, atol=1e-12 * np.abs(a.scores).max()
            )


def test_the_gradient_at_the_input_is_used_and_not_paid_for_again():
    model = sb.wrap_model(tiny_bert())
    options = {"tolerance": 0.9, "max_steps": 13, **PATH}
    sb.attribute(model, token_inputs(6), "integrated_gradients_adaptive", **options)  # learns
    calls = []
    handle = model.module.register_forward_pre_hook(
        lambda *_: calls.append(torch.is_grad_enabled())
    )
    (one,) = sb.attribute(
        model, token_inputs(6), "integrated_gradients_adaptive", token_budget=6, **options
    )
    handle.remove()
    with_gradient = sum(calls) - 1  # the preflight probe takes one
    assert with_gradient == one.n_gradients


def test_a_text_that_is_its_own_baseline_has_no_scores_and_has_converged():
    model = sb.wrap_model(tiny_bert())
    token = 7
    vector = model.embed(torch.tensor([[token]]))[0, 0]
    model.module.get_input_embeddings().weight.data[:] = vector  # mean = every token
    (one,) = sb.attribute(
        model, [{"input_ids": [token] * 5}], "integrated_gradients_adaptive", **PATH
    )
    assert np.abs(one.scores).max() < 1e-12
    assert one.converged


@pytest.mark.parametrize(
    ("options", "words"),
    [({"tolerance": 0.0}, "tolerance=0.0"), ({"max_steps": 5}, "max_steps=5")],
)
def test_a_tolerance_or_a_budget_that_makes_no_sense_is_refused(bert, options, words):
    with pytest.raises(InputError, match=words):
        sb.attribute(bert, token_inputs(5), "integrated_gradients_adaptive", **PATH, **options)


def test_calibrated_nodes_belong_to_integrated_gradients_alone(bert):
    with pytest.raises(InputError, match="calibrated"):
        sb.attribute(
            bert, token_inputs(5), "sequential_integrated_gradients", quadrature="calibrated"
        )


@pytest.fixture
def loaded(monkeypatch, tmp_path):
    """A model that counts as loaded from disk, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = sb.wrap_model(tiny_bert())
    object.__setattr__(model, "facts", {"source": "folder", "weights_sha256": "0" * 64})
    return model


def learnt(model, monkeypatch):
    """Scores with calibrated nodes, and how often a density was learnt for them."""
    times = []
    learn_it = calibration.learn
    monkeypatch.setattr(calibration, "learn", lambda found: times.append(1) or learn_it(found))
    monkeypatch.setattr(calibration, "_DENSITIES", calibration.WeakKeyDictionary())
    (one,) = sb.attribute(model, token_inputs(6), quadrature="calibrated", n_steps=5, **PATH)
    monkeypatch.setattr(calibration, "learn", learn_it)
    return one.scores, len(times)


def test_a_density_is_learnt_once_and_kept_for_later_processes(loaded, monkeypatch):
    first, times = learnt(loaded, monkeypatch)
    again, times_again = learnt(loaded, monkeypatch)
    assert (times, times_again) == (1, 0)
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("damage", ["", "{", '{"alphas": [0, 1], "values": [1, -1]}', "[]", "7"])
def test_a_damaged_cache_is_as_good_as_none(loaded, monkeypatch, tmp_path, damage):
    first, _ = learnt(loaded, monkeypatch)
    (file,) = tmp_path.rglob(f"{calibration.KIND}/*.json")
    assert json.loads(file.read_text("utf-8")).keys() == {"alphas", "values"}
    file.write_text(damage, "utf-8")
    again, times = learnt(loaded, monkeypatch)
    assert times == 1
    np.testing.assert_array_equal(first, again)


def test_a_wrapped_model_leaves_no_file_and_is_learnt_anew_when_its_weights_change(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = sb.wrap_model(tiny_bert())
    options = {"quadrature": "calibrated", "n_steps": 5, **PATH}
    (before,) = sb.attribute(model, token_inputs(6), **options)
    with torch.no_grad():
        model.module.classifier.weight.mul_(2)
    densities = calibration._DENSITIES[model.module]
    (after,) = sb.attribute(model, token_inputs(6), **options)
    assert len(densities) == 2
    assert not list(tmp_path.rglob("*.json"))
    assert np.abs(before.scores - after.scores).max() > 0


def test_a_density_holds_at_its_ends():
    density = Density(np.array([0.0, 0.5, 1.0]), np.array([2.0, 0.5, 1.0]))
    assert density.alpha(np.array([0.0, 1.0])).tolist() == [0.0, 1.0]
    assert density.stretch(np.array([0.0, 1.0])).tolist() == [0.5, 1.0]
