"""The agreement of two attributions of one example on the order of its tokens."""

from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int

from saliency_bench.core.rank_correlation import tau_b
from saliency_bench.evaluation.metrics import NotApplicable

KENDALL_TAU = "kendall_tau"
TOP_K_JACCARD = "top_k_jaccard"
RBO = "rbo"
NAMES = (KENDALL_TAU, TOP_K_JACCARD, RBO)


def kendall_tau(
    a: Float[np.ndarray, " T"], b: Float[np.ndarray, " T"], attributable: Bool[np.ndarray, " T"]
) -> float:
    """Kendall's τ-b of the scores of attributable tokens (Kendall 1945): 1 for equal orders, -1 for opposite ones.

    It is NaN if a score is NaN.

    Raises:
        NotApplicable: there is no order to compare, with fewer than two tokens or with equal scores alone.
    """
    a, b = a[attributable], b[attributable]
    if len(a) < 2:
        raise NotApplicable("fewer than two tokens can be ranked, so there is no order to compare")
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        raise NotApplicable("all scores are equal, so there is no order to compare")
    return tau_b(a, b)


def top_k_jaccard(
    a: Int[np.ndarray, " U"], b: Int[np.ndarray, " U"], k: int
) -> tuple[float, float]:
    """|A ∩ B| / |A ∪ B| of the top k of two rankings of the same units, and its expectation for two random rankings.

    For random rankings |A ∩ B| is hypergeometric, so that the expectation is Σ P(i in both) i / (2 k - i), exactly.
    """
    both = len(set(a[:k].tolist()) & set(b[:k].tolist()))
    return both / (2 * k - both), _expected_jaccard(len(a), k)


@cache
def _expected_jaccard(n_units: int, k: int) -> float:
    from scipy.stats import hypergeom  # an import of half a second, which few commands need

    possible = np.arange(max(0, 2 * k - n_units), k + 1)
    probabilities = hypergeom.pmf(possible, n_units, k, k)
    return float(np.sum(probabilities * possible / (2 * k - possible)))


def rank_biased_overlap(
    a: Int[np.ndarray, " U"], b: Int[np.ndarray, " U"], p: float
) -> tuple[float, float]:
    """RBO_ext of two rankings of the same units, and its expectation for two random ones (Webber, Moffat & Zobel 2010).

    With A_d = |top d of a ∩ top d of b| / d, equation 30 is A_U p^U + (1 - p) / p Σ_{d ≤ U} A_d p^d, and A_U is 1 here.
    The expectation of A_d for random rankings is d / U, and that of RBO_ext follows exactly, since it is linear in A_d.
    """
    n_units = len(a)
    depth = np.arange(1, n_units + 1)
    place_a, place_b = np.argsort(a), np.argsort(b)  # the rank of each unit; units are 0 ... U - 1
    later = np.bincount(np.maximum(place_a, place_b), minlength=n_units)
    overlap = np.cumsum(later) / depth
    return _extrapolated(overlap, p), _extrapolated(depth / n_units, p)


def _extrapolated(overlap: Float[np.ndarray, " U"], p: float) -> float:
    """RBO_ext from the overlaps A_1 ... A_U."""
    weights = p ** np.arange(1, len(overlap) + 1)
    return float(overlap[-1] * weights[-1] + (1 - p) / p * np.sum(overlap * weights))
