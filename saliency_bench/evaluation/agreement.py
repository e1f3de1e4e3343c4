"""How far two attributions of one example order its tokens alike."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import kendalltau

from saliency_bench.evaluation.metrics import NotApplicable


def kendall_tau(
    a: Float[np.ndarray, " T"], b: Float[np.ndarray, " T"], attributable: Bool[np.ndarray, " T"]
) -> float:
    """Kendall's τ-b of the scores of attributable tokens (Kendall 1945): 1 for equal orders, -1 for opposite.

    NaN where a score is.

    Raises:
        NotApplicable: fewer than two tokens, or scores that are all equal: there is no order to compare.
    """
    a, b = a[attributable], b[attributable]
    if len(a) < 2:
        raise NotApplicable("fewer than two tokens can be ranked, so there is no order to compare")
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        raise NotApplicable("all scores are equal, so there is no order to compare")
    return float(kendalltau(a, b, variant="b").statistic)
