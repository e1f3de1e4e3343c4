"""Rules of quadrature: what they integrate exactly, how fast they converge, and what a sweep over them costs."""

from functools import partial
from itertools import product
from math import factorial

import numpy as np
import torch
from laws import twins_of_paths, twins_of_quadrature, twins_of_the_engine
from laws.law import ONE, assert_same, law
from laws.oracles import (
    UNBIASED,
    T,
    gradients_paid,
    maps,
    mean_vector,
    net,
    scores,
    text,
    vectors,
)
from tiny import DIMENSIONS, scored_by

from saliency_bench.attribution import quadrature

ORDERS = {"left": 1, "right": 1, "midpoint": 2, "trapezoid": 2}
CLOSED = ("trapezoid", "clenshaw_curtis")  # both ends are nodes


def rule_of(name, n):
    nodes, weights = quadrature.quadrature(name, n)
    return np.array(nodes), np.array(weights)


def bump(a, s, c):
    return 1 / (1 + (s * (a - c)) ** 2)


def integral(name, n, function):
    nodes, weights = rule_of(name, n)
    return float(weights @ function(nodes))


@law(
    twins_of_quadrature.the_last_node_has_no_weight,
    twins_of_quadrature.the_trapezoid_weighs_one_nth,
    twins_of_quadrature.nodes_are_off_by_one_step,
    dtypes=(torch.float64,),
)
def test_nodes_lie_on_the_path_in_order_and_weights_sum_to_one(dtype):
    for name in UNBIASED:
        for n in [n for n in range(1, 66) if n > 1 or name not in CLOSED]:
            nodes, weights = rule_of(name, n)
            assert len(nodes) == len(weights) == n
            assert nodes.min() >= 0 and nodes.max() <= 1 and (np.diff(nodes) > 0).all(), (name, n)
            assert (weights > 0).all(), (name, n)
            # A sum of n rounded terms: n rounding errors of the largest partial sum, 1.
            assert abs(weights.sum() - 1) <= n * 2**-52, (name, n)


@law(
    twins_of_quadrature.weights_are_all_equal,
    twins_of_quadrature.every_rule_is_the_left_one,
    dtypes=(torch.float64,),
)
def test_a_rule_is_exact_to_its_degree_and_no_further(dtype):
    for n in (2, 3, 4, 5):
        # By symmetry an odd number of Clenshaw-Curtis nodes has one degree more.
        degrees = {
            "left": 0,
            "right": 0,
            "midpoint": 1,
            "trapezoid": 1,
            "gauss_legendre": 2 * n - 1,
            "clenshaw_curtis": n - 1 + n % 2,
        }
        for name, degree in degrees.items():
            for power in range(degree + 1):
                off = integral(name, n, lambda a, power=power: a**power) - 1 / (power + 1)
                assert abs(off) < 1e-15 * n, (name, n, power)
            off = integral(name, n, lambda a, degree=degree: a ** (degree + 1)) - 1 / (degree + 2)
            # The error of Gauss-Legendre for a^2n is known, and that of the others is larger.
            smallest = factorial(n) ** 4 / ((2 * n + 1) * factorial(2 * n) ** 2)
            assert abs(off) > smallest * (1 - 1e-6), (name, n)


@law(
    twins_of_quadrature.weights_are_all_equal,
    twins_of_quadrature.nodes_are_off_by_one_step,
    dtypes=(torch.float64,),
)
def test_spectral_rules_gain_digits_with_every_node_as_the_nearest_pole_says(dtype):
    # Of 1/(1 + s²(a - c)²), whose poles are at c ± i/s: with ρ the sum of the semi-axes of the ellipse through them
    # (foci 0 and 1) the error falls as ρ^-2n for Gauss-Legendre and at least as ρ^-n for Clenshaw-Curtis
    # (Trefethen 2008, section 4). The phase of the pole makes it wobble: slopes are fitted.
    for s, c in ((3.0, 0.4), (5.0, 0.6)):
        pole = 2 * complex(c, 1 / s) - 1
        rho = max(abs(pole + (pole**2 - 1) ** 0.5), abs(pole - (pole**2 - 1) ** 0.5))
        exact = (np.arctan(s * (1 - c)) + np.arctan(s * c)) / s
        slope = {}
        for name, ns in (("gauss_legendre", range(4, 16)), ("clenshaw_curtis", range(6, 26))):
            errors = [abs(integral(name, n, partial(bump, s=s, c=c)) - exact) for n in ns]
            slope[name] = np.polyfit(list(ns), np.log(errors), 1)[0]
        assert abs(slope["gauss_legendre"] / (-2 * np.log(rho)) - 1) < 0.15
        assert slope["clenshaw_curtis"] < -0.85 * np.log(rho)


