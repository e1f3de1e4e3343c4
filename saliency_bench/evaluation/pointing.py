"""Metrics of the rank of the first relevant unit: reciprocal rank and pointing game."""

import numpy as np

from saliency_bench.evaluation.metrics import metric
from saliency_bench.evaluation.truth import Truth

ARRAS = "Arras et al. 2025 (arXiv 2502.15886)"


@metric(
    "mean_reciprocal_rank",
    unit="1",
    higher_is_better=True,
    bounds=(0.0, 1.0),
    source=f"{ARRAS}; of one text, whose mean over texts is the mean reciprocal rank",
    reads="truth",
)
def mean_reciprocal_rank(truth: Truth) -> float:
    """One over the rank of the highest relevant unit.

    With r of U units relevant, a random ranking has the expectation Σ_j C(U − j, r − 1) / (j C(U, r)).
    """
    return 1 / (1 + float(np.flatnonzero(truth.hits)[0]))


@metric(
    "pointing_game",
    unit="share of texts",
    higher_is_better=True,
    bounds=(0.0, 1.0),
    source=f"{ARRAS}, PG@k; k = 1 is the pointing game of Zhang et al. 2018, of tokens",
    reads="truth",
)
def pointing_game(truth: Truth, *, k: int) -> float:
    """1 if one of the k highest units is relevant, else 0. With fewer than k units all are taken.

    With r of U units relevant, a random ranking has the expectation 1 − C(U − r, k) / C(U, k).
    """
    return float(truth.hits[:k].any())
