"""Tables of paired differences, and the words for intervals and tests in captions."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from saliency_bench.core.averages import middle_of
from saliency_bench.core.labels import metric_label
from saliency_bench.report.analysis import Analysis
from saliency_bench.report.table import Column, Estimate, Field, Table, filled

METHOD = Column("method", "Method")
TEST_WORDS = {
    "wilcoxon": "Wilcoxon signed-rank (zeros by Pratt)",
    "sign_flip": "sign-flip permutation of the mean difference",
}


def comparison(analysis: Analysis, metrics: Sequence[str] | None = None) -> Table:
    """Returns the table of the shown settings against the reference, metric by metric."""
    fields, rows = _compared(analysis, analysis.comparison, metrics)
    title = f"Differences from {analysis.labels[analysis.reference]}"
    return filled("comparison", title, _comparison_caption(analysis), fields, rows)


def fixed_pairs(analysis: Analysis, metrics: Sequence[str] | None = None) -> Table:
    """Returns the table of the pairs of `statistics.pairs`, metric by metric."""
    (method, *fields), rows = _compared(analysis, analysis.fixed_pairs, metrics)
    against: Field = (
        Column("against", "Held against"),
        lambda row: analysis.labels[analysis.against[row.setting_id]],
    )
    title = "Pairs fixed in advance"
    caption = _comparison_caption(analysis)
    return filled("fixed_pairs", title, caption, [method, against, *fields], rows)


def _compared(
    analysis: Analysis, differences: pd.DataFrame, metrics: Sequence[str] | None
) -> tuple[list[Field], list[Any]]:
    """Returns the columns and rows of a table of paired differences."""
    compared = {(row.setting_id, row.metric): row for row in differences.itertuples()}
    rows = [
        compared[key, metric]
        for metric in metrics or analysis.metrics
        for key in analysis.shown
        if (key, metric) in compared
    ]
    tests: list[Field] = [
        (Column("p", "p"), lambda row: float(row.p)),
        (Column("p_holm", "p (Holm)"), lambda row: float(row.p_holm)),
    ]
    fields: list[Field] = [
        (METHOD, lambda row: analysis.labels[row.setting_id]),
        (Column("metric", "Metric"), lambda row: metric_label(row.metric)),
        (Column("n", "n"), lambda row: int(row.n)),
        (
            Column("difference", "Difference"),
            lambda row: Estimate(row.difference, row.low, row.high),
        ),
        *(tests if analysis.claims else []),
        (Column("effect", "Effect r"), lambda row: float(row.effect)),
        (
            Column("detectable", "Detectable"),
            lambda row: None if pd.isna(row.detectable) else float(row.detectable),
        ),
    ]
    return fields, rows


def _comparison_caption(analysis: Analysis) -> str:
    tests = (
        f"p: {TEST_WORDS[analysis.resampling.test]}, corrected over the methods of a metric (Holm). "
        if analysis.claims
        else ""
    )
    heavy = any(middle_of(metric) == "median" for metric in analysis.metrics)
    medians = ", medians of metrics that are named so," if heavy else ""
    endpoint = metric_label(analysis.endpoint)
    if analysis.endpoint in analysis.metrics:
        words = f"{endpoint} is the primary endpoint; the rest is exploratory."
    else:
        words = f"{endpoint}, the primary endpoint, was not computed: all of this is exploratory."
    return (
        f"Mean paired differences{medians} with {interval_words(analysis)}. {tests}Effect: matched-pairs rank-biserial "
        "correlation. Detectable: smallest true difference that this many examples find with 80 % power at "
        f"α = {1 - analysis.resampling.confidence:.2g}. {words}"
    )


def interval_words(analysis: Analysis) -> str:
    """Returns the words for the intervals of a table."""
    several = analysis.n_questions > analysis.n_examples
    over = f"texts, whose {analysis.question}s are averaged first" if several else "examples"
    resampling = analysis.resampling
    return f"{resampling.words} over {over}, {resampling.n_resamples} resamples"
