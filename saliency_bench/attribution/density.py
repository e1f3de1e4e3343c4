"""Quadrature on a path with nodes spread by a density that is learnt from a few paths.

On the path from a baseline to a text the integrand is large and changes fast in the same places for most texts of a
model. The nodes are equally spaced in u = ∫ρ, the integral of a density ρ, so that all cells have about the same error.
Any ρ > 0 gives a consistent rule, and a well-chosen one needs fewer nodes. The idea is that of equidistributing meshes
(de Boor 1973) and, for Integrated Gradients on images, of Bhat & Raychowdhury 2023 and Swain & Singhi 2024.
The integrand is replaced by the natural cubic spline in u through the nodes, and by its tangents beyond the outer nodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

#: ρ is profile^POWER plus FLOOR times its mean. The midpoint rule has an error of the size n^-2 ∫ |f''| ρ^-2 at ∫ρ = 1. It
#: is smallest for ρ ∝ |f''|^(1/3), that is for the power 2/3 if |f''| goes with f². The floor keeps nodes where f is 0.
POWER = 2 / 3
FLOOR = 0.1

_RESOLUTION = 2049  # the number of points of the table of a density


@dataclass(frozen=True)
class Density:
    """A positive density on [0, 1], tabulated at `alphas`; its integral is 1."""

    alphas: Float[np.ndarray, " M"]
    values: Float[np.ndarray, " M"]

    @cached_property
    def cumulative(self) -> Float[np.ndarray, " M"]:
        """The integral of ρ from 0 to each of `alphas`, by the trapezoidal rule, scaled to end at exactly 1."""
        steps = np.diff(self.alphas) * (self.values[1:] + self.values[:-1]) / 2
        summed = np.concatenate([[0.0], np.cumsum(steps)])
        return np.asarray(summed / summed[-1])

    def alpha(self, u: Float[np.ndarray, " S"]) -> Float[np.ndarray, " S"]:
        """The places α at which the integral of ρ is u."""
        return np.asarray(np.interp(u, self.cumulative, self.alphas))

    def stretch(self, alpha: Float[np.ndarray, " S"]) -> Float[np.ndarray, " S"]:
        """The derivative dα/du = 1/ρ at places α."""
        return np.asarray(1 / np.interp(alpha, self.alphas, self.values))


def uniform() -> Density:
    """The constant density."""
    return Density(np.array([0.0, 1.0]), np.array([1.0, 1.0]))


def learn(integrands: Sequence[Float[np.ndarray, "S _"]]) -> Density:
    """A density from token integrands Σ_d (x - x')_d ∂_d F at equally spaced nodes on [0, 1], including both ends.

    The profile is the mean over texts of the mean |integrand| of a text's tokens, in units of the text's largest token
    score, so that all texts count alike. Texts whose scores are all 0 or not finite are left out; without any other text
    the density is uniform.
    """
    profiles = []
    for integrand in integrands:
        size = np.abs(np.trapezoid(integrand, dx=1 / (len(integrand) - 1), axis=0)).max(initial=0.0)
        if size > 0 and np.isfinite(integrand).all():
            profiles.append(np.abs(integrand).mean(1) / size)
    if not profiles:
        return uniform()
    profile = np.mean(profiles, axis=0)
    alphas = np.linspace(0, 1, _RESOLUTION)
    shape = np.interp(alphas, np.linspace(0, 1, len(profile)), profile**POWER)
    values = shape + FLOOR * shape.mean()
    return Density(alphas, np.asarray(values / np.trapezoid(values, alphas)))


def cell_integrals(
    u: Float[np.ndarray, " S"], values: Float[np.ndarray, " S"]
) -> Float[np.ndarray, " C"]:
    """The integrals over [0, u_1], [u_1, u_2] ... [u_S, 1] of the interpolant of values at S ≥ 3 increasing nodes u.

    The interpolant is the natural cubic spline (second derivatives 0 at both ends), and its tangents outside of the nodes.
    """
    gaps, slopes = np.diff(u), np.diff(values) / np.diff(u)
    curvature = np.zeros(len(u))
    curvature[1:-1] = _curvature(u, np.diff(slopes))
    between = gaps * (values[:-1] + values[1:]) / 2
    between = between - gaps**3 * (curvature[:-1] + curvature[1:]) / 24
    first = slopes[0] - gaps[0] * curvature[1] / 6
    last = slopes[-1] + gaps[-1] * curvature[-2] / 6
    before = u[0] * values[0] - u[0] ** 2 / 2 * first
    after = (1 - u[-1]) * values[-1] + (1 - u[-1]) ** 2 / 2 * last
    return np.concatenate([[before], between, [after]])


def spline_weights(u: Float[np.ndarray, " S"]) -> Float[np.ndarray, " S"]:
    """The weights of the values at nodes u in the sum of all `cell_integrals`, by the transposed steps in reverse order."""
    gaps = np.diff(u)
    start, end = u[0] ** 2 / 2, (1 - u[-1]) ** 2 / 2
    of_curvature = -(gaps[:-1] ** 3 + gaps[1:] ** 3) / 24
    of_curvature[0] += start * gaps[0] / 6
    of_curvature[-1] += end * gaps[-1] / 6
    jumps = _curvature(u, of_curvature)  # the system is symmetric
    of_slopes = np.concatenate([[0.0], jumps]) - np.concatenate([jumps, [0.0]])
    of_slopes[0] -= start
    of_slopes[-1] += end
    change = of_slopes / gaps
    widths = np.concatenate([[2 * u[0]], gaps, [2 * (1 - u[-1])]])
    weights = (widths[:-1] + widths[1:]) / 2
    weights[1:] += change
    weights[:-1] -= change
    return np.asarray(weights)


def _curvature(
    u: Float[np.ndarray, " S"], right: Float[np.ndarray, " I"]
) -> Float[np.ndarray, " I"]:
    """Solves the natural spline's equations for the second derivatives at its inner nodes, in O(S)."""
    from scipy.linalg import solve_banded

    gaps = np.diff(u)
    bands = np.zeros((3, len(right)))
    bands[0, 1:] = bands[2, :-1] = gaps[1:-1] / 6
    bands[1] = (gaps[:-1] + gaps[1:]) / 3
    return np.asarray(solve_banded((1, 1), bands, right, check_finite=False))


def unpredicted(
    u: Float[np.ndarray, " S"], values: Float[np.ndarray, "S T"]
) -> Float[np.ndarray, "S T"]:
    """The difference between each value and its prediction by the cubic through the four nearest other nodes.

    Args:
        u: S increasing nodes. With fewer than five, all others are used, and the polynomial has a smaller degree.
        values: at the nodes, for each token.
    """
    n = min(5, len(u))
    first = np.clip(np.arange(len(u)) - n // 2, 0, len(u) - n)
    near = first[:, None] + np.arange(n)
    # A divided difference over n nodes, divided by the weight of the predicted value in it.
    gaps = u[near][:, :, None] - u[near][:, None, :]
    weights = 1 / np.where(np.eye(n, dtype=bool), 1.0, gaps).prod(2)
    predicted = weights[np.arange(len(u)), np.arange(len(u)) - first]
    return np.asarray(np.einsum("sn,snt->st", weights / predicted[:, None], values[near]))


def middles(n: int) -> Float[np.ndarray, " S"]:
    """The middles of n equal cells of [0, 1]."""
    return (np.arange(n) + 0.5) / n


def calibrated_rule(
    density: Density, n: int, *, half: bool = False
) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, " S"]]:
    """Nodes and weights of a rule with n ≥ 3 nodes: the middles of n equal cells in u, with the spline's weights.

    The weights are scaled to sum to 1. The error on smooth integrands is O(1/n²), whatever the density. With `half` the
    rule has every other node, with the weights of `weights_of_kept`.
    """
    alphas = density.alpha(middles(n))
    stretch = density.stretch(alphas)
    if half:
        return alphas[::2], weights_of_kept(n, stretch)
    weights = spline_weights(middles(n)) * stretch
    return alphas, weights / weights.sum()


