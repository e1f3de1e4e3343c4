"""The table of each setting's time, throughput and memory, from the repeats of the timed part of a run."""

from typing import Any

import numpy as np
import pandas as pd

from saliency_bench.core.errors import counted
from saliency_bench.report.analysis import Analysis
from saliency_bench.report.parity import twin_of
from saliency_bench.report.table import Cell, Column, Estimate, Field, Table, filled


def timing(analysis: Analysis) -> Table:
    """Returns the table of medians over interleaved repeats, with the fastest and the slowest."""
    timings = analysis.run.tables["timings"].sort_values("repeat")
    repeats = dict(list(timings.groupby("setting_id", observed=True)))
    keys = [
        setting["setting_id"] for setting in analysis.settings if setting["setting_id"] in repeats
    ]

    def time_of_one(key: str) -> Estimate:
        milliseconds = 1e3 * repeats[key]["seconds"] / repeats[key]["n_examples"]
        return Estimate(milliseconds.median(), milliseconds.min(), milliseconds.max())

    def per_second(key: str, column: str) -> Cell:
        counts = repeats[key][column]
        return float((counts / repeats[key]["seconds"]).median()) if counts.any() else None

    def peak(key: str) -> Cell:
        size = repeats[key]["peak_bytes"].max()
        return None if pd.isna(size) else float(size) / 2**20

    def times_captum(key: str) -> Cell:
        """Returns the ratio of repeats that ran side by side; None without a twin."""
        seconds, twin = repeats[key]["seconds"], repeats.get(twin_of(analysis.run.settings, key))
        if twin is None or len(twin) != len(seconds):
            return None
        ratios = twin["seconds"].to_numpy() / seconds.to_numpy()
        return Estimate(float(np.median(ratios)), float(ratios.min()), float(ratios.max()))

    fields: list[Field] = [
        (Column("method", "Method"), lambda key: analysis.labels[key]),
        (Column("milliseconds", "Time per example", "ms", higher_is_better=False), time_of_one),
        *(
            (
                Column(f"{count}_per_second", f"{count.capitalize()} per second"),
                lambda key, count=count: per_second(key, f"n_{count}"),
            )
            for count in ("examples", "tokens", "gradients")
        ),
        (Column("peak_mebibytes", "Peak memory", "MiB"), peak),
        (Column("times_captum", "Captum's time / ours"), times_captum),
    ]
    return filled("timing", "Time and memory", _caption(timings), fields, keys, False)


def _caption(timings: pd.DataFrame) -> str:
    if not len(timings):
        return ""
    first: Any = timings.iloc[0]
    n_repeats = timings["repeat"].nunique()
    return (
        f"Medians of {n_repeats} interleaved repeats over {counted(first['n_examples'], 'text')} of "
        f"{counted(first['n_tokens'], 'token')} on the {first['device']}, with the fastest and the slowest. Each setting is "
        "timed alone, from token ids to token scores, its clean pass included. Peak memory is what its largest "
        "pass needs beyond what was in use: it grows with the tokens of a pass, up to the token budget. Many steps "
        "or samples fill a pass that one gradient leaves nearly empty, and more of them need more passes, not more memory."
    )
