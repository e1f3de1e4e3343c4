"""The throughput benchmark's rows as tables: rates, ratios of repeats that ran side by side, and who was not timed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from saliency_bench.core.rows import MATMUL, OK, THROUGHPUT
from saliency_bench.report.formats import to_csv
from saliency_bench.report.table import Cell, Column, Estimate, Table
from saliency_bench.study.timing import interleaved_ratio

#: What contestants are called; others go by their own names.
LABELS = {
    "ours": "Ours",
    "captum_sorted": "Captum, sorted and tuned",
    "captum_random": "Captum, random batches (typical use)",
    "captum_single": "Captum, one text at a time",
    "bare_loop": "Bare loop (100 %)",
    MATMUL: "Matrix product",
    "ours_sweep": "Ours, all settings at once",
    "ours_largest": "Ours, the largest setting alone",
    "captum_sweep": "Captum, setting by setting",
    "ours_adaptive": "Ours, adaptive",
    "ours_calibrated": "Ours, calibrated nodes",
    "captum_default": "Captum, default steps",
    "evaluation_shared": "From shared curves",
    "evaluation_separate": "Each metric and method by itself",
}

#: Sections with a table of their own; all others have cases of the same work.
_SPECIAL = ("sweep", "memory", "accuracy", "evaluation")

_RATES = (
    Column("section", "Section"),
    Column("case", "Case"),
    Column("contestant", "Contestant"),
    Column("examples_per_second", "Examples/s"),
    Column("tokens_per_second", "Tokens/s"),
    Column("gradients_per_second", "Gradients/s"),
    Column("useful_gflop_per_second", "Useful GFLOP/s"),
    Column("share_of_matmul", "Share of matrix product"),
    Column("share_of_bare_loop", "Share of bare loop"),
    Column("times_ours", "Time / ours"),
    Column("padding", "Padded / real tokens"),
    Column("peak_mebibytes", "Peak memory", "MiB"),
    Column("error", "Largest error"),
    Column("first_seconds", "First run", "s"),
)
_SWEEP = (
    Column("case", "Sweep"),
    Column("contestant", "Contestant"),
    Column("seconds", "Time", "s"),
    Column("gradients_per_text", "Gradients per text"),
    Column("times_largest", "Time / largest alone"),
    Column("times_ours", "Time / ours, all at once"),
)
_ACCURACY = (
    Column("contestant", "Contestant"),
    Column("gradients_per_text", "Gradients per text"),
    Column("milliseconds", "Time per text", "ms"),
    Column("error_median", "Error of the middle text"),
    Column("error", "Error of the worst text"),
    Column("times_captum", "Captum's time / its"),
)
_EVALUATION = (
    Column("case", "Case"),
    Column("contestant", "Contestant"),
    Column("milliseconds", "Time per text", "ms"),
    Column("times_shared", "Time / from shared curves"),
    Column("error", "Largest difference"),
)
_ABSENT = tuple(
    Column(name, name) for name in ("section", "case", "contestant", "status", "error", "reason")
)


def frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """pd.DataFrame as a frame with every column."""
    return pd.DataFrame(list(rows), columns=list(THROUGHPUT))


def to_file(rows: pd.DataFrame) -> str:
    """All rows as CSV."""
    cells = rows.astype(object).where(rows.notna(), None)
    table = Table(
        "rows",
        "",
        "",
        tuple(Column(name, name) for name in rows.columns),
        tuple(map(tuple, cells.itertuples(index=False))),
    )
    return to_csv(table)


def tables(rows: pd.DataFrame) -> list[Table]:
    """Every table that the rows have something for."""
    makers: tuple[Callable[[pd.DataFrame], Table], ...] = (
        rates,
        sweep,
        memory,
        accuracy,
        evaluation,
        not_timed,
    )
    return [table for make in makers if (table := make(rows)).rows]


def rates(rows: pd.DataFrame) -> Table:
    """Throughput of everybody in every case where all do the same work."""
    found = tuple(
        _rates_of(own, name)
        for _, own in cases(rows[~rows["section"].isin(_SPECIAL)])
        for name in own["contestant"].unique()
        if name != MATMUL
    )
    return Table("throughput", "Throughput", _caption(rows), _RATES, found, marks_best=False)


def _rates_of(case: pd.DataFrame, name: str) -> tuple[Cell, ...]:
    own = of(case, name)
    first = own.iloc[0]
    peak = own["peak_bytes"].max()
    return (
        first["section"],
        first["case"],
        LABELS.get(name, name),
        *(_rate(own, key) for key in ("n_examples", "n_tokens", "n_gradients")),
        _rate(own, "useful_flop", 1e-9),
        ratio_of_rates(case, name, MATMUL),
        ratio(case, "bare_loop", name),
        ratio(case, name, "ours"),
        _number(first["padded_tokens"] / first["n_tokens"]),
        _number(peak / 2**20),
        _number(first["error"]),
        _number(first["first_seconds"]),
    )


def sweep(rows: pd.DataFrame) -> Table:
    """What all settings of a sweep cost, against the largest alone and against Captum."""
    found = tuple(
        (
            case,
            LABELS.get(name, name),
            _estimate(of(own, name)["seconds"]),
            _per_text(of(own, name)),
            ratio(own, name, "ours_largest"),
            ratio(own, name, "ours_sweep"),
        )
        for (_, case), own in cases(rows[rows["section"] == "sweep"])
        for name in own["contestant"].unique()
        if name != MATMUL
    )
    caption = (
        "Ours and Captum's samples are equal; of steps, ours has a rule that nests, with one gradient more per "
        "setting. Ratios are medians of repeats side by side, with intervals."
    )
    return Table("sweep", "Sweeps", caption, _SWEEP, found, marks_best=False)


def memory(rows: pd.DataFrame) -> Table:
    """Peak memory by steps, and the ratio of most to fewest."""
    own = rows[(rows["section"] == "memory") & (rows["status"] == OK)]
    counts = sorted(own["n_steps"].unique())
    peaks = own.pivot_table(index="contestant", columns="n_steps", values="peak_bytes", sort=False)
    columns = [Column(f"peak_{n}", f"{n} steps", "MiB") for n in counts]
    found = tuple(
        (
            LABELS.get(name, name),
            *(_number(peaks.at[name, n] / 2**20) for n in counts),
            _number(peaks.at[name, counts[-1]] / peaks.at[name, counts[0]]),
        )
        for name in peaks.index
    )
    caption = (
        "Growth of memory over one run, beyond what was in use; the last column is most steps over fewest. On a CPU "
        "what the allocator keeps of freed tensors is in it, and differs by some per cent from run to run; with "
        "MALLOC_MMAP_THRESHOLD_=65536 in the environment of glibc it is not."
    )
    heads = (Column("contestant", "Contestant"), *columns, Column("ratio", "Ratio"))
    return Table("memory", "Peak memory", caption, heads, found, marks_best=False)


def accuracy(rows: pd.DataFrame) -> Table:
    """What a small error costs."""
    found = tuple(
        (
            LABELS.get(name, name),
            _per_text(of(own, name)),
            _estimate(1e3 * of(own, name)["seconds"] / of(own, name)["n_examples"]),
            _number(of(own, name)["error_median"].iloc[0]),
            _number(of(own, name)["error"].iloc[0]),
            ratio(own, "captum_default", name),
        )
        for _, own in cases(rows[rows["section"] == "accuracy"])
        for name in own["contestant"].unique()
        if name != MATMUL
    )
    caption = (
        "Errors: largest difference of a token's score to a dense rule's, over the text's largest score. The density "
        "of calibrated and adaptive nodes is learnt once per model and baseline, on other texts, and is not timed."
    )
    return Table(
        "accuracy", "Integrated Gradients to a small error", caption, _ACCURACY, found, False
    )


def evaluation(rows: pd.DataFrame) -> Table:
    """What judging metrics and methods together saves."""
    found = tuple(
        (
            case,
            LABELS.get(name, name),
            _estimate(1e3 * of(own, name)["seconds"] / of(own, name)["n_examples"]),
            ratio(own, name, "evaluation_shared"),
            _number(of(own, name)["error"].iloc[0]),
        )
        for (_, case), own in cases(rows[rows["section"] == "evaluation"])
        for name in own["contestant"].unique()
        if name != MATMUL
    )
    caption = (
        "Metrics of ready explanations. Shared: each question to the model once for all metrics and methods, and "
        "left-out tokens not computed where that is exact. Ratios are medians of repeats side by side, with intervals."
    )
    return Table("evaluation", "Evaluation", caption, _EVALUATION, found, marks_best=False)


def not_timed(rows: pd.DataFrame) -> Table:
    """Who was not timed, and why."""
    own = rows[rows["status"] != OK]
    found = tuple(
        (
            one.section,
            one.case,
            LABELS.get(one.contestant, one.contestant),
            one.status,
            _number(one.error),
            one.reason,
        )
        for one in own.itertuples()
    )
    return Table("not_timed", "Not timed", "", _ABSENT, found, marks_best=False)


def notes(rows: pd.DataFrame) -> list[str]:
    """What the numbers depend on: how each contestant was called, the machine's own speed, and who was not steady."""
    lines = [
        f"{one.describe}"
        for one in rows[rows["section"] == "contestants"].drop_duplicates("contestant").itertuples()
        if isinstance(one.describe, str)
    ]
    products = rows[rows["contestant"] == MATMUL]
    if len(products):
        speeds = 1e-9 * products["useful_flop"] / products["seconds"]
        lines.append(
            f"The matrix product ran at {speeds.median():.3g} GFLOP/s, over all repeats {speeds.min():.3g} to "
            f"{speeds.max():.3g}: so much does the machine itself drift."
        )
    warmed = rows[rows["stable"].notna()].drop_duplicates(["section", "case", "contestant"])
    if n_restless := int(warmed["stable"].eq(False).sum()):
        lines.append(
            f"In {n_restless} of {len(warmed)} timings the last two warm-ups still differed by more than what counts as "
            "stable (column stable of rows.csv)."
        )
    return lines


