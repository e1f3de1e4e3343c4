"""Broken implementations: nodes and weights."""

from collections.abc import Callable

import numpy as np

from saliency_bench.attribution import quadrature
from saliency_bench.attribution.methods import paths


def _rules(patch, change: Callable[[str, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]):
    real = quadrature.quadrature

    def broken(rule: str, n_steps: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        nodes, weights = change(rule, *map(np.array, real(rule, n_steps)))
        return tuple(nodes.tolist()), tuple(weights.tolist())

    patch.setattr(quadrature, "quadrature", broken)
    patch.setattr(paths, "rule", broken)


def the_last_node_has_no_weight(patch):
    _rules(patch, lambda rule, nodes, weights: (nodes, weights * (np.arange(len(nodes)) + 1 < len(nodes))))  # fmt: skip


def the_trapezoid_weighs_one_nth(patch):
    """Captum's: nodes 1/(n-1) apart with weights 1/n, halved at the ends."""
    _rules(
        patch,
        lambda rule, nodes, weights: (
            nodes,
            weights * (1 - 1 / len(nodes)) if rule == "trapezoid" else weights,
        ),
    )


def ends_are_not_halved(patch):
    """A mean over evenly spaced nodes, both ends among them."""
    ends = ("trapezoid", "clenshaw_curtis")
    _rules(
        patch,
        lambda rule, nodes, weights: (
            nodes,
            np.full(len(nodes), 1 / len(nodes)) if rule in ends else weights,
        ),
    )


def weights_are_all_equal(patch):
    _rules(patch, lambda rule, nodes, weights: (nodes, np.full(len(nodes), 1 / len(nodes))))


def every_rule_is_the_left_one(patch):
    _rules(patch, lambda rule, nodes, weights: (np.arange(len(nodes)) / len(nodes), weights))


def captums_trapezoid_is_put_right(patch):
    _rules(
        patch,
        lambda rule, nodes, weights: (
            nodes,
            weights / weights.sum() if rule.startswith("captum") else weights,
        ),
    )


def nodes_are_computed_from_their_angles(patch):
    """Cosines of equal angles, and multiples of a step: equal but for the last bits."""

    def rounded(rule, nodes, weights):
        n = len(nodes)
        if rule == "clenshaw_curtis":
            return (1 - np.cos(np.pi * np.arange(n) / (n - 1))) / 2, weights
        return np.cumsum(np.full(n, 1 / (n - 1))) - 1 / (n - 1), weights

    _rules(patch, rounded)


def nodes_are_off_by_one_step(patch):
    _rules(patch, lambda rule, nodes, weights: (nodes + 1 / len(nodes), weights))
