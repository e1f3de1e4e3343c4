"""Scores whose attributions can be written down: linear, one hidden layer, quadratic."""

from itertools import product

import numpy as np
import torch
from laws import twins_of_paths, twins_of_quadrature
from laws.law import assert_same, law
from laws.oracles import (
    UNBIASED,
    Net,
    T,
    constants,
    gradient_at,
    linear,
    maps,
    mean_vector,
    net,
    quadratic,
    reduced,
    scores,
    text,
    vectors,
)
from tiny import DIMENSIONS, scored_by

WEIGHTS = constants(T, DIMENSIONS, seed=5)
REDUCTIONS = ["l2", "l1", "sum", "dot"]
OPEN = ["left", "right", "midpoint", "gauss_legendre"]  # rules that may have a single node


def ends(model, item, baseline):
    """x and x' [T D]."""
    x = vectors(model, item)
    start = mean_vector(model) if baseline == "mean" else torch.zeros(DIMENSIONS).double()
    return x, start.expand_as(x)


@law(twins_of_paths.the_magnitude_is_multiplied_in, twins_of_paths.magnitudes_are_averaged)
def test_gradients_of_a_linear_score_are_its_weights_at_any_noise(dtype):
    model, item = scored_by(linear(WEIGHTS), dtype), text()
    x = vectors(model, item)
    plain = scores(model, [item], "vanilla", reduction=REDUCTIONS)
    smooth = scores(model, [item], "smoothgrad", reduction=REDUCTIONS, noise_std=3.0, n_samples=8)
    for how, one, other in zip(REDUCTIONS, plain, smooth, strict=True):
        assert_same(one, reduced(WEIGHTS, how, x), dtype, how)
        assert_same(other, reduced(WEIGHTS, how, x), dtype, how)
    for method in ("input_x_gradient", "smoothgrad_x_input"):
        assert_same(scores(model, [item], method)[0], reduced(WEIGHTS, "dot", x), dtype, method)


@law(twins_of_paths.magnitudes_are_squared_after_the_reduction)
def test_squares_of_a_linear_score_are_those_of_its_weights(dtype):
    model, item = scored_by(linear(WEIGHTS), dtype), text()
    for sampler, n in (("iid", 7), ("antithetic", 6), ("centred", 8)):
        options = {"noise_std": 3.0, "n_samples": n, "sampler": sampler}
        for how, found in zip(
            ["l2", "l1", "sum"],
            scores(model, [item], "smoothgrad_squared", reduction=["l2", "l1", "sum"], **options),
            strict=True,
        ):
            assert_same(found, reduced(WEIGHTS**2, how), dtype, how)


@law(twins_of_paths.the_variance_is_a_difference_of_moments)
def test_the_variance_of_a_constant_gradient_is_exactly_zero(dtype):
    model = scored_by(linear(WEIGHTS), dtype)
    for sampler, n in (("iid", 7), ("antithetic", 6), ("centred", 8)):
        (one,) = maps(model, [text()], "vargrad", noise_std=3.0, n_samples=n, sampler=sampler)
        np.testing.assert_array_equal(one.scores, 0.0)
        np.testing.assert_array_equal(one.standard_errors, 0.0)


@law(
    twins_of_quadrature.the_last_node_has_no_weight,
    twins_of_quadrature.the_trapezoid_weighs_one_nth,
    twins_of_paths.x_is_multiplied_in_place_of_the_displacement,
    twins_of_paths.the_displacement_has_unit_length,
    twins_of_quadrature.captums_trapezoid_is_put_right,
)
def test_ig_of_a_linear_score_is_weight_times_displacement_by_any_rule_and_number_of_steps(dtype):
    model, item = scored_by(linear(WEIGHTS), dtype), text()
    for baseline in ("mean", "zero"):
        x, start = ends(model, item, baseline)
        exact = ((x - start) * WEIGHTS).sum(1).numpy()
        sweeps = [([1], OPEN), ([2, 3, 10], UNBIASED), ([10], ["captum_riemann_trapezoid"])]
        for method in ("integrated_gradients", "sequential_integrated_gradients"):
            for n_steps, rules in sweeps:
                for one in maps(
                    model, [item], method, baseline=baseline, n_steps=n_steps, quadrature=rules
                ):
                    loses = one.setting["quadrature"].startswith("captum")
                    expected = exact * 0.9 if loses else exact  # (n - 1)/n of it
                    assert_same(one.scores, expected, dtype, one.setting)
        (found,) = scores(model, [item], "input_baseline_x_gradient", baseline=baseline)
        assert_same(found, exact, dtype)


