"""Rank correlation without scipy's statistics, whose import takes longer than explaining a text."""

import numpy as np
from jaxtyping import Float


def tau_b(a: Float[np.ndarray, " U"], b: Float[np.ndarray, " U"]) -> float:
    """Kendall's τ-b (Kendall 1945), the same number as `scipy.stats.kendalltau` to the bit.

    (concordant - discordant pairs) / √(pairs untied in a) / √(pairs untied in b), from the signs of all U (U - 1) / 2
    differences. NaN where all of a or all of b are equal, and where one is NaN.
    """
    if np.isnan(a).any() or np.isnan(b).any():
        return float("nan")
    of_a, of_b = _signs(a), _signs(b)
    # Each pair stands here twice.
    agreeing, untied_a, untied_b = (
        int(count) // 2 for count in ((of_a * of_b).sum(), np.abs(of_a).sum(), np.abs(of_b).sum())
    )
    if not untied_a or not untied_b:
        return float("nan")
    return float(np.clip(agreeing / np.sqrt(untied_a) / np.sqrt(untied_b), -1.0, 1.0))


def _signs(values: Float[np.ndarray, " U"]) -> np.ndarray:
    """The signs of all differences, [U U]; infinite values compare too."""
    above = values[:, None] > values
    return above.astype(np.int64) - above.T
