"""Scores as the probabilities with which the numbers of a unit's embedding stay (Zhao & Aletras 2023)."""

import numpy as np
from jaxtyping import Float

#: The largest magnitude of the logarithm of the power: beyond, all probabilities but exact zeros are 1, or all but exact
#: ones are 0.
LARGEST_LOG_POWER = 20.0


def retention(scores: Float[np.ndarray, " U"]) -> Float[np.ndarray, " U"]:
    """Scores scaled to [0, 1] within their text; 1/2 for all if they are equal."""
    spread = np.ptp(scores)
    return (scores - scores.min()) / spread if spread > 0 else np.full(len(scores), 0.5)


def equally_retained(
    probabilities: Float[np.ndarray, " U"], mean: float
) -> Float[np.ndarray, " U"]:
    """The probabilities raised to the power for which their mean is `mean`; their order does not change.

    Exact zeros and ones do not change, so that the mean may not be reached in texts of few units; then it is as near as
    possible.
    """
    from scipy.optimize import brentq

    def excess(log_power: float) -> float:
        return float(np.mean(probabilities ** np.exp(log_power)) - mean)

    ends = -LARGEST_LOG_POWER, LARGEST_LOG_POWER
    if excess(ends[0]) <= 0 or excess(ends[1]) >= 0:
        nearest = min(ends, key=lambda end: abs(excess(end)))
        return np.asarray(probabilities ** np.exp(nearest))
    return np.asarray(probabilities ** np.exp(brentq(excess, *ends)))
