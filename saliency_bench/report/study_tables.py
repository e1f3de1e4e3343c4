"""The tables of a study's report."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from saliency_bench.core.errors import counted
from saliency_bench.core.labels import (
    BACKWARD,
    IMPLIED,
    metric_label,
    ordered_metrics,
    same_evidence_words,
    settings_label,
    unit_label,
    value_label,
    value_of,
    varying,
)
from saliency_bench.core.method_facts import backward_parts, entry_label, facts_of, is_reference
from saliency_bench.core.rows import OK
from saliency_bench.core.texts import TEXT
from saliency_bench.report import causal, convergence_table
from saliency_bench.report.analysis import Analysis
from saliency_bench.report.comparison_tables import (
    METHOD,
    TEST_WORDS,
    comparison,
    fixed_pairs,
    interval_words,
)
from saliency_bench.report.gates import gates
from saliency_bench.report.parity import pairs, parities
from saliency_bench.report.removal_cost import removal_cost
from saliency_bench.report.table import Cell, Column, Estimate, Field, Table, filled, number, whole
from saliency_bench.report.timing import timing

_RATE = "examples_per_second"  # if there are metrics, only in the long table: it is one over the seconds
#: The verdict on a setting without a Captum twin.
NO_RULES = "not compared: Captum has no backward rules"


def headline(analysis: Analysis) -> Table:
    """Returns the main table: the endpoint, further metrics and costs, or the convergence if there are none of these."""
    timed = analysis.costs["seconds"].notna().any()
    if not analysis.metrics and not timed and (of_convergence := convergence(analysis)).rows:
        return replace(of_convergence, name="headline", title=_title(analysis))
    ranks: list[Field] = [
        (Column("group", "Group"), analysis.groups.get),
        (Column("rank", "Mean rank"), analysis.ranks.get),
    ]
    metrics = sorted(analysis.headline, key=lambda metric: metric != analysis.primary)
    fields = [
        _method(analysis),
        *metric_fields(analysis, metrics[:1]),
        *(ranks if analysis.groups else []),
        *metric_fields(analysis, metrics[1:]),
        *causal.first_token(analysis),
        *(field for field in _costs(analysis) if not metrics or field[0].key != _RATE),
    ]
    caption = caption_of(analysis) + same_evidence_words(analysis.headline)
    shown, claims = analysis.shown, analysis.claims
    table = filled("headline", _title(analysis), caption, fields, shown, claims)
    return causal.with_words(analysis, table)


def summary(analysis: Analysis) -> Table:
    """Returns the table of every setting with all metrics and costs."""
    fields = [
        _method(analysis),
        (Column("backend", "Backend"), lambda key: facts_of(analysis.setting(key)).backend),
        (Column("reduction", "Reduction"), lambda key: analysis.setting(key)["reduction"]),
        (Column("settings", "Settings"), lambda key: settings_label(analysis.setting(key))),
        *_costs(analysis),
        *causal.first_token(analysis),
        *metric_fields(analysis, analysis.metrics),
    ]
    title = "All settings and metrics"
    caption = caption_of(analysis) + same_evidence_words(analysis.metrics)
    return filled("summary", title, caption, fields, _ids(analysis), analysis.claims)


def right_and_wrong(analysis: Analysis) -> Table:
    """Returns the main table for right and for wrong predictions."""
    groups = dict(list(analysis.correctness.groupby(["setting_id", "prediction"])))
    items = [
        (key, prediction)
        for key in analysis.shown
        for prediction in ("right", "wrong")
        if (key, prediction) in groups
    ]

    def n_examples(item: tuple[str, str]) -> int:
        return int((groups[item]["n"] + groups[item]["n_not_ok"]).max())

    def estimate(item: tuple[str, str], metric: str) -> Cell:
        group = groups[item]
        rows = group[(group["metric"] == metric) & (group["n"] > 0)]
        return next((Estimate(row.mean, row.low, row.high) for row in rows.itertuples()), None)

    fields: list[Field] = [
        (METHOD, lambda item: analysis.labels[item[0]]),
        (Column("prediction", "Prediction"), lambda item: str(item[1])),
        (Column("n", "n"), n_examples),
        *(
            (_metric_column(analysis, metric), partial(estimate, metric=metric))
            for metric in analysis.headline
        ),
    ]
    caption = f"Means with {interval_words(analysis)}. n: examples in the group."
    title = "Right and wrong predictions"
    return filled("right_and_wrong", title, caption, fields, items, False)


def agreement(analysis: Analysis) -> Table:
    """Returns the table of the agreement of every two drawn settings, beside that of random rankings.

    Twins of ours and Captum's are in it whether they are drawn or not.
    """
    rows = analysis.table("agreement")
    rows = rows[rows["status"] == OK]
    twins = {pair[:2] for pair in pairs(analysis.settings)}

    def mean(column: str) -> Callable[[Any], Cell]:
        """Returns the mean of a column as a field; None if no text has a value."""
        return lambda item: float(item[1][column].mean()) if item[1][column].notna().any() else None

    fields: list[Field] = [
        (METHOD, lambda item: analysis.labels[item[0][1]]),
        (Column("other", "Other method"), lambda item: analysis.labels[item[0][2]]),
        (Column("metric", "Metric"), lambda item: metric_label(item[0][0])),
        (Column("n", "n"), lambda item: len(item[1])),
        (Column("value", "Agreement"), mean("value")),
        (Column("chance", "By chance"), mean("chance")),
    ]
    items = [
        ((metric, a, b), _per_text(values))
        for (metric, a, b), values in rows.groupby(["metric", "setting_a", "setting_b"])
        if {a, b} <= {*analysis.drawn} or (a, b) in twins or (b, a) in twins
    ]
    caption = (
        "Means over the n examples where both methods have an order. By chance: the mean of two random rankings. "
        f"RBO is extrapolated (Webber, Moffat & Zobel 2010).{analysis.drawn_words}"
    )
    return filled("agreement", "Agreement of methods", caption, fields, items, False)


def _per_text(values: pd.DataFrame) -> pd.DataFrame:
    """Returns the agreement on each text, the mean over its questions."""
    if TEXT not in values:
        return values
    return values.groupby(["cell_id", TEXT])[["value", "chance"]].mean()


def gate(analysis: Analysis) -> Table:
    """Returns the table of a shortcut model's gate; empty for other models."""
    model = analysis.run.manifest.get("model") or {}
    return gates({model["name"]: model} if "gate" in model else {})


