"""The tables of a report."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from saliency_bench.core.labels import (
    BACKWARD,
    UNSAID,
    metric_label,
    ordered_metrics,
    same_evidence_words,
    settings_label,
    unit_label,
    value_label,
    value_of,
    varying,
)
from saliency_bench.core.method_facts import facts_of, is_reference
from saliency_bench.core.rows import OK
from saliency_bench.report import convergence_table as convergence
from saliency_bench.report.analysis import Analysis
from saliency_bench.report.gates import gates
from saliency_bench.report.parity import pairs, parities
from saliency_bench.report.removal_cost import removal_cost
from saliency_bench.report.stats import TEXT, middle_of, with_texts
from saliency_bench.report.table import Cell, Column, Estimate, Table
from saliency_bench.report.timing import timing

NAMES = (
    "headline",
    "summary",
    "comparison",
    "right_and_wrong",
    "agreement",
    "gates",
    "convergence",
    "parity",
    "sweep",
    "removal_cost",
    "timing",
    "notes",
)
_METHOD = Column("method", "Method")
#: What stands beside a setting that Captum has no twin of.
NO_RULES = "not compared: Captum has no backward rules"
TEST_WORDS = {
    "wilcoxon": "Wilcoxon signed-rank (zeros by Pratt)",
    "sign_flip": "sign-flip permutation of the mean difference",
}


def tables(analysis: Analysis) -> dict[str, Table]:
    """All tables that the run has something for, by name."""
    made = [
        headline(analysis),
        summary(analysis),
        comparison(analysis),
        right_and_wrong(analysis),
        agreement(analysis),
        gate(analysis),
        how_sure(analysis),
        parity(analysis),
        sweep(analysis),
        removal_cost(analysis),
        timing(analysis),
        notes(analysis),
    ]
    return {table.name: table for table in made if table.rows}


def interval_words(analysis: Analysis) -> str:
    """How every interval was made."""
    resampling = analysis.resampling
    return f"{resampling.words} over {_units(analysis)}, {resampling.n_resamples} resamples"


def _units(analysis: Analysis) -> str:
    several = analysis.n_questions > analysis.n_examples
    return f"texts, whose {analysis.question}s are averaged first" if several else "examples"


def headline(analysis: Analysis) -> Table:
    """The main table: what is shown, with the first metrics and the cost.

    Without metrics and times, how sure the scores are.
    """
    timed = analysis.costs["seconds"].notna().any()
    if not analysis.metrics and not timed and (sure := how_sure(analysis)).rows:
        return replace(sure, name="headline", title=_title(analysis))
    ranked = [Column("group", "Group"), Column("rank", "Mean rank")] if analysis.groups else []
    columns = [
        _METHOD,
        *_cost_columns(analysis),
        *ranked,
        *_metric_columns(analysis, analysis.headline),
    ]
    rows = [
        (
            analysis.labels[key],
            *_costs(analysis, key),
            *((analysis.groups.get(key), analysis.ranks.get(key)) if ranked else ()),
            *_estimates(analysis, key, analysis.headline),
        )
        for key in analysis.shown
    ]
    return Table(
        "headline",
        _title(analysis),
        _caption(analysis) + same_evidence_words(analysis.headline),
        tuple(columns),
        tuple(rows),
        analysis.claims,
    )


def how_sure(analysis: Analysis) -> Table:
    """What is known of the convergence of every setting that approximates something."""
    order = [one["setting_id"] for one in analysis.settings]
    return convergence.table(analysis.run, analysis.gates, analysis.labels, analysis.costs, order)


def summary(analysis: Analysis) -> Table:
    """Every setting with everything that is known of it."""
    columns = [
        _METHOD,
        Column("backend", "Backend"),
        Column("reduction", "Reduction"),
        Column("settings", "Settings"),
        *_cost_columns(analysis),
        *_metric_columns(analysis, analysis.metrics),
    ]
    rows = [
        (
            analysis.labels[key := setting["setting_id"]],
            facts_of(setting).backend,
            setting["reduction"],
            settings_label(setting),
            *_costs(analysis, key),
            *_estimates(analysis, key, analysis.metrics),
        )
        for setting in analysis.settings
    ]
    title = "All settings and metrics"
    caption = _caption(analysis) + same_evidence_words(analysis.metrics)
    return Table("summary", title, caption, tuple(columns), tuple(rows), analysis.claims)


def comparison(analysis: Analysis, metrics: Sequence[str] | None = None) -> Table:
    """What is shown against the reference setting, metric by metric."""
    found = analysis.comparison
    chosen = [
        one for one in metrics or analysis.metrics if len(found) and one in set(found["metric"])
    ]
    columns = [
        _METHOD,
        Column("metric", "Metric"),
        Column("n", "n"),
        Column("difference", "Difference"),
        *([Column("p", "p"), Column("p_holm", "p (Holm)")] if analysis.claims else []),
        Column("effect", "Effect r"),
        Column("detectable", "Detectable"),
    ]
    by_key = {(row.setting_id, row.metric): row for row in found.itertuples(index=False)}
    rows = [
        _comparison_row(analysis, by_key[key, metric], key, metric)
        for metric in chosen
        for key in analysis.shown
        if (key, metric) in by_key
    ]
    title = f"Differences from {analysis.labels[analysis.reference]}"
    return Table("comparison", title, _comparison_caption(analysis), tuple(columns), tuple(rows))


def _comparison_row(analysis: Analysis, row: Any, key: str, metric: str) -> tuple[Cell, ...]:
    tests = (float(row.p), float(row.p_holm)) if analysis.claims else ()
    return (
        analysis.labels[key],
        metric_label(metric),
        int(row.n),
        Estimate(row.difference, row.low, row.high),
        *tests,
        float(row.effect),
        None if pd.isna(row.detectable) else float(row.detectable),
    )


def _comparison_caption(analysis: Analysis) -> str:
    tests = (
        f"p: {TEST_WORDS[analysis.resampling.test]}, corrected over the methods of a metric (Holm). "
        if analysis.claims
        else ""
    )
    heavy = any(middle_of(metric) == "median" for metric in analysis.metrics)
    medians = ", medians of metrics that are named so," if heavy else ""
    return (
        f"Mean paired differences{medians} with {interval_words(analysis)}. {tests}Effect: matched-pairs rank-biserial "
        "correlation. Detectable: smallest true difference that this many examples find with 80 % power at "
        f"α = {1 - analysis.resampling.confidence:.2g}. "
        f"{_endpoint_words(analysis)}"
    )


def _endpoint_words(analysis: Analysis) -> str:
    name = metric_label(analysis.endpoint)
    if analysis.endpoint in analysis.metrics:
        return f"{name} is the primary endpoint; the rest is exploratory."
    return f"{name}, the primary endpoint, was not asked for: all of this is exploratory."


def right_and_wrong(analysis: Analysis) -> Table:
    """The main table for right and for wrong predictions."""
    found = analysis.correctness
    columns = [
        _METHOD,
        Column("prediction", "Prediction"),
        Column("n", "n"),
        *_metric_columns(analysis, analysis.headline),
    ]
    groups = {} if not len(found) else dict(list(found.groupby(["setting_id", "prediction"])))
    rows = [
        _group_row(analysis, groups[key, prediction], key, prediction)
        for key in analysis.shown
        for prediction in ("right", "wrong")
        if (key, prediction) in groups
    ]
    caption = f"Means with {interval_words(analysis)}. n: examples in the group."
    return Table(
        "right_and_wrong",
        "Right and wrong predictions",
        caption,
        tuple(columns),
        tuple(rows),
        False,
    )


def gate(analysis: Analysis) -> Table:
    """What a model that follows a shortcut was found to do; of other models nothing."""
    model = analysis.run.manifest.get("model") or {}
    return gates({model["name"]: model} if "gate" in model else {})


def _group_row(
    analysis: Analysis, group: pd.DataFrame, key: str, prediction: str
) -> tuple[Cell, ...]:
    by_metric = {row.metric: row for row in group.itertuples(index=False)}
    estimates = [
        Estimate(row.mean, row.low, row.high) if (row := by_metric.get(metric)) and row.n else None
        for metric in analysis.headline
    ]
    return analysis.labels[key], prediction, int((group["n"] + group["n_not_ok"]).max()), *estimates


def agreement(analysis: Analysis) -> Table:
    """How far every two of the drawn settings agree, by every metric, beside what random rankings would have.

    Ours and Captum's of the same are there whether they are drawn or not.
    """
    found = with_texts(
        analysis.run.tables["agreement"], analysis.run.manifest, analysis.run.repeated
    )
    drawn = set(analysis.drawn)
    twins = {frozenset(pair[:2]) for pair in pairs(analysis.settings)}
    both = found["setting_a"].isin(drawn) & found["setting_b"].isin(drawn)
    paired = [
        frozenset(pair) in twins
        for pair in zip(found["setting_a"], found["setting_b"], strict=True)
    ]
    own = found[(found["status"] == OK) & (both | np.array(paired, dtype=bool))]
    columns = (
        _METHOD,
        Column("other", "Other method"),
        Column("metric", "Metric"),
        Column("n", "n"),
        Column("value", "Agreement"),
        Column("chance", "By chance"),
    )
    rows = [
        (
            analysis.labels[a],
            analysis.labels[b],
            metric_label(metric),
            len(pair),
            float(pair["value"].mean()),
            None if pair["chance"].isna().all() else float(pair["chance"].mean()),
        )
        for (metric, a, b), every in own.groupby(["metric", "setting_a", "setting_b"])
        for pair in [_per_text(every)]
    ]
    caption = (
        "Means over the n examples where both methods have an order. By chance: the mean of two random rankings. "
        f"RBO is extrapolated (Webber, Moffat & Zobel 2010).{analysis.drawn_words}"
    )
    title = "Agreement of methods"
    return Table("agreement", title, caption, columns, tuple(rows), False)


def _per_text(pairs: pd.DataFrame) -> pd.DataFrame:
    """Agreement on each text, the mean over its questions."""
    if TEXT not in pairs:
        return pairs
    return pairs.groupby(["cell_id", TEXT])[["value", "chance"]].mean()


def parity(analysis: Analysis) -> Table:
    """Native scores against Captum's."""
    columns = [
        _METHOD,
        Column("other", "Against"),
        Column("n", "Maps"),
        Column("absolute", "Largest difference"),
        Column("relative", "Relative to the text's largest score"),
        Column("expected", "Expected"),
        Column("tolerance", "Tolerance"),
        Column("verdict", "Verdict"),
    ]
    rows = [
        (
            analysis.labels[one.setting_id],
            analysis.labels[one.other_id],
            one.n_examples,
            one.absolute,
            one.relative,
            one.expected or None,
            one.tolerance,
            one.verdict,
        )
        for one in parities(analysis.run)
    ]
    if any(map(is_reference, analysis.settings)):
        by_rule = [one["setting_id"] for one in analysis.settings if BACKWARD in one]
        rows += [(analysis.labels[key], *6 * [None], NO_RULES) for key in by_rule]
    caption = (
        "Largest difference of any token's score. Captum's riemann_trapezoid has weights that sum to (n-1)/n, "
        "so ours exceeds it by 1/(n-1) at n steps; our own name for it reproduces it."
    )
    return Table("parity", "Native against Captum", caption, tuple(columns), tuple(rows))