@law(twins_of_quadrature.weights_are_all_equal, dtypes=(torch.float64,))
def test_at_a_kink_every_rule_is_of_order_one(dtype):
    # The gradient of a ReLU along a path is a step somewhere: the root mean square over where it is.
    places = (np.arange(2000) + 0.5) / 2000
    for name in UNBIASED:
        errors = []
        for n in (17, 65):
            nodes, weights = rule_of(name, n)
            found = (nodes[None, :] > places[:, None]) @ weights
            errors.append(np.sqrt(np.mean((found - (1 - places)) ** 2)))
        # Nodes or intervals: 17 to 65 or 16 to 64.
        assert abs(np.log(errors[0] / errors[1]) / np.log(65 / 17) - 1) < 0.06, name


@law(
    twins_of_quadrature.ends_are_not_halved,
    twins_of_quadrature.nodes_are_off_by_one_step,
    twins_of_quadrature.the_trapezoid_weighs_one_nth,
    twins_of_paths.x_is_multiplied_in_place_of_the_displacement,
)
def test_ig_converges_to_its_closed_form_at_the_rules_order(dtype):
    score = net("tanh", 6, seed=3)
    model, item = scored_by(score, dtype), text()
    x, start = vectors(model, item), mean_vector(model).expand(T, DIMENSIONS)
    exact = score.integrated_gradients(x, start).sum(1).numpy()
    for name, order in ORDERS.items():
        steps = [17, 33] if name in CLOSED else [16, 32]  # so that intervals double
        few, many = (
            np.linalg.norm(found - exact)
            for found in scores(
                model,
                [item],
                "integrated_gradients",
                baseline="mean",
                n_steps=steps,
                quadrature=name,
            )
        )
        # The next term of the error is 1/n smaller, and bends the slope by less than that; float32 adds 2e-5.
        assert abs(np.log2(few / many) - order) < 0.15, name


@law(twins_of_quadrature.nodes_are_computed_from_their_angles, dtypes=(torch.float64,))
def test_nodes_nest_to_the_last_bit(dtype):
    for k in range(1, 8):
        for name, few, many in (
            ("left", 2**k, 2 ** (k + 1)),
            ("right", 2**k, 2 ** (k + 1)),
            ("trapezoid", 2**k + 1, 2 ** (k + 1) + 1),
            ("clenshaw_curtis", 2**k + 1, 2 ** (k + 1) + 1),
        ):
            assert set(rule_of(name, few)[0]) <= set(rule_of(name, many)[0]), (name, k)
        for name in CLOSED:
            nodes = rule_of(name, 2**k + 1)[0]
            assert nodes[0] == 0 and nodes[-1] == 1


@law(
    twins_of_the_engine.settings_do_not_share,
    twins_of_quadrature.nodes_are_computed_from_their_angles,
    dtypes=ONE,
)
def test_a_sweep_over_nesting_rules_costs_its_largest_setting(dtype):
    score = net("tanh", 3)
    inputs = [text(0), text(1)]
    for name, steps in (
        ("left", [2, 4, 8, 16]),
        ("right", [2, 4, 8, 16]),
        ("trapezoid", [3, 5, 9, 17]),
        ("clenshaw_curtis", [3, 5, 9, 17]),
    ):
        options = {"method": "integrated_gradients", "baseline": "mean", "quadrature": name}
        alone = gradients_paid(score, inputs, n_steps=steps[-1], **options)
        assert gradients_paid(score, inputs, n_steps=steps, **options) == alone, name
    noise = {"method": "smoothgrad", "noise_std": 0.1, "sampler": "centred"}
    alone = gradients_paid(score, inputs, n_samples=16, **noise)
    every = gradients_paid(score, inputs, n_samples=[4, 8, 16], reduction=["l2", "dot"], **noise)
    assert every == alone == 2 * 16


@law(twins_of_the_engine.the_input_is_paid_for_again, dtypes=ONE)
def test_the_gradient_at_the_input_is_paid_for_once(dtype):
    score, inputs = net("tanh", 3), [text(0), text(1)]
    # Two paths end at the input; the left rule has no node there.
    for name, own in (("left", 16), ("right", 15), ("trapezoid", 15), ("clenshaw_curtis", 15)):
        paid = gradients_paid(
            score,
            inputs,
            method="integrated_gradients",
            baseline=["mean", "zero"],
            quadrature=name,
            n_steps=8,
        )
        assert paid == 2 * own, name


@law(
    twins_of_the_engine.settings_of_a_sweep_are_mixed_up,
    twins_of_the_engine.nodes_that_settings_share_count_once,
)
def test_a_sweep_gives_the_maps_of_its_settings_in_order(dtype):
    model = scored_by(net("tanh", 3), dtype)
    inputs = [text(0), text(1)]
    axes = {"baseline": ["zero", "mean"], "n_steps": [2, 4], "quadrature": ["left", "trapezoid"]}
    swept = maps(model, inputs, "integrated_gradients", **axes)
    assert [(one.input_index, *(one.setting[key] for key in axes)) for one in swept] == [
        (index, *values) for index in (0, 1) for values in product(*axes.values())
    ]
    for one in swept:
        options = {key: one.setting[key] for key in axes}
        alone = scores(model, inputs, "integrated_gradients", **options)[one.input_index]
        assert_same(one.scores, alone, dtype, options)
