"""Quadrature rules against what they integrate exactly, and at the rate they converge."""

import time

import numpy as np
import pytest

from saliency_bench.attribution.density import calibrated_rule, uniform
from saliency_bench.attribution.quadrature import RULES, quadrature
from saliency_bench.core.errors import InputError

UNBIASED = sorted(set(RULES) - {"captum_riemann_trapezoid"})


def integral(rule: str, n: int, function) -> float:
    nodes, weights = quadrature(rule, n)
    return float(np.dot(weights, function(np.array(nodes))))


@pytest.mark.parametrize("rule", UNBIASED)
@pytest.mark.parametrize("n", [2, 3, 10, 50])
def test_weights_sum_to_one(rule, n):
    # A sum of n rounded terms: n rounding errors of the largest partial sum, 1.
    assert sum(quadrature(rule, n)[1]) == pytest.approx(1, abs=n * 2**-52)


@pytest.mark.parametrize("n", [2, 5, 20, 50])
def test_captums_trapezoid_is_too_small_by_one_nth(n):
    assert sum(quadrature("captum_riemann_trapezoid", n)[1]) == pytest.approx(
        (n - 1) / n, abs=n * 2**-52
    )


@pytest.mark.parametrize("n", [1, 2, 5, 16])
def test_gauss_legendre_is_exact_to_degree_2n_minus_1(n):
    degree = 2 * n - 1
    assert integral("gauss_legendre", n, lambda a: a**degree) == pytest.approx(
        1 / (degree + 1), rel=1e-13
    )
    off = abs(integral("gauss_legendre", n, lambda a: a ** (degree + 1)) - 1 / (degree + 2))
    assert n > 8 or off > 1e-12  # one degree more is not exact (too small to see at many nodes)


@pytest.mark.parametrize(
    ("rule", "order"),
    [("left", 1), ("right", 1), ("midpoint", 2), ("trapezoid", 2), ("captum_riemann_trapezoid", 1)],
)
def test_error_shrinks_at_the_rules_order(rule, order):
    exact = np.e - 1
    errors = [abs(integral(rule, n, np.exp) - exact) for n in (64, 128)]
    # The trapezoid's intervals go from n-1 to 2n-1; at 64 that bends the slope by 1/64.
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.05)


def test_nodes_are_the_textbooks():
    assert quadrature("left", 4)[0] == (0, 0.25, 0.5, 0.75)
    assert quadrature("right", 4)[0] == (0.25, 0.5, 0.75, 1)
    assert quadrature("midpoint", 2)[0] == (0.25, 0.75)
    assert quadrature("trapezoid", 3) == ((0, 0.5, 1), (0.25, 0.5, 0.25))


def test_left_nodes_nest_when_steps_double():
    assert set(quadrature("left", 8)[0]) <= set(quadrature("left", 16)[0])


def test_an_unknown_rule_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="gauss_legendre"):
        quadrature("gaus_legendre", 5)


@pytest.mark.parametrize(("rule", "n"), [("left", 0), ("trapezoid", 1), ("midpoint", -3)])
def test_too_few_steps_are_refused(rule, n):
    with pytest.raises(InputError, match="n_steps"):
        quadrature(rule, n)


def legendre(n):
    """Nodes and weights by Newton's method in extended precision, from the recurrence of P_n."""
    x = np.cos(np.pi * (np.arange(n, 0, -1).astype(np.longdouble) - 0.25) / (n + 0.5))
    for last in [False] * 8 + [True]:
        before, value = np.ones_like(x), x.copy()
        for k in range(2, n + 1):
            before, value = value, ((2 * k - 1) * x * value - (k - 1) * before) / k
        slope = n * (x * value - before) / (x * x - 1)
        if not last:
            x = x - value / slope
    return (1 + x) / 2, 1 / ((1 - x * x) * slope**2)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9, 50, 161, 1000])
def test_gauss_legendre_nodes_and_weights_are_exact_to_rounding(n):
    for found, exact in zip(quadrature("gauss_legendre", n), legendre(n), strict=True):
        np.testing.assert_allclose(found, exact.astype(float), rtol=0, atol=2**-51)


@pytest.mark.parametrize("rule", ["gauss_legendre", "clenshaw_curtis"])
def test_thousands_of_nodes_are_there_at_once(rule):
    # An eigenvalue problem of n equations takes a minute, a table of n cosines for each node a gigabyte.
    started = time.process_time()
    nodes, weights = map(np.array, quadrature(rule, 6001))
    assert time.process_time() - started < 5
    assert weights @ np.exp(nodes) == pytest.approx(np.e - 1, rel=1e-13)
    assert weights.sum() == pytest.approx(1, rel=1e-13)
    assert (weights > 0).all()


def test_thousands_of_calibrated_nodes_are_there_at_once():
    started = time.process_time()
    nodes, weights = calibrated_rule(uniform(), 6001)
    assert time.process_time() - started < 5
    # With h = 1/6001 the spline is off by h⁴ at most, and its ends, whose curvature is not 0, by h³.
    assert weights @ np.exp(nodes) == pytest.approx(np.e - 1, rel=1e-10)


@pytest.mark.parametrize(
    ("rule", "n", "half"),
    [("left", 8, 4), ("right", 8, 4), ("trapezoid", 9, 5), ("clenshaw_curtis", 9, 5)],
)
def test_every_other_node_of_a_rule_that_nests_is_the_rule_of_half_as_many(rule, n, half):
    for found, expected in zip(
        quadrature(f"half_of_{rule}", n), quadrature(rule, half), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=4 * 2**-52)


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("n", [3, 4, 5, 10, 51])
def test_half_of_a_rule_weighs_what_the_rule_weighs(rule, n):
    nodes, weights = quadrature(f"half_of_{rule}", n)
    assert set(nodes) < set(quadrature(rule, n)[0])
    assert sum(weights) == pytest.approx(sum(quadrature(rule, n)[1]), abs=n * 2**-52)


@pytest.mark.parametrize("rule", ["midpoint", "gauss_legendre", "calibrated"])
def test_half_of_a_rule_converges_and_shows_what_the_rule_is_off_by(rule):
    """Second order at least: where the nodes do not nest, the spline has the ends to guess."""

    def off_by(name, n):
        if rule == "calibrated":
            nodes, weights = calibrated_rule(uniform(), n, half=name != rule)
        else:
            nodes, weights = quadrature(name, n)
        return float(np.dot(weights, np.exp(np.array(nodes)))) - (np.e - 1)

    halves = [off_by(f"half_of_{rule}", n) for n in (32, 64)]
    assert abs(halves[1]) < abs(halves[0]) / 3
    whole = off_by(rule, 64)
    assert abs(halves[1] - whole) > abs(whole) / 3


@pytest.mark.parametrize(("rule", "n"), [("left", 1), ("trapezoid", 2)])
def test_too_few_nodes_have_no_half(rule, n):
    with pytest.raises(InputError, match="expected at least"):
        quadrature(f"half_of_{rule}", n)
