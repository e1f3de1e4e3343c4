"""Averages over texts: the mean or the median of a metric, its interval, and the paired tests."""

import numpy as np
from jaxtyping import Float

#: Metrics of which the median is shown: their quotients or gaps are so large on a few texts that the mean of a hundred says
#: little. On the texts of results/ no interval of their means has its coverage (docs/evaluation.md).
HEAVY_TAILED = (
    "completeness_gap",
    "completeness_gap_relative",
    "deletion_auc_normalized",
    "insertion_auc_normalized",
)


#: Tests of paired differences; `report.stats.TESTS` has how each is made.
PAIRED_TESTS = ("wilcoxon", "sign_flip")


def middle_of(metric: str) -> str:
    """Returns the average of a metric over texts: "median" if it has heavy tails, else "mean".

    The metric may name its removal operator ("srg (pad)").
    """
    return "median" if metric.split(" ", 1)[0] in HEAVY_TAILED else "mean"


def median_interval(
    values: Float[np.ndarray, " N"], confidence: float
) -> tuple[float, float, float]:
    """Returns the median and an interval between two order statistics. NaN is left out.

    The interval covers the true median with a probability of at least `confidence`, whatever the distribution (Conover
    1999, section 3.2). If there are too few values for such an interval (below 6 at 95 %), it is their whole range. With
    fewer than two values it is NaN.
    """
    from scipy.stats import binom

    # scipy's quantile_test has the same interval, but takes ten times as long, and has none for few values.
    ordered = np.sort(values[~np.isnan(values)])
    if len(ordered) < 2:
        return (float(ordered[0]) if len(ordered) else np.nan), np.nan, np.nan
    outside = max(int(binom.ppf((1 - confidence) / 2, len(ordered), 0.5)) - 1, 0)
    return float(np.median(ordered)), float(ordered[outside]), float(ordered[-1 - outside])