def convergence(analysis: Analysis) -> Table:
    """Returns the table of the convergence of every setting that approximates."""
    shares = analysis.gates
    n_gradients = number(analysis.costs["n_gradients"], whole)
    fields = [
        _method(analysis),
        (Column("n_gradients", "Gradients per example"), n_gradients),
        *convergence_table.fields(shares),
    ]
    keys = [key for key in _ids(analysis) if shares.loc[key].notna().any()]
    caption = convergence_table.caption(analysis.run) + convergence_table.gate_words(
        analysis.run, shares
    )
    return filled("convergence", "Convergence", caption, fields, keys, False)


def parity(analysis: Analysis) -> Table:
    """Returns the table of native scores against Captum's."""
    fields: list[Field] = [
        (METHOD, lambda pair: analysis.labels[pair.setting_id]),
        (Column("other", "Against"), lambda pair: analysis.labels[pair.other_id]),
        (Column("n", "Maps"), lambda pair: pair.n_examples),
        (Column("absolute", "Largest difference"), lambda pair: pair.absolute),
        (
            Column("relative", "Relative to the text's largest score"),
            lambda pair: pair.relative,
        ),
        (Column("expected", "Expected"), lambda pair: pair.expected or None),
        (Column("tolerance", "Tolerance"), lambda pair: pair.tolerance),
        (Column("verdict", "Verdict"), lambda pair: pair.verdict),
    ]
    caption = (
        "Largest difference of any token's score. Captum's riemann_trapezoid has weights that sum to (n-1)/n, "
        "so ours exceeds it by 1/(n-1) at n steps; our own name for it reproduces it."
    )
    table = filled("parity", "Native against Captum", caption, fields, parities(analysis.run))
    if not any(map(is_reference, analysis.settings)):
        return table
    by_rule = [setting["setting_id"] for setting in analysis.settings if BACKWARD in setting]
    unpaired = tuple((analysis.labels[key], *6 * [None], NO_RULES) for key in by_rule)
    return replace(table, rows=table.rows + unpaired)