def weights_of_kept(n: int, stretch: Float[np.ndarray, " S"]) -> Float[np.ndarray, " K"]:
    """Weights of every other one of n nodes that are equally spaced in u; they sum to 1.

    They are those of the spline through the kept nodes. Fewer than three kept nodes have weights in proportion to
    `stretch`.

    Args:
        n: the number of all nodes.
        stretch: dα/du at all nodes.
    """
    kept = stretch[::2]
    weights = kept * spline_weights(middles(n)[::2]) if len(kept) >= 3 else kept
    return np.asarray(weights / weights.sum())


def refined(
    u: Float[np.ndarray, " S"], residuals: Float[np.ndarray, " C"], n_more: int
) -> Float[np.ndarray, " N"]:
    """Places of `n_more` further nodes, which cut the cells with the largest residuals into equal parts.

    Each node goes to the cell whose residual / p³ is largest, p being its number of parts so far: the error of a spline in
    a cell of width h falls with h³ at least.
    """
    ends = np.concatenate([[0.0], u, [1.0]])
    parts: Int[np.ndarray, " C"] = np.ones(len(residuals), dtype=int)
    has_width = np.diff(ends) > 0
    for _ in range(n_more):
        parts[np.argmax(np.where(has_width, residuals / parts**3.0, -1.0))] += 1
    return np.concatenate(
        [np.linspace(a, b, p + 1)[1:-1] for a, b, p in zip(ends[:-1], ends[1:], parts, strict=True)]
    )