def sweep(analysis: Analysis) -> Table:
    """Settings of one entry that differ in hyperparameters; what the study chose elsewhere is marked."""
    swept = {
        name: varying(analysis.settings, name)
        for name in {one["name"] for one in analysis.settings}
    }
    keys = sorted({key for own in swept.values() for key in own})
    columns = [
        Column("name", "Entry"),
        *(Column(key, key) for key in keys),
        Column("backend", "Backend"),
        Column("chosen", "Chosen"),
        Column("n_gradients", "Gradients per example"),
        *_metric_columns(analysis, analysis.headline),
    ]
    choice = (analysis.run.manifest.get("chosen") or {}).get("best", {})
    rows = []
    for one in analysis.settings:
        if swept[one["name"]]:
            key = one["setting_id"]
            values = [
                _value(value_of(one, name)) if {name} & {*one, *UNSAID} else None for name in keys
            ]
            chosen = "✓" if choice.get(one["name"], {}).get("setting_id") == key else ""
            costs, metrics = _costs(analysis, key), _estimates(analysis, key, analysis.headline)
            rows.append(
                (
                    facts_of(one).entry,
                    *values,
                    facts_of(one).backend,
                    chosen,
                    costs[0],
                    *metrics,
                )
            )
    title = "Settings that differ in hyperparameters"
    return Table("sweep", title, _caption(analysis), tuple(columns), tuple(rows), False)