def sweep(analysis: Analysis) -> Table:
    """Returns the table of settings of one entry that differ in hyperparameters; those chosen elsewhere are marked."""
    names = {setting["name"] for setting in analysis.settings}
    swept = {name: varying(analysis.settings, name) for name in names}
    keys = [key for key in _ids(analysis) if swept[analysis.setting(key)["name"]]]

    def value(key: str, name: str) -> Cell:
        setting = analysis.setting(key)
        if name not in {*setting, *IMPLIED}:
            return None
        entry = value_of(setting, name)
        is_plain = isinstance(entry, int | str) and not isinstance(entry, bool)
        return entry if is_plain else value_label(entry)

    fields: list[Field] = [
        (Column("name", "Entry"), lambda key: entry_label(analysis.setting(key))),
        *(
            (Column(name, name), partial(value, name=name))
            for name in sorted({name for keys_of_entry in swept.values() for name in keys_of_entry})
        ),
        (Column("backend", "Backend"), lambda key: facts_of(analysis.setting(key)).backend),
        (Column("chosen", "Chosen"), lambda key: "✓" if key in analysis.best.values() else ""),
        _costs(analysis)[0],
        *metric_fields(analysis, analysis.headline),
    ]
    title = "Settings that differ in hyperparameters"
    return filled("sweep", title, caption_of(analysis), fields, keys, False)


def notes(analysis: Analysis) -> Table:
    """Returns the table of missing numbers with their reasons, of warnings, and of the parts of backward rules."""
    columns = (
        Column("kind", "Kind"),
        Column("where", "Where"),
        Column("reason", "Reason"),
        Column("n", "Times"),
    )
    rows = (*_missing(analysis), *_warnings(analysis), *_rule_parts(analysis))
    return Table("notes", "Notes", "What has no number, and why.", columns, rows)


def _missing(analysis: Analysis) -> Iterator[tuple[Cell, ...]]:
    rows, pairs = (analysis.run.tables[name] for name in ("rows", "agreement"))
    for (status, reason), group in rows[rows["status"] != OK].groupby(["status", "reason"]):
        where = "; ".join(metric_label(metric) for metric in ordered_metrics(group["metric"]))
        yield status.replace("_", " "), where, reason, len(group)
    by = ["status", "metric", "reason"]
    for (status, metric, reason), group in pairs[pairs["status"] != OK].groupby(by):
        yield status.replace("_", " "), f"Agreement of methods ({metric})", reason, len(group)


def _rule_parts(analysis: Analysis) -> Iterator[tuple[Cell, ...]]:
    """Yields the modules at which each backward rule acts, and the parts that the model lacks."""
    by_rule = {setting.get(BACKWARD): backward_parts(setting) for setting in analysis.settings}
    for rule, parts in by_rule.items():
        for part, modules in parts.items():
            where = ", ".join(modules) or "in no module"
            yield f"backward={rule}", part, where, sum(modules.values())


def _warnings(analysis: Analysis) -> Iterator[tuple[Cell, ...]]:
    for message, group in analysis.run.tables["warnings"].groupby("message"):
        sources = sorted(set(group["source"].dropna()))
        more = f" and {len(sources) - 3} more" if len(sources) > 3 else ""
        yield "warning", ", ".join(sources[:3]) + more, message, len(group)


TABLES: Mapping[str, Callable[[Analysis], Table]] = {
    "headline": headline,
    "summary": summary,
    "comparison": comparison,
    "fixed_pairs": fixed_pairs,
    "right_and_wrong": right_and_wrong,
    "agreement": agreement,
    "gates": gate,
    "convergence": convergence,
    "parity": parity,
    "sweep": sweep,
    "removal_cost": removal_cost,
    "timing": timing,
    "notes": notes,
}


