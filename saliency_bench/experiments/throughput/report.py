"""The throughput benchmark's rows as tables: rates, ratios of repeats that ran side by side, and contestants that were not timed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from saliency_bench.core.errors import counted
from saliency_bench.core.rows import MATMUL, OK, THROUGHPUT
from saliency_bench.experiments.means import records
from saliency_bench.report.formats import to_csv
from saliency_bench.report.table import Cell, Column, Estimate, Table
from saliency_bench.studies.timing import interleaved_ratio

#: Labels of contestants; others go by their names.
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

CellOf = Callable[[pd.DataFrame, str], Cell]


def frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a table with every column."""
    return pd.DataFrame(list(rows), columns=list(THROUGHPUT))


def to_file(rows: pd.DataFrame) -> str:
    """All rows as CSV."""
    lines = rows.astype(object).where(rows.notna(), None).to_dict("records")
    return to_csv(records("rows", "", lines))


def tables(rows: pd.DataFrame) -> list[Table]:
    """Every table that the rows have something for."""
    made = [
        _rates(rows),
        _table(
            rows[rows["section"] == "sweep"],
            "sweep",
            "Sweeps",
            "Ours and Captum's samples are equal; of steps, ours has a rule that nests, with one gradient more per "
            "setting. Ratios are medians of repeats side by side, with intervals.",
            {
                Column("case", "Sweep"): _case,
                Column("contestant", "Contestant"): _label,
                Column("seconds", "Time", "s"): _seconds,
                Column("gradients_per_text", "Gradients per text"): _gradients_per_text,
                Column("times_largest", "Time / largest alone"): _ratio_to("ours_largest"),
                Column("times_ours", "Time / ours, all at once"): _ratio_to("ours_sweep"),
            },
        ),
        memory(rows),
        _table(
            rows[rows["section"] == "accuracy"],
            "accuracy",
            "Integrated Gradients to a small error",
            "Errors: largest difference of a token's score to a dense rule's, over the text's largest score. The density "
            "of calibrated and adaptive nodes is learnt once per model and baseline, on other texts, and is not timed.",
            {
                Column("contestant", "Contestant"): _label,
                Column("gradients_per_text", "Gradients per text"): _gradients_per_text,
                Column("milliseconds", "Time per text", "ms"): _milliseconds,
                Column("error_median", "Error of the middle text"): _first("error_median"),
                Column("error", "Error of the worst text"): _first("error"),
                Column("times_captum", "Captum's time / its"): _ratio_of("captum_default"),
            },
        ),
        _table(
            rows[rows["section"] == "evaluation"],
            "evaluation",
            "Evaluation",
            "Metrics of ready explanations. Shared: each question to the model once for all metrics and methods, and "
            "left-out tokens not computed where that is exact. Ratios are medians of repeats side by side, with "
            "intervals.",
            {
                Column("case", "Case"): _case,
                Column("contestant", "Contestant"): _label,
                Column("milliseconds", "Time per text", "ms"): _milliseconds,
                Column("times_shared", "Time / from shared curves"): _ratio_to("evaluation_shared"),
                Column("error", "Largest difference"): _first("error"),
            },
        ),
        not_timed(rows),
    ]
    return [table for table in made if table.rows]


def _table(
    rows: pd.DataFrame, name: str, title: str, caption: str, columns: Mapping[Column, CellOf]
) -> Table:
    """A line for each contestant in each case; a cell is made from the rows of the case."""
    cells = tuple(
        tuple(cell(case, contestant) for cell in columns.values())
        for _, case in cases(rows)
        for contestant in case["contestant"].unique()
        if contestant != MATMUL
    )
    return Table(name, title, caption, tuple(columns), cells, marks_best=False)


def _rates(rows: pd.DataFrame) -> Table:
    """Throughput of all contestants in every case where all do the same work."""
    return _table(
        rows[~rows["section"].isin(_SPECIAL)],
        "throughput",
        "Throughput",
        _caption(rows),
        {
            Column("section", "Section"): _section,
            Column("case", "Case"): _case,
            Column("contestant", "Contestant"): _label,
            Column("examples_per_second", "Examples/s"): _rate("n_examples"),
            Column("tokens_per_second", "Tokens/s"): _rate("n_tokens"),
            Column("gradients_per_second", "Gradients/s"): _rate("n_gradients"),
            Column("useful_gflop_per_second", "Useful GFLOP/s"): _rate("useful_flop", 1e-9),
            Column("share_of_matmul", "Share of matrix product"): _share_of_matmul,
            Column("share_of_bare_loop", "Share of bare loop"): _ratio_of("bare_loop"),
            Column("times_ours", "Time / ours"): _ratio_to("ours"),
            Column("padding", "Padded / real tokens"): _padding,
            Column("peak_mebibytes", "Peak memory", "MiB"): _peak,
            Column("error", "Largest error"): _first("error"),
            Column("first_seconds", "First run", "s"): _first("first_seconds"),
        },
    )


# --- cells, from the rows of a case and the name of a contestant


def _case(case: pd.DataFrame, name: str) -> Cell:
    return str(case["case"].iloc[0])


def _section(case: pd.DataFrame, name: str) -> Cell:
    return str(case["section"].iloc[0])