@law(
    twins_of_quadrature.ends_are_not_halved,
    twins_of_paths.x_is_multiplied_in_place_of_the_displacement,
    twins_of_paths.the_displacement_has_unit_length,
)
def test_ig_of_any_hidden_layer_is_its_closed_form(dtype):
    # Σ_k a_k w_k (x - x') (g(z_k) - g(z'_k)) / (z_k - z'_k): of smooth g the spectral rules have it to the last bits.
    # The nearest poles are those of atan, 1 away from values that move by less than 4. So ρ is 1.6 or more, and ρ^-64
    # below 1e-13.
    rules = ["gauss_legendre", "clenshaw_curtis"]
    nets = {1: 3, 6: 10}  # width and seed; of width 1 it is a single index g(w·x + b)
    for activation, width in product(("tanh", "gelu", "sigmoid", "atan"), nets):
        score = net(activation, width, seed=nets[width], scale=0.8)
        model, item = scored_by(score, dtype), text(width)
        for baseline in ("mean", "zero"):
            x, start = ends(model, item, baseline)
            moved = (score.before(x) - score.before(start)).abs().max()
            assert 1 < moved < 4
            exact = score.integrated_gradients(x, start).sum(1)
            options = {"baseline": baseline, "n_steps": 65, "quadrature": rules}
            for found in scores(model, [item], "integrated_gradients", **options):
                assert_same(found, exact, dtype, (activation, width, baseline))


@law(twins_of_paths.the_path_is_the_input_alone, twins_of_quadrature.every_rule_is_the_left_one)
def test_ig_of_a_relu_net_is_within_one_node_of_its_closed_form(dtype):
    # Along the path each unit's gradient is a step, and a rule with positive weights is off by at most its largest
    # weight there: 1/n, of the closed rules and of Gauss-Legendre π/2 times an interval, of the midpoint half a node.
    n = 50
    off = {"left": 1 / n, "right": 1 / n, "midpoint": 0.5 / n, "trapezoid": 0.5 / (n - 1)}
    for width in (1, 6):
        score = net("relu", width, seed=20 + width)
        model, item = scored_by(score, dtype), text(width)
        x, start = ends(model, item, "mean")
        steps = torch.einsum("k,ktd,td->kt", score.out, score.weights, x - start).abs().sum(0)
        exact = score.integrated_gradients(x, start).sum(1).numpy()
        for one in maps(
            model, [item], "integrated_gradients", baseline="mean", n_steps=n, quadrature=UNBIASED
        ):
            rule = one.setting["quadrature"]
            bound = off.get(rule, np.pi / 2 / (n - 1)) * steps.numpy()
            rounding = 2e-5 * np.abs(exact).max()
            assert (np.abs(one.scores - exact) <= bound + rounding).all(), (rule, width)


