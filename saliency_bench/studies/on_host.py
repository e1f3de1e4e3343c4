"""What attributions of a block say of each example, on the host, by one copy from the device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from saliency_bench.core.tensors import Attribution, Convergence, host_copies


@dataclass(frozen=True)
class Numbers:
    """What an attribution says of the examples of its batch, on the host."""

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
        return numbers | _sureness(self.attribution.convergence, row, length)


def on_host(attributions: Mapping[str, Attribution]) -> dict[str, Numbers]:
    """All that attributions say of a block, by one copy from the device."""
    tensors: list[Tensor] = []
    for one in attributions.values():
        tensors.append(one.scores)
        if one.total is not None and one.difference is not None:
            tensors += [one.total, one.difference]
    arrays = iter(host_copies(tensors))
    numbers = {}
    for key, one in attributions.items():
        scores, claims = next(arrays), one.total is not None and one.difference is not None
        sums = np.stack([next(arrays), next(arrays)]) if claims else None
        numbers[key] = Numbers(one, scores, sums)
    return numbers


def _sureness(known: Convergence | None, row: int, length: int) -> dict[str, Any]:
    """What is known of how sure one example's scores are."""
    if known is None:
        return {}
    found: dict[str, Any] = {}
    if known.standard_errors is not None:
        found["standard_errors"] = known.standard_errors[row, :length]
    if known.split_half_tau is not None and np.isfinite(known.split_half_tau[row]):
        found["split_half_tau"] = float(known.split_half_tau[row])
    if known.error is not None and np.isfinite(known.error[row]):
        found["error"] = float(known.error[row])
    if known.converged is not None:
        found["converged"] = bool(known.converged[row])
    if known.reasons is not None:
        found["reason"] = known.reasons[row]
    return found