def _label(case: pd.DataFrame, name: str) -> Cell:
    return LABELS.get(name, name)


def _first(key: str) -> CellOf:
    return lambda case, name: _number(of(case, name)[key].iloc[0])


def _ratio_to(other: str) -> CellOf:
    return lambda case, name: ratio(case, name, other)


def _ratio_of(other: str) -> CellOf:
    return lambda case, name: ratio(case, other, name)


def _rate(key: str, unit: float = 1.0) -> CellOf:
    def rate(case: pd.DataFrame, name: str) -> Cell:
        repeats = of(case, name)
        return _number((unit * repeats[key].astype(float) / repeats["seconds"]).median())

    return rate


def _gradients_per_text(case: pd.DataFrame, name: str) -> Cell:
    first = of(case, name).iloc[0]
    return _number(first["n_gradients"] / first["n_examples"])


def _seconds(case: pd.DataFrame, name: str) -> Cell:
    return _spread(of(case, name)["seconds"])


def _share_of_matmul(case: pd.DataFrame, name: str) -> Cell:
    return ratio_of_rates(case, name, MATMUL)


def _milliseconds(case: pd.DataFrame, name: str) -> Cell:
    repeats = of(case, name)
    return _spread(1e3 * repeats["seconds"] / repeats["n_examples"])


def _padding(case: pd.DataFrame, name: str) -> Cell:
    first = of(case, name).iloc[0]
    return _number(first["padded_tokens"] / first["n_tokens"])


def _peak(case: pd.DataFrame, name: str) -> Cell:
    return _number(of(case, name)["peak_bytes"].max() / 2**20)


# --- other tables


def memory(rows: pd.DataFrame) -> Table:
    """Peak memory by steps, and the ratio of most to fewest."""
    measured = rows[(rows["section"] == "memory") & (rows["status"] == OK)]
    counts = sorted(measured["n_steps"].unique())
    peaks = measured.pivot_table(
        index="contestant", columns="n_steps", values="peak_bytes", sort=False
    )
    columns = [Column(f"peak_{n}", f"{n} steps", "MiB") for n in counts]
    lines = tuple(
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
    return Table("memory", "Peak memory", caption, heads, lines, marks_best=False)


def not_timed(rows: pd.DataFrame) -> Table:
    """Contestants that were not timed, with the reason."""
    refused = rows[rows["status"] != OK]
    lines = [
        {
            "section": row.section,
            "case": row.case,
            "contestant": LABELS.get(row.contestant, row.contestant),
            "status": row.status,
            "error": _number(row.error),
            "reason": row.reason,
        }
        for row in refused.itertuples()
    ]
    return records("not_timed", "Not timed", lines)


def notes(rows: pd.DataFrame) -> list[str]:
    """Notes on the way each contestant was called, on the machine's own speed, and on timings that were not steady."""
    lines = [
        f"{row.describe}"
        for row in rows[rows["section"] == "contestants"].drop_duplicates("contestant").itertuples()
        if isinstance(row.describe, str)
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
    for (section, case), timed in ok.groupby(["section", "case"], sort=False):
        yield (str(section), str(case)), timed


def of(case: pd.DataFrame, name: str) -> pd.DataFrame:
    """A contestant's repeats in order."""
    return case[case["contestant"] == name].sort_values("repeat")


def ratio(case: pd.DataFrame, name: str, other: str) -> Estimate | None:
    """A contestant's time over another's, from repeats side by side; None where one of them was not timed."""
    ours, theirs = (of(case, contestant)["seconds"].tolist() for contestant in (name, other))
    return Estimate(*interleaved_ratio(ours, theirs)) if ours and theirs else None


def ratio_of_rates(case: pd.DataFrame, name: str, other: str) -> Estimate | None:
    """A contestant's useful operations per second over another's, from repeats side by side."""
    ours, theirs = of(case, name), of(case, other)
    if not len(ours) or not len(theirs) or ours["useful_flop"].isna().any():
        return None
    costs = [
        (rows["seconds"] / rows["useful_flop"].astype(float)).tolist() for rows in (theirs, ours)
    ]
    return Estimate(*interleaved_ratio(*costs))


def _spread(values: pd.Series) -> Estimate:
    """The median, with the fastest and the slowest."""
    return Estimate(float(values.median()), float(values.min()), float(values.max()))


def _number(value: Any) -> float | None:
    return None if value is None or not np.isfinite(float(value)) else float(value)


def _caption(rows: pd.DataFrame) -> str:
    main = rows[(rows["section"] == "contestants") & rows["seconds"].notna()]
    if not len(main):
        return ""
    row: Any = main.iloc[0]
    return (
        f"Medians of {main['repeat'].nunique()} interleaved repeats; main case: {counted(row.n_examples, 'text')} of {row.n_tokens} "
        f"tokens, {counted(row.n_steps, 'step')} of {row.quadrature}, baseline {row.baseline}, {row.dtype}, {row.device}, "
        f"{counted(row.threads, 'thread')}. From token ids to token scores on the host, choice of the class and convergence delta "
        "included; the bare loop keeps nothing. Shares and ratios: medians of repeats side by side, with intervals of "
        "at least 95 % from 6 repeats on, else the range. Padding counts as no work. Errors are those to ours, of "
        "precision to float64."
    )