def _value(value: Any) -> Cell:
    return (
        value
        if isinstance(value, int | str) and not isinstance(value, bool)
        else value_label(value)
    )


def notes(analysis: Analysis) -> Table:
    """Everything without a number, counted, with its reason; and all warnings."""
    columns = (
        Column("kind", "Kind"),
        Column("where", "Where"),
        Column("reason", "Reason"),
        Column("n", "Times"),
    )
    found = [*_status_notes(analysis), *_agreement_notes(analysis), *_warning_notes(analysis)]
    return Table("notes", "Notes", "What has no number, and why.", columns, tuple(found))


def _status_notes(analysis: Analysis) -> Iterator[tuple[Cell, ...]]:
    rows = analysis.run.tables["rows"]
    missing = rows[rows["status"] != OK]
    for (status, reason), own in missing.groupby(["status", "reason"]):
        where = "; ".join(metric_label(metric) for metric in ordered_metrics(own["metric"]))
        yield status.replace("_", " "), where, reason, len(own)


def _agreement_notes(analysis: Analysis) -> Iterator[tuple[Cell, ...]]:
    rows = analysis.run.tables["agreement"]
    missing = rows[rows["status"] != OK]
    for (status, metric, reason), own in missing.groupby(["status", "metric", "reason"]):
        yield status.replace("_", " "), f"Agreement of methods ({metric})", reason, len(own)


