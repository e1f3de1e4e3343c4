"""Intervals, paired comparisons and effect sizes: reads rows, never runs a model.

All settings have the same examples, so every comparison is paired by (cell, example). In tasks with several questions per
text (`with_texts`) pairs are of questions, but texts are resampled, tested and counted: the questions of a text are not
independent, and are averaged first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import optimize, special
from scipy import stats as distributions

from saliency_bench.core.averages import median_interval, middle_of
from saliency_bench.core.rows import OK
from saliency_bench.core.texts import TEXT, UNIT, index_of, per_text

#: The rounding error of sums of a few thousand numbers, relative to the largest.
ROUNDING = 1e-12
#: For more values than this the bootstrap is not drawn but expanded.
MOST_RESAMPLED = 10_000
#: With fewer texts an interval depends on its assumptions: it covers less than its level, or is very wide.
N_FOR_INTERVALS = 10
_BATCH = 1000  # resamples held in memory at once
_BATCH_DRAWS = 2**21  # and the most values that are drawn for them: 16 MiB


@dataclass(frozen=True)
class Resampling:
    """The options of an interval: its coverage, the number of resamples and their seed; and the test beside it (`TESTS`)."""

    confidence: float
    n_resamples: int
    seed: int
    test: str = "wilcoxon"

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> "Resampling":
        """Reads the options from a study's manifest; without them they are 95 %, 9999 and 0."""
        config = manifest.get("config") or {}
        chosen = config.get("statistics") or {}
        return cls(
            chosen.get("confidence", 0.95),
            chosen.get("n_resamples", 9999),
            config.get("seed", 0),
            chosen.get("test", "wilcoxon"),
        )

    @property
    def words(self) -> str:
        """The name of the intervals in captions."""
        return f"{100 * self.confidence:g} % intervals (Student's t and BCa bootstrap)"