@law(
    twins_of_paths.gradients_are_halved,
    twins_of_paths.x_is_multiplied_in_place_of_the_displacement,
)
def test_a_hidden_unit_that_the_path_does_not_move_counts_with_its_slope(dtype):
    # A text that starts with the same token twice, and a unit of their difference: its value stays at its bias.
    weights = torch.zeros(1, T, DIMENSIONS).double()
    weights[0, 0] = constants(DIMENSIONS)
    weights[0, 1] = -weights[0, 0]
    score = Net("tanh", weights, torch.tensor([0.5]).double(), torch.tensor([2.0]).double())
    model, item = scored_by(score, dtype), {"input_ids": [7, 7, 8, 9, 10]}
    x, start = ends(model, item, "mean")
    exact = score.integrated_gradients(x, start).sum(1)
    assert abs(exact[0]) > 0.1 and exact[0] == -exact[1]
    (found,) = scores(model, [item], "integrated_gradients", baseline="mean", n_steps=3)
    assert_same(found, exact, dtype)


@law(
    twins_of_quadrature.every_rule_is_the_left_one,
    twins_of_paths.x_is_multiplied_in_place_of_the_displacement,
    twins_of_paths.paths_start_at_zero,
    twins_of_paths.gradients_are_halved,
)
def test_a_quadratic_score_has_its_closed_forms(dtype):
    # x'Ax, S = A + A': ∇F = Sx, which is linear along any path, so that the mean of both ends or the middle has it.
    score = quadratic()
    model, item = scored_by(score, dtype), text()
    x, start = ends(model, item, "mean")
    for how, found in zip(
        REDUCTIONS, scores(model, [item], "vanilla", reduction=REDUCTIONS), strict=True
    ):
        assert_same(found, reduced(score.gradient(x), how, x), dtype, how)
    exact = score.integrated_gradients(x, start).sum(1)
    for rule, n in (
        ("midpoint", 1),
        ("gauss_legendre", 1),
        ("trapezoid", 2),
        ("clenshaw_curtis", 2),
    ):
        options = {"baseline": "mean", "quadrature": rule, "n_steps": n}
        (found,) = scores(model, [item], "integrated_gradients", **options)
        assert_same(found, exact, dtype, rule)


@law(twins_of_paths.all_tokens_move_at_once, twins_of_paths.every_token_is_displaced)
def test_sequential_ig_of_a_quadratic_score_is_what_one_token_changes(dtype):
    score = quadratic()
    model, item = scored_by(score, dtype), text()
    x, start = ends(model, item, "mean")
    (found,) = scores(model, [item], "sequential_integrated_gradients", baseline="mean", n_steps=1)
    for token in range(T):
        without = x.clone()
        without[token] = start[token]
        change = float(score(x[None]) - score(without[None]))
        # Of numbers of the size of F(x).
        np.testing.assert_allclose(found[token], change, rtol=0, atol=_rounding(dtype, score, x))


def _rounding(dtype, score, x):
    scale = float((score.matrix.abs() @ x.flatten().abs()) @ x.flatten().abs())
    return scale * (1e-13 if dtype == torch.float64 else 1e-5)


@law(
    twins_of_paths.idgi_takes_the_change_from_the_slope,
    twins_of_paths.idgi_divides_by_the_length_of_the_gradient,
    twins_of_paths.idgi_shares_by_magnitude,
)
def test_idgi_shares_each_steps_change_by_the_squares_of_its_gradient(dtype):
    # Σ_k (F_{k+1} - F_k) g_k² / |g_k|², one step at a time; of a linear score (F(x) - F(x')) w² / |w|².
    for score, n in ((linear(WEIGHTS), 3), (quadratic(), 1), (quadratic(), 7)):
        model, item = scored_by(score, dtype), text()
        x, start = ends(model, item, "mean")
        expected = torch.zeros(T).double()
        for k in range(n):
            here, there = (start + a / n * (x - start) for a in (k, k + 1))
            squares = gradient_at(score, here).square()
            change = float(score(there[None]) - score(here[None]))
            expected += change * squares.sum(1) / squares.sum()
        (found,) = scores(model, [item], "idgi", baseline="mean", n_steps=n)
        # F is a difference of terms some ten times as large.
        assert_same(found / 10, expected / 10, dtype, n, scale=float(expected.abs().max()))
