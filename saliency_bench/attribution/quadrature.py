"""Quadrature rules on [0, 1]: the places on a path at which gradients are taken, and their weights.

Nodes and weights are float64. Weights sum to 1, except for `captum_riemann_trapezoid`, which reproduces a bias of Captum.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from jaxtyping import Float

from saliency_bench.attribution.density import weights_of_kept
from saliency_bench.core.errors import InputError, unknown

Rule = tuple[Float[np.ndarray, " S"], Float[np.ndarray, " S"]]


def left(n: int) -> Rule:
    """Left Riemann sum: nodes k/n, k = 0 ... n-1; error O(1/n)."""
    return np.arange(n) / n, np.full(n, 1 / n)


def right(n: int) -> Rule:
    """Right Riemann sum: nodes k/n, k = 1 ... n; error O(1/n). The rule of Sundararajan et al. (2017), eq. 3."""
    return np.arange(1, n + 1) / n, np.full(n, 1 / n)


def midpoint(n: int) -> Rule:
    """Midpoint rule: nodes (k + 1/2)/n; error O(1/n²)."""
    return (np.arange(n) + 0.5) / n, np.full(n, 1 / n)


def trapezoid(n: int) -> Rule:
    """Trapezoidal rule: nodes k/(n-1), weights 1/(n-1), halved at both ends; error O(1/n²)."""
    if n < 2:
        raise InputError(
            f"n_steps={n}: the trapezoidal rule needs both ends of the path, so at least 2"
        )
    weights = np.full(n, 1 / (n - 1))
    weights[[0, -1]] /= 2
    return np.linspace(0, 1, n), weights


def gauss_legendre(n: int) -> Rule:
    """Gauss-Legendre: exact for gradients that are polynomials of degree 2n-1 along the path.

    Nodes are zeros of the Legendre polynomial P_n by Newton's method, all at once, from the guesses of Abramowitz &
    Stegun, 22.16.6; weights 2 / ((1 - x²) P_n'(x)²) are theirs, 25.4.29. O(n²) in time and O(n) in memory.
    """
    right = np.cos(np.pi * (np.arange((n + 1) // 2) + 0.75) / (n + 0.5))  # of [-1, 1], falling
    for _ in range(4):  # each step squares the error of the guess, which is 0.01 at most
        value, slope = _legendre(n, right)
        right = right - value / slope
    if n % 2:
        right[-1] = 0.0
    half = 1 / ((1 - right**2) * _legendre(n, right)[1] ** 2)  # of [0, 1]
    left = np.arange(n // 2)
    nodes = np.concatenate([(1 - right[left]) / 2, (1 + right[::-1]) / 2])
    return nodes, np.concatenate([half[left], half[::-1]])


def _legendre(n: int, x: Float[np.ndarray, " M"]) -> Rule:
    """P_n and its derivative inside [-1, 1], by the three-term recurrence."""
    before, value = np.ones_like(x), x
    for k in range(2, n + 1):
        before, value = value, ((2 * k - 1) * x * value - (k - 1) * before) / k
    return value, n * (before - x * value) / (1 - x**2)


def clenshaw_curtis(n: int) -> Rule:
    """Clenshaw-Curtis: nodes (1 - cos(π k/(n-1)))/2, both ends among them, and exact to degree n-1.

    The nodes of n are every other node of 2n-1, so that a sweep over n = 2^k + 1 costs its largest.
    Weights: Trefethen 2008, "Is Gauss quadrature better than Clenshaw-Curtis?", section 2: a cosine sum, taken by a
    fast Fourier transform.
    """
    if n < 2:
        raise InputError(f"n_steps={n}: Clenshaw-Curtis needs both ends of the path, so at least 2")
    last = n - 1
    # By half angles, so that equal nodes of nested rules are equal to the last bit, and so are both ends.
    k = np.arange(n)
    nodes = np.where(
        2 * k <= last,
        np.sin(np.pi / 2 * (k / last)) ** 2,
        1 - np.sin(np.pi / 2 * ((last - k) / last)) ** 2,
    )
    integrals = np.zeros(n)  # of the Chebyshev polynomials over [-1, 1]
    integrals[::2] = 2 / (1 - k[::2] ** 2)
    weights = np.fft.irfft(integrals, 2 * last)[:n]
    weights[[0, -1]] /= 2
    return nodes, weights


def captum_riemann_trapezoid(n: int) -> Rule:
    """Captum's `riemann_trapezoid`, for comparison with Captum only: trapezoid nodes with weights that sum to (n-1)/n.

    All attributions are too small by the factor (n-1)/n.
    """
    nodes, weights = trapezoid(n)
    return nodes, weights * (n - 1) / n


RULES: dict[str, Callable[[int], Rule]] = {
    rule.__name__: rule
    for rule in (
        left,
        right,
        midpoint,
        trapezoid,
        gauss_legendre,
        clenshaw_curtis,
        captum_riemann_trapezoid,
    )
}


#: Rules whose first and last nodes are the ends of the path.
CLOSED = ("trapezoid", "clenshaw_curtis", "captum_riemann_trapezoid")

#: The rule whose nodes depend on the model and the baseline, so that it is not in `RULES` (see `density`).
CALIBRATED = "calibrated"
FEWEST_CALIBRATED = 3

NAMES = (*RULES, CALIBRATED)


#: The prefix of the coarser rule that has every other node of a rule (`half_of`).
HALF = "half_of_"


def whole(rule: str) -> str:
    """The name of a rule without the prefix `HALF`."""
    return rule.removeprefix(HALF)


def fewest_of_half(rule: str) -> int:
    """The smallest number of nodes for which `half_of` a rule has fewer."""
    return FEWEST_CALIBRATED if rule == CALIBRATED else 3 if rule in CLOSED else 2


def half_of(rule: str, n: int) -> Rule:
    """Every other node of the rule with `n` nodes: a coarser rule that needs no further gradient.

    Left, right and trapezoidal sums keep their kind, with pieces twice as long. Clenshaw-Curtis keeps its kind for an odd
    number of nodes; for an even number it becomes a trapezoidal sum. The nodes of the midpoint rule and of Gauss-Legendre
    do not nest. They are taken as the images of equally spaced u under a map with derivative n times the weight, and the
    integrand as a spline in u (`density.weights_of_kept`).

    Raises:
        InputError: there are too few nodes, see `fewest_of_half`.
    """
    if n < (fewest := fewest_of_half(rule)):
        raise InputError(
            f"n_steps={n}: expected at least {fewest}, of which {HALF}{rule} takes every other"
        )
    nodes, weights = RULES[rule](n)
    if rule in ("left", "right"):  # each kept node gets the weight of its neighbour too
        direction = 1 if rule == "left" else -1
        sums = np.add.reduceat(weights[::direction], np.arange(0, n, 2))
        return nodes[::direction][::2][::direction], sums[::direction]
    if rule == "clenshaw_curtis" and n % 2 and n > 2:
        return clenshaw_curtis((n + 1) // 2)
    if rule in CLOSED:
        kept = nodes[np.unique([*range(0, n, 2), n - 1])]
        gaps = np.diff(kept)
        sums = (np.append(gaps, 0) + np.insert(gaps, 0, 0)) / 2
        return kept, sums * weights.sum()
    sums = weights_of_kept(n, n * weights)
    return nodes[::2], sums * weights.sum()


def check(rule: str, n_steps: int) -> None:
    """Checks that a rule exists and has enough steps.

    Raises:
        InputError: no such rule, or too few steps for it.
    """
    if whole(rule) not in NAMES:
        raise unknown("quadrature", rule, list(NAMES))
    if whole(rule) != CALIBRATED:
        quadrature(rule, n_steps)
    elif n_steps < FEWEST_CALIBRATED:
        raise InputError(
            f"n_steps={n_steps}: expected at least {FEWEST_CALIBRATED} calibrated steps"
        )


@cache
def quadrature(rule: str, n_steps: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Nodes and weights of a rule with `n_steps` gradients.

    Raises:
        InputError: no such rule, or too few steps for it.
    """
    if whole(rule) not in RULES:
        raise unknown("quadrature", rule, list(RULES))
    if n_steps < 1:
        raise InputError(f"n_steps={n_steps}: expected a whole number of at least 1")
    nodes, weights = RULES[rule](n_steps) if rule == whole(rule) else half_of(whole(rule), n_steps)
    return tuple(nodes.tolist()), tuple(weights.tolist())
