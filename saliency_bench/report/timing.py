"""What each setting costs: time, throughput and memory, from the repeats of the timed part of a run."""

from typing import Any

import numpy as np
import pandas as pd

from saliency_bench.report.analysis import Analysis
from saliency_bench.report.parity import twin_of
from saliency_bench.report.table import Cell, Column, Estimate, Table

_COLUMNS = (
    Column("method", "Method"),
    Column("milliseconds", "Time per example", "ms", higher_is_better=False),
    Column("examples_per_second", "Examples per second"),
    Column("tokens_per_second", "Tokens per second"),
    Column("gradients_per_second", "Gradients per second"),
    Column("peak_mebibytes", "Peak memory", "MiB"),
    Column("times_captum", "Captum's time / ours"),
)


def timing(analysis: Analysis) -> Table:
    """Medians over interleaved repeats, with the fastest and the slowest."""
    timings = analysis.run.tables["timings"]
    rows = tuple(
        _row(analysis, one["setting_id"], timings)
        for one in analysis.settings
        if (timings["setting_id"] == one["setting_id"]).any()
    )
    return Table("timing", "Time and memory", _caption(timings), _COLUMNS, rows, marks_best=False)


def _row(analysis: Analysis, key: str, timings: pd.DataFrame) -> tuple[Cell, ...]:
    own = timings[timings["setting_id"] == key].sort_values("repeat")
    each = 1e3 * own["seconds"] / own["n_examples"]
    peak = own["peak_bytes"].max()
    return (
        analysis.labels[key],
        Estimate(each.median(), each.min(), each.max()),
        *(
            float((own[column] / own["seconds"]).median()) if own[column].any() else None
            for column in ("n_examples", "n_tokens", "n_gradients")
        ),
        None if pd.isna(peak) else float(peak) / 2**20,
        _against(own, timings, twin_of(analysis.run.settings, key)),
    )


def _against(own: pd.DataFrame, timings: pd.DataFrame, captum: str | None) -> Cell:
    """The ratios of repeats that ran side by side; nothing without a twin."""
    other = timings[timings["setting_id"] == captum].sort_values("repeat")
    if captum is None or len(other) != len(own):
        return None
    ratios = other["seconds"].to_numpy() / own["seconds"].to_numpy()
    return Estimate(float(np.median(ratios)), float(ratios.min()), float(ratios.max()))


def _caption(timings: pd.DataFrame) -> str:
    if not len(timings):
        return ""
    first: Any = timings.iloc[0]
    n_repeats = timings["repeat"].nunique()
    return (
        f"Medians of {n_repeats} interleaved repeats over {first['n_examples']} texts of "
        f"{first['n_tokens']} tokens on the {first['device']}, with the fastest and the slowest. Each setting is "
        "timed alone, from token ids to token scores, its clean pass included. Peak memory is what its pass "
        "needs beyond what was in use."
    )