def cases(rows: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """The timed rows of each section and case, in the order in which they were timed."""
    ok = rows[(rows["status"] == OK) & rows["repeat"].notna()]
    for (section, case), own in ok.groupby(["section", "case"], sort=False):
        yield (str(section), str(case)), own


def of(case: pd.DataFrame, name: str) -> pd.DataFrame:
    """A contestant's repeats in order."""
    return case[case["contestant"] == name].sort_values("repeat")


def ratio(case: pd.DataFrame, name: str, other: str) -> Estimate | None:
    """A contestant's time over another's, from repeats side by side; None where one of them was not timed."""
    mine, theirs = (of(case, one)["seconds"].tolist() for one in (name, other))
    return Estimate(*interleaved_ratio(mine, theirs)) if mine and theirs else None


def ratio_of_rates(case: pd.DataFrame, name: str, other: str) -> Estimate | None:
    """A contestant's useful operations per second over another's, from repeats side by side."""
    mine, theirs = of(case, name), of(case, other)
    if not len(mine) or not len(theirs) or mine["useful_flop"].isna().any():
        return None
    costs = [(one["seconds"] / one["useful_flop"].astype(float)).tolist() for one in (theirs, mine)]
    return Estimate(*interleaved_ratio(*costs))


def _rate(own: pd.DataFrame, key: str, unit: float = 1.0) -> Cell:
    return _number((unit * own[key].astype(float) / own["seconds"]).median())


def _per_text(own: pd.DataFrame) -> Cell:
    first = own.iloc[0]
    return _number(first["n_gradients"] / first["n_examples"])


def _estimate(values: pd.Series) -> Estimate:
    """The median, with the fastest and the slowest."""
    return Estimate(float(values.median()), float(values.min()), float(values.max()))


def _number(value: Any) -> float | None:
    return None if value is None or not np.isfinite(float(value)) else float(value)


def _caption(rows: pd.DataFrame) -> str:
    own = rows[(rows["section"] == "contestants") & rows["seconds"].notna()]
    if not len(own):
        return ""
    one: Any = own.iloc[0]
    return (
        f"Medians of {own['repeat'].nunique()} interleaved repeats; main case: {one.n_examples} texts of {one.n_tokens} "
        f"tokens, {one.n_steps} steps of {one.quadrature}, baseline {one.baseline}, {one.dtype}, {one.device}, "
        f"{one.threads} threads. From token ids to token scores on the host, choice of the class and convergence delta "
        "included; the bare loop keeps nothing. Shares and ratios: medians of repeats side by side, with intervals of "
        "at least 95 % from 6 repeats on, else the range. Padding counts as no work. Errors are those to ours, of "
        "precision to float64."
    )
