"""Attributions of a block on the host, by one copy from the device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from saliency_bench.core.tensors import Attribution, Uncertainty, host_copies


@dataclass(frozen=True)
class Numbers:
    """An attribution's numbers on the host, for all examples of its batch."""

    attribution: Attribution
    scores: Float[np.ndarray, "B T"]
    sums: Float[np.ndarray, "2 B"] | None  # of the scores before the reduction, and F(x) - F(x')

    def of(self, row: int, length: int) -> dict[str, Any]:
        """One example's scores at its own length, their cost, completeness and convergence."""
        cost = self.attribution.n_gradients
        numbers: dict[str, Any] = {
            "scores": self.scores[row, :length],
            "n_gradients": cost if isinstance(cost, int) else int(cost[row]),
        }
        if self.attribution.draws is not None:
            numbers["draws"] = self.attribution.draws[:, row, :length].numpy()
        if self.sums is not None:
            total, difference = self.sums[:, row].tolist()
            numbers["output_difference"] = difference
            numbers["completeness_gap"] = total - difference
        return numbers | _converged(self.attribution.convergence, row, length)


def on_host(attributions: Mapping[str, Attribution]) -> dict[str, Numbers]:
    """The numbers of all attributions of a block, by key."""
    tensors: list[Tensor] = []
    for attribution in attributions.values():
        tensors.append(attribution.scores)
        if attribution.total is not None and attribution.difference is not None:
            tensors += [attribution.total, attribution.difference]
    arrays = iter(host_copies(tensors))
    numbers = {}
    for key, attribution in attributions.items():
        scores = next(arrays)
        claims = attribution.total is not None and attribution.difference is not None
        sums = np.stack([next(arrays), next(arrays)]) if claims else None
        numbers[key] = Numbers(attribution, scores, sums)
    return numbers


def _converged(convergence: Uncertainty | None, row: int, length: int) -> dict[str, Any]:
    """The numbers that say how well one example's scores have converged."""
    if convergence is None:
        return {}
    numbers: dict[str, Any] = {}
    if convergence.standard_errors is not None:
        numbers["standard_errors"] = convergence.standard_errors[row, :length]
    if convergence.split_half_tau is not None and np.isfinite(convergence.split_half_tau[row]):
        numbers["split_half_tau"] = float(convergence.split_half_tau[row])
    if convergence.error is not None and np.isfinite(convergence.error[row]):
        numbers["error"] = float(convergence.error[row])
    if convergence.converged is not None:
        numbers["converged"] = bool(convergence.converged[row])
    if convergence.reasons is not None:
        numbers["reason"] = convergence.reasons[row]
    return numbers