def wide(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns values with status ok: one line per example, one column per (setting, metric), NaN elsewhere."""
    ok = rows[rows["status"] == OK]
    return ok.pivot(index=index_of(rows), columns=["setting_id", "metric"], values="value").astype(
        float
    )


def intervals(
    values: Float[np.ndarray, "N M"], resampling: Resampling
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """Returns intervals of column means, NaN left out: on each side the farther end of Student's t and the BCa bootstrap.

    Student's t has its coverage on nearly symmetric values, such as differences, even for few texts. The bootstrap follows
    skew (Efron 1987); its quantiles are those of the t distribution (Hesterberg 2015, section 5.3), since those of few
    texts are too narrow. Either alone covers less than its level on half of the metrics; see docs/evaluation.md. An end may
    lie beyond the possible values of a metric.

    Columns with NaN in the same places share their resamples. A constant column has an interval of no width; one with fewer
    than two values has none (NaN).
    """
    present = ~np.isnan(values)
    largest, smallest = (end.reduce(values, 0, initial=np.nan) for end in (np.fmax, np.fmin))
    # Numbers that differ by rounding alone count as equal.
    constant = largest - smallest <= ROUNDING * np.maximum(abs(largest), abs(smallest))
    several = present.sum(0) > 1
    low = np.where(several & constant, largest, np.nan)
    high = low.copy()
    varying = np.flatnonzero(several & ~constant)
    patterns, group = np.unique(present[:, varying], axis=1, return_inverse=True)
    for number, pattern in enumerate(patterns.T):
        columns = varying[np.ravel(group) == number]
        kept = values[np.ix_(pattern, columns)]
        bca = _bca(kept, replace(resampling, confidence=_expanded(len(kept), resampling)))
        t = distributions.t.interval(
            resampling.confidence, len(kept) - 1, kept.mean(0), distributions.sem(kept)
        )
        low[columns], high[columns] = np.minimum(bca[0], t[0]), np.maximum(bca[1], t[1])
    return low, high


def _expanded(n: int, resampling: Resampling) -> float:
    """Returns the confidence at which normal quantiles are those of t for n values, with the deviation divided by n.

    It is limited by the number of resamples: the ends are at most their smallest and their largest mean.
    """
    quantile = special.stdtrit(n - 1, (1 + resampling.confidence) / 2)
    expanded = 1 - 2 * special.ndtr(-quantile * np.sqrt(n / (n - 1)))
    return float(min(expanded, 1 - 2 / (resampling.n_resamples + 1)))


def few_words(n: int) -> str:
    """Returns a warning if there are too few texts for intervals of their level; else an empty text."""
    if n >= N_FOR_INTERVALS:
        return ""
    if n == 1:
        return "Warning: n = 1. One text gives no interval."
    return f"Warning: n = {n}. Intervals of fewer than {N_FOR_INTERVALS} texts can cover the mean less often than they say."


def middles(
    values: Float[np.ndarray, "N M"], metrics: Sequence[str], resampling: Resampling
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """Returns the mean of each column, or the median of a metric with heavy tails, and the ends of its interval."""
    heavy = np.array([middle_of(metric) == "median" for metric in metrics], dtype=bool)
    middle = np.full(len(heavy), np.nan)
    low, high = middle.copy(), middle.copy()
    middle[~heavy] = pd.DataFrame(values[:, ~heavy]).mean().to_numpy()
    low[~heavy], high[~heavy] = intervals(values[:, ~heavy], resampling)
    for column in np.flatnonzero(heavy):
        interval = median_interval(values[:, column], resampling.confidence)
        middle[column], low[column], high[column] = interval
    return middle, low, high


def crossed_interval(values: Float[np.ndarray, "R C"], confidence: float) -> tuple[float, float]:
    """Returns an interval of the mean if both rows and columns are samples, such as texts and random weights; without NaN.

    The variance is that of rows, plus that of columns, less that of single values, which is in both (Cameron, Gelbach
    & Miller 2011), but at least either of them. The quantile is of t; its degrees of freedom are one less than the smaller
    of the numbers of rows and columns.
    """
    present = ~np.isnan(values)
    rows, columns = values[present.any(1)], present.any(0)
    rows = rows[:, columns]
    if min(rows.shape) < 2:
        return np.nan, np.nan
    mean = float(np.nanmean(rows))
    deviations = np.where(np.isnan(rows), 0.0, rows - mean)
    of_rows, of_columns = (
        float((deviations.sum(axis) ** 2).sum()) * n / (n - 1)
        for axis, n in ((1, len(rows)), (0, len(rows.T)))
    )
    variance = max(of_rows + of_columns - float((deviations**2).sum()), of_rows, of_columns)
    quantile = special.stdtrit(min(rows.shape) - 1, (1 + confidence) / 2)
    half = float(quantile * np.sqrt(variance)) / int(present.sum())
    return mean - half, mean + half


def _bca(
    values: Float[np.ndarray, "N M"], resampling: Resampling
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """Returns the ends of each column's BCa interval, in time and memory that are linear in N.

    The mean without one value follows from the mean and that value, so that the jackknife of the acceleration needs no
    samples; `scipy.stats.bootstrap` has all N at once and takes N squared. For more than `MOST_RESAMPLED` values nothing is
    drawn: the ends are the limit of infinitely many resamples, by the expansion of the bootstrap distribution and of the
    correction in 1 / sqrt(N) (Hall 1988; DiCiccio & Efron 1996, section 8). Its error is about 1 / N of the width, that of
    drawing a hundredth of the width.
    """
    observed = values.mean(0)
    away = values - observed  # N - 1 times the fall of the mean without the value
    acceleration = (away**3).sum(0) / (6 * (away**2).sum(0) ** 1.5)
    if len(values) > MOST_RESAMPLED:
        z = -special.ndtri((1 - resampling.confidence) / 2)
        error, skew = np.sqrt((away**2).sum(0)) / len(values), acceleration * (2 * z**2 + 1)
        return observed + error * (skew - z), observed + error * (skew + z)
    means = _resampled(values, resampling)
    apart = means - observed
    apart[abs(apart) <= ROUNDING * abs(values).max(0)] = 0.0  # the same values in another order
    bias = special.ndtri(((apart < 0).mean(0) + (apart <= 0).mean(0)) / 2)
    tail = special.ndtri((1 - resampling.confidence) / 2)

    def end(quantile: float) -> Float[np.ndarray, " M"]:
        shifted = bias + quantile
        levels = special.ndtr(bias + shifted / (1 - acceleration * shifted))
        return np.array([np.quantile(*column) for column in zip(means.T, levels, strict=True)])

    return end(tail), end(-tail)


def _resampled(
    values: Float[np.ndarray, "N M"], resampling: Resampling
) -> Float[np.ndarray, "B M"]:
    """Returns the means of every column over samples with replacement, which are the same for all columns."""
    n, stream = len(values), np.random.default_rng(resampling.seed)
    size = max(1, min(_BATCH, _BATCH_DRAWS // n))
    parts = []
    for start in range(0, resampling.n_resamples, size):
        n_samples = min(size, resampling.n_resamples - start)
        drawn = stream.integers(0, n, (n_samples, n))
        # With the counts of each example in a resample, the means of all columns are one matrix product.
        drawn += n * np.arange(n_samples)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=n_samples * n).reshape(n_samples, n)
        parts.append(counts @ values / n)
    return np.concatenate(parts)


def summarize(rows: pd.DataFrame, resampling: Resampling) -> pd.DataFrame:
    """Averages every (setting, metric) over texts, with an interval, and counts the texts without a value.

    Returns:
        One line per pair: setting_id, metric, unit, higher_is_better, n, n_not_ok, mean, sd, low, high. `mean` is the
        median of metrics with heavy tails (`HEAVY_TAILED`).
    """
    pairs = rows.groupby(["setting_id", "metric"], sort=True)
    summary = pairs.agg(unit=("unit", "first"), higher_is_better=("higher_is_better", "first"))
    table = per_text(wide(rows).reindex(columns=summary.index))
    summary["n"] = table.notna().sum()
    text = ["cell_id", TEXT if TEXT in rows else "example_id"]
    measured = rows.drop_duplicates([*text, "setting_id", "metric"]).groupby(
        ["setting_id", "metric"]
    )
    summary["n_not_ok"] = measured.size() - summary["n"]
    summary["sd"] = table.std(ddof=1)
    metrics = list(summary.index.get_level_values("metric"))
    summary["mean"], summary["low"], summary["high"] = middles(
        table.to_numpy(), metrics, resampling
    )
    return summary.reset_index()


def summarize_by_correctness(
    rows: pd.DataFrame, examples: pd.DataFrame, resampling: Resampling
) -> pd.DataFrame:
    """Returns `summarize` for right and for wrong predictions, with a column `prediction`.

    Examples without a gold label are in neither group.
    """
    labelled = examples.dropna(subset=["correct"])
    parts = []
    for name, correct in (("right", True), ("wrong", False)):
        texts = labelled.loc[labelled["correct"].astype(bool) == correct, UNIT]
        if len(chosen := rows.merge(texts, on=UNIT)):
            parts.append(summarize(chosen, resampling).assign(prediction=name))
    return pd.concat(parts) if parts else pd.DataFrame(columns=["setting_id", "prediction"])


def compare(
    rows: pd.DataFrame, reference: str | Mapping[str, str], resampling: Resampling
) -> pd.DataFrame:
    """Compares settings with a reference on the examples where both have a value, by text.

    Args:
        rows: the rows of a study.
        reference: the id of the setting that all others are compared with, or a mapping from settings to references.
        resampling: the options of intervals and tests.

    Returns:
        One line per pair: setting_id, metric, n, difference, low, high, p, p_holm, effect, detectable. `difference` is the
        mean of setting - reference with its interval, or the median of metrics with heavy tails. `p` is that of the chosen
        test (`TESTS`), and `p_holm` is corrected over all settings of the metric (Holm 1979). `effect` is the matched-pairs
        rank-biserial correlation; for `detectable` see `detectable_difference`.
    """
    table = wide(rows)
    settings = table.columns.unique("setting_id")
    against = dict.fromkeys(settings, reference) if isinstance(reference, str) else reference
    pairs = [
        (setting, metric)
        for setting, metric in table.columns
        if against.get(setting, setting) != setting and (against[setting], metric) in table.columns
    ]
    differences = {pair: table[pair] - table[against[pair[0]], pair[1]] for pair in pairs}
    values = per_text(pd.DataFrame(differences, index=table.index)).to_numpy()
    comparison = pd.DataFrame(pairs, columns=["setting_id", "metric"])
    comparison["n"] = (~np.isnan(values)).sum(0)
    metrics = [metric for _, metric in pairs]
    comparison["difference"], comparison["low"], comparison["high"] = middles(
        values, metrics, resampling
    )
    columns = [column[~np.isnan(column)] for column in values.T]
    comparison["p"] = [TESTS[resampling.test](column, resampling) for column in columns]
    comparison["p_holm"] = comparison.groupby("metric")["p"].transform(lambda p: holm(p.to_numpy()))
    comparison["effect"] = [rank_biserial(column) for column in columns]
    comparison["detectable"] = [
        np.nan
        if middle_of(metric) == "median"  # what could be detected is a difference of means
        else detectable_difference(column, alpha=1 - resampling.confidence)
        for column, metric in zip(columns, metrics, strict=True)
    ]
    return comparison


def signed_rank_p(differences: Float[np.ndarray, " N"]) -> float:
    """Returns the two-sided p of Wilcoxon's signed-rank test, with zeros ranked but not counted (Pratt 1959).

    It is 1 if all differences are 0, and NaN without differences. It is exact if possible (see `scipy.stats.wilcoxon`).
    """
    if len(differences) == 0:
        return float("nan")
    if not differences.any():
        return 1.0
    return float(distributions.wilcoxon(differences, zero_method="pratt").pvalue)


def sign_flip_p(differences: Float[np.ndarray, " N"], resampling: Resampling) -> float:
    """Returns the two-sided p of the mean difference if every sign is as likely as its opposite (Fisher 1935, section 21).

    It is over all 2^N signs if these are at most `n_resamples`, else over as many at random; 1 if all differences are 0.
    """
    if len(differences) == 0:
        return float("nan")
    if not differences.any():
        return 1.0
    result = distributions.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resampling.n_resamples,
        batch=_BATCH,
        rng=np.random.default_rng(resampling.seed),
    )
    return float(result.pvalue)


#: Tests of paired differences, by their names in `core.averages.PAIRED_TESTS`.
TESTS: dict[str, Callable[[Float[np.ndarray, " N"], Resampling], float]] = {
    "wilcoxon": lambda differences, resampling: signed_rank_p(differences),
    "sign_flip": sign_flip_p,
}


def rank_biserial(differences: Float[np.ndarray, " N"]) -> float:
    """Returns (W+ - W-) / (W+ + W-): 1 if all differences are positive, -1 if all negative, 0 if all are 0 (Kerby 2014)."""
    if len(differences) == 0:
        return float("nan")
    ranks = distributions.rankdata(np.abs(differences))
    positive, negative = ranks[differences > 0].sum(), ranks[differences < 0].sum()
    total = positive + negative
    return float((positive - negative) / total) if total else 0.0


def holm(p: Float[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
    """Returns K p-values with Holm's step-down correction for all K tests (Holm 1979); NaN is no test and stays."""
    corrected = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    remaining = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * remaining), 1.0)
    return corrected


def detectable_difference(
    differences: Float[np.ndarray, " N"], *, alpha: float, power: float = 0.8
) -> float:
    """Returns the smallest true mean difference that a two-sided paired t-test would detect with probability `power`.

    It is computed from the standard deviation of these differences, and exact for normal ones (noncentral t); NaN for fewer
    than 3.
    """
    n = len(differences)
    if n < 3:
        return float("nan")
    return float(np.std(differences, ddof=1) * _noncentrality(n - 1, alpha, power) / np.sqrt(n))


@lru_cache(maxsize=1024)
def _noncentrality(degrees: int, alpha: float, power: float) -> float:
    critical = float(special.stdtrit(degrees, 1 - alpha / 2))

    def excess_power(noncentrality: float) -> float:
        # Rejections on the wrong side are left out: below 1e-5 at any useful power.
        return float(distributions.nct.sf(critical, degrees, noncentrality) - power)

    return float(optimize.brentq(excess_power, 0.0, critical + 10.0))
