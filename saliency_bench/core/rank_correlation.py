"""Kendall's rank correlation, without the p-value that takes scipy ten times as long. Imports no torch."""

from math import sqrt

import numpy as np
from jaxtyping import Float, Int

#: Pairs of tokens that are compared at a time: memory stays small for long texts.
PAIRS_AT_ONCE = 2**20


def tau_b(a: Float[np.ndarray, " N"], b: Float[np.ndarray, " N"]) -> float:
    """Kendall's τ-b (Kendall 1945): (C - D) / sqrt(pairs untied in a · pairs untied in b).

    C and D count concordant and discordant pairs. The counts are whole numbers and the last steps are those of scipy's
    `kendalltau`, so that the results are equal; this function computes no p-value and takes a tenth of the time on texts of
    30 tokens. The result is NaN if a number is NaN, or if all numbers of a or b are equal.
    """
    if np.isnan(a).any() or np.isnan(b).any():
        return float("nan")
    net = untied_a = untied_b = 0  # each pair is met twice
    rows = max(1, PAIRS_AT_ONCE // len(a))
    for start in range(0, len(a), rows):
        sign_a, sign_b = (_signs(x, slice(start, start + rows)) for x in (a, b))
        net += int(np.sum(sign_a * sign_b, dtype=np.int64))
        untied_a += int(np.count_nonzero(sign_a))
        untied_b += int(np.count_nonzero(sign_b))
    if not untied_a or not untied_b:
        return float("nan")
    tau = net // 2 / sqrt(untied_a // 2) / sqrt(untied_b // 2)
    return min(1.0, max(-1.0, tau))


def _signs(x: Float[np.ndarray, " N"], rows: slice) -> Int[np.ndarray, "R N"]:
    """Returns 1, 0 or -1 where the number of a row is above, equal to or below a number; infinities are equal."""
    row = x[rows, None]
    return (row > x).view(np.int8) - (row < x).view(np.int8)
