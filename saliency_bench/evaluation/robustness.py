"""Changes of maps when the model, its training or the input changes, as functions of scores."""

import numpy as np
from jaxtyping import Bool, Float

from saliency_bench.evaluation.agreement import kendall_tau


def similarity(
    a: Float[np.ndarray, " T"], b: Float[np.ndarray, " T"], attributable: Bool[np.ndarray, " T"]
) -> tuple[float, float]:
    """Kendall's τ-b of two maps of one text, of the scores and of their magnitudes (Adebayo et al. 2018, section 3).

    Raises:
        NotApplicable: there is no order to compare.
    """
    return kendall_tau(a, b, attributable), kendall_tau(np.abs(a), np.abs(b), attributable)


def max_sensitivity(scores: Float[np.ndarray, " T"], perturbed: Float[np.ndarray, "N T"]) -> float:
    """max_i ‖φ(x + δ_i) - φ(x)‖₂ / ‖φ(x)‖₂ over N perturbations (Yeh et al. 2019, definition 3.1, as Captum scales it).

    It is NaN if φ(x) is 0 everywhere. Smaller values are more robust; a constant map has 0.
    """
    size = float(np.linalg.norm(scores))
    if size == 0:
        return float("nan")
    return float(np.linalg.norm(perturbed - scores, axis=1).max() / size)


def share(scores: Float[np.ndarray, " T"], chosen: Bool[np.ndarray, " T"]) -> float:
    """The sum of the magnitudes at the chosen tokens divided by the sum at all tokens; NaN if all scores are 0."""
    total = float(np.abs(scores).sum())
    return float(np.abs(scores[chosen]).sum()) / total if total else float("nan")
