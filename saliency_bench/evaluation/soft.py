"""Scores as probabilities with which each number of a unit's embedding stays (Zhao & Aletras 2023)."""

import numpy as np
from jaxtyping import Float

#: Powers between which that is sought which retains enough: beyond, all or nothing stays but exact ones and zeros.
LARGEST_LOG_POWER = 20.0


def retention(scores: Float[np.ndarray, " U"]) -> Float[np.ndarray, " U"]:
    """Scores scaled to [0, 1] within their text; all 1/2 where they are equal."""
    spread = np.ptp(scores)
    return (scores - scores.min()) / spread if spread > 0 else np.full(len(scores), 0.5)


def equally_retained(
    probabilities: Float[np.ndarray, " U"], mean: float
) -> Float[np.ndarray, " U"]:
    """The probabilities raised to the one power that makes their mean this number; their order stays.

    Exact zeros and ones do not move, so that texts of few units may get no nearer than they allow.
    """
    from scipy.optimize import brentq

    def excess(log_power: float) -> float:
        return float(np.mean(probabilities ** np.exp(log_power)) - mean)

    ends = -LARGEST_LOG_POWER, LARGEST_LOG_POWER
    if excess(ends[0]) <= 0 or excess(ends[1]) >= 0:
        nearest = min(ends, key=lambda end: abs(excess(end)))
        return np.asarray(probabilities ** np.exp(nearest))
    return np.asarray(probabilities ** np.exp(brentq(excess, *ends)))