def tables(analysis: Analysis) -> dict[str, Table]:
    """Returns all tables that have rows, by name."""
    made = {name: causal.with_words(analysis, make(analysis)) for name, make in TABLES.items()}
    return {name: table for name, table in made.items() if table.rows}


def _ids(analysis: Analysis) -> list[str]:
    return [setting["setting_id"] for setting in analysis.settings]


def _method(analysis: Analysis) -> Field:
    return METHOD, lambda key: analysis.labels[key]


def metric_fields(analysis: Analysis, metrics: Sequence[str]) -> list[Field]:
    """Returns a column for each of these metrics."""
    return [
        (_metric_column(analysis, metric), partial(analysis.estimate, metric=metric))
        for metric in metrics
    ]


def _metric_column(analysis: Analysis, metric: str) -> Column:
    unit = analysis.summary.loc[analysis.summary["metric"] == metric, "unit"].iloc[0]
    direction = analysis.higher_is_better(metric)
    return Column(metric, metric_label(metric), unit_label(unit or ""), direction)


def _costs(analysis: Analysis) -> list[Field]:
    """Returns the columns of a setting's costs and of the convergence of its maps; the gradients come first."""
    costs, converged = analysis.costs, analysis.gates["converged"]
    fields: list[Field] = [
        (Column("n_gradients", "Gradients per example"), number(costs["n_gradients"], whole)),
        (Column("converged", "Converged"), number(converged, convergence_table.whole_percent)),
        (Column("seconds", "Time per example", "s"), number(costs["seconds"])),
        (
            Column(_RATE, "Examples per second"),
            number(costs[_RATE]),
        ),
    ]
    timed = ["seconds", _RATE] if costs["seconds"].notna().any() else []
    gated = ["converged"] if converged.notna().any() else []
    return [field for field in fields if field[0].key in ("n_gradients", *gated, *timed)]


def _cancels(analysis: Analysis, key: str) -> bool:
    """Whether a setting is of random rankings together with their reverses."""
    srg = analysis.estimates.get((key, "srg"))
    chance = facts_of(analysis.setting(key)).role == "chance"
    return chance and srg is not None and srg.low == srg.high == 0


def _title(analysis: Analysis) -> str:
    return f"{analysis.run.manifest.get('name', 'run')}: {analysis.counted}"


def caption_of(analysis: Analysis, *, ranked: bool = True) -> str:
    """Returns the caption of a table of means: their intervals, the order of rows, and the marks and letters.

    `ranked`: the table has mean ranks.
    """
    primary, confidence = analysis.primary, analysis.resampling.confidence
    caption = f"Means with {interval_words(analysis)}."
    if primary is not None and analysis.higher_is_better(primary) is not None:
        endpoint = ", the primary endpoint" if primary == analysis.endpoint else ""
        caption += f" Sorted by {metric_label(primary)}{endpoint}."
    if analysis.claims:
        caption += " Bold: the best mean of a column, which need not be significantly so."
    if analysis.groups and primary is not None:
        caption += (
            f" Methods that share a letter do not differ in {metric_label(primary)} "
            f"({TEST_WORDS[analysis.resampling.test]}, all pairs, Holm, "
            f"α = {1 - confidence:.2g})"
            + ("; the mean rank is over examples, 1 the best." if ranked else ".")
        )
    if any(_cancels(analysis, key) for key in analysis.shown):
        caption += " Random: rankings and their reverses, whose SRG is the opposite, so that it is 0 on every text."
    caption += convergence_table.gate_words(analysis.run, analysis.gates)
    if choice := analysis.run.manifest.get("chosen"):
        caption += (
            f" Hyperparameters were chosen by {metric_label(choice['metric'])} on {counted(choice['n_examples'], 'example')} of the "
            f"{choice['split']} split; the numbers are of the {analysis.run.manifest.get('split')} split."
        )
    return caption
