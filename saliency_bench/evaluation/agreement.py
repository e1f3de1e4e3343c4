"""How far two attributions of one example order its tokens alike."""

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
    return tau_b(a, b)


def top_k_jaccard(
    a: Int[np.ndarray, " U"], b: Int[np.ndarray, " U"], k: int
) -> tuple[float, float]:
    """|A ∩ B| / |A ∪ B| of the top k of two rankings of the same units, and its mean for two random rankings.

    Of random ones, the number in both is hypergeometric, so the mean is exact: Σ P(i in both) i / (2 k - i).
    """
    both = len(set(a[:k].tolist()) & set(b[:k].tolist()))
    return both / (2 * k - both), _jaccard_of_chance(len(a), k)


@cache
def _jaccard_of_chance(n_units: int, k: int) -> float:
    from scipy.stats import hypergeom  # half a second, which not every command has to wait for

    possible = np.arange(max(0, 2 * k - n_units), k + 1)
    chances = hypergeom.pmf(possible, n_units, k, k)
    return float(np.sum(chances * possible / (2 * k - possible)))


def rank_biased_overlap(
    a: Int[np.ndarray, " U"], b: Int[np.ndarray, " U"], p: float
) -> tuple[float, float]:
    """RBO_ext of two rankings of the same units, and its mean for two random ones (Webber, Moffat & Zobel 2010).

    With A_d = |top d of a ∩ top d of b| / d, equation 30 is A_U p^U + (1 - p) / p Σ_{d ≤ U} A_d p^d, and A_U is 1 here.
    The mean of A_d over random rankings is d / U, and RBO_ext is linear in them, so its mean is exact too.
    """
    n_units = len(a)
    depth = np.arange(1, n_units + 1)
    place_a, place_b = np.argsort(a), np.argsort(b)  # of each unit, for units are 0 ... U - 1
    later = np.bincount(np.maximum(place_a, place_b), minlength=n_units)
    overlap = np.cumsum(later) / depth
    return _extrapolated(overlap, p), _overlap_of_chance(n_units, p)


@cache
def _overlap_of_chance(n_units: int, p: float) -> float:
    return _extrapolated(np.arange(1, n_units + 1) / n_units, p)


def _extrapolated(overlap: Float[np.ndarray, " U"], p: float) -> float:
    weights = p ** np.arange(1, len(overlap) + 1)
    return float(overlap[-1] * weights[-1] + (1 - p) / p * np.sum(overlap * weights))