def _warning_notes(analysis: Analysis) -> Iterator[tuple[Cell, ...]]:
    for message, own in analysis.run.tables["warnings"].groupby("message"):
        sources = sorted(set(own["source"].dropna()))
        where = ", ".join(sources[:3]) + (
            f" and {len(sources) - 3} more" if len(sources) > 3 else ""
        )
        yield "warning", where, message, len(own)


def _title(analysis: Analysis) -> str:
    name = analysis.run.manifest.get("name", "run")
    return f"{name}: {analysis.counted}"


def _caption(analysis: Analysis) -> str:
    best = (
        " Bold: the best mean of a column, which need not be significantly so."
        if analysis.claims
        else ""
    )
    gate = convergence.gate_words(analysis.run) if analysis.gates["converged"].notna().any() else ""
    return f"Means with {interval_words(analysis)}.{_order_words(analysis)}{best}{_group_words(analysis)}{gate}{_choice_words(analysis)}"


def _order_words(analysis: Analysis) -> str:
    if (primary := analysis.primary) is None or analysis.higher_is_better(primary) is None:
        return ""
    said = ", the primary endpoint" if primary == analysis.endpoint else ""
    return f" Sorted by {metric_label(primary)}{said}."


def _group_words(analysis: Analysis) -> str:
    if not analysis.groups or (primary := analysis.primary) is None:
        return ""
    return (
        f" Methods that share a letter do not differ in {metric_label(primary)} "
        f"({TEST_WORDS[analysis.resampling.test]}, all pairs, Holm, "
        f"α = {1 - analysis.resampling.confidence:.2g}); the mean rank is over examples, 1 the best."
    )


def _choice_words(analysis: Analysis) -> str:
    manifest = analysis.run.manifest
    if not (choice := manifest.get("chosen")):
        return ""
    return (
        f" Hyperparameters were chosen by {metric_label(choice['metric'])} on {choice['n_examples']} examples of the "
        f"{choice['split']} split; the numbers are of the {manifest.get('split')} split."
    )


def _metric_columns(analysis: Analysis, metrics: Sequence[str]) -> list[Column]:
    return [_metric_column(analysis, metric) for metric in metrics]


def _metric_column(analysis: Analysis, metric: str) -> Column:
    own = analysis.summary[analysis.summary["metric"] == metric].iloc[0]
    unit = unit_label(own["unit"] or "")
    return Column(metric, metric_label(metric), unit, analysis.higher_is_better(metric))


def _estimates(analysis: Analysis, key: str, metrics: Sequence[str]) -> list[Cell]:
    return [analysis.estimate(key, metric) for metric in metrics]


def _cost_columns(analysis: Analysis) -> list[Column]:
    timed = analysis.costs["seconds"].notna().any()
    columns = [Column("n_gradients", "Gradients per example")]
    if analysis.gates["converged"].notna().any():
        columns.append(Column("converged", "Converged"))
    if timed:
        columns += [
            Column("seconds", "Time per example", "s"),
            Column("examples_per_second", "Examples per second"),
        ]
    return columns


def _costs(analysis: Analysis, key: str) -> list[Cell]:
    own = analysis.costs.loc[key]
    n_gradients = float(own["n_gradients"])
    cells: list[Cell] = [int(n_gradients) if n_gradients.is_integer() else n_gradients]
    if analysis.gates["converged"].notna().any():
        cells.append(convergence.share_cell(float(analysis.gates.loc[key, "converged"])))
    if analysis.costs["seconds"].notna().any():
        cells += [float(own["seconds"]), float(own["examples_per_second"])]
    return cells
