"""How often intervals cover the true value, from the metrics' own distributions in results/.

`python docs/coverage.py` prints the table of docs/evaluation.md, and the coverage of the BCa bootstrap alone. The texts of
a run are taken as the population, so that the true mean (or median) is known. Samples of n texts are drawn with
replacement, and it is counted how often their interval contains the true value.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from saliency_bench.core.averages import middle_of
from saliency_bench.report.analysis import Analysis
from saliency_bench.report.stats import Resampling, middles
from saliency_bench.store.run import read_run

RESULTS = Path(__file__).resolve().parents[1] / "results"
RUNS = ("full_comparison/seed0", "method_comparison", "plausibility")
SIZES = (10, 30, 100)
N_TRIALS = 400
RESAMPLING = Resampling(0.95, 999, 0)
_SETTINGS = 3  # of each metric
_ENOUGH = 50  # texts, to stand for all


def populations() -> Iterator[tuple[str, str, np.ndarray]]:
    """Metric, "mean" or "difference" of two settings, and its values on all texts."""
    seen: set[str] = set()
    for run in RUNS:
        analysis = Analysis(read_run(RESULTS / run))
        # Those of a further way to remove tokens have names of their own.
        rows = analysis.rows[analysis.rows["metric"].isin(analysis.table("rows")["metric"])]
        for metric, own in rows[rows["status"] == "ok"].groupby("metric"):
            if metric in seen:
                continue
            seen.add(str(metric))
            table = own.pivot(index="example_id", columns="setting_id", values="value")
            first, *others = list(table.columns)[:_SETTINGS]
            columns = [("value", table[one]) for one in (first, *others)]
            columns += [("difference", table[one] - table[first]) for one in others]
            for kind, column in columns:
                values = column.dropna().to_numpy()
                if len(values) >= _ENOUGH and np.ptp(values) > 1e-9 * np.abs(values).max():
                    yield str(metric), kind, values


def coverage(values: np.ndarray, metric: str, n: int, n_trials: int = N_TRIALS) -> float:
    """The share of samples of n whose interval holds the true value."""
    samples = _samples(values, n, n_trials)
    true = np.median(values) if middle_of(metric) == "median" else values.mean()
    _, low, high = middles(samples, [metric] * samples.shape[1], RESAMPLING)
    slack = 1e-12 * np.abs(values).max()
    return float(np.mean((low - slack <= true) & (true <= high + slack)))


def _samples(values: np.ndarray, n: int, n_trials: int) -> np.ndarray:
    """Columns of n values, drawn anew for every metric; those of one value alone are left out."""
    stream = np.random.default_rng([n, zlib.crc32(values.tobytes())])
    samples = stream.choice(values, size=(n, n_trials))
    return np.asarray(samples[:, np.ptp(samples, axis=0) > 0])


def bca_alone(n: int, n_trials: int = 100) -> float:
    """What scipy's BCa intervals cover on average, of all metrics that are summed up by means."""
    covered = []
    for metric, _, values in populations():
        if middle_of(metric) == "mean":
            samples = _samples(values, n, n_trials)
            own = stats.bootstrap(
                (samples,), np.mean, n_resamples=999, rng=np.random.default_rng(0)
            )
            ends = own.confidence_interval
            covered.append(np.mean((ends.low <= values.mean()) & (values.mean() <= ends.high)))
    return float(np.mean(covered))


def table(n_trials: int = N_TRIALS) -> pd.DataFrame:
    """Coverage by metric and kind (rows) and n (columns), the mean over settings."""
    lines = [
        (metric, kind, n, coverage(values, metric, n, n_trials))
        for metric, kind, values in populations()
        for n in SIZES
    ]
    found = pd.DataFrame(lines, columns=["metric", "kind", "n", "covered"])
    return found.pivot_table(index=["metric", "kind"], columns="n", values="covered")


if __name__ == "__main__":
    made = table()
    print("| Metric | " + " | ".join(f"n = {n}" for n in SIZES) + " |")
    print("|---|" + "---:|" * len(SIZES))
    values, apart = (made.xs(kind, level="kind") for kind in ("value", "difference"))
    for metric in values.index:
        cells = []
        for n in SIZES:
            other = f", {apart.loc[metric, n]:.2f}" if metric in apart.index else ""
            cells.append(f"{values.loc[metric, n]:.2f}{other}")
        name = f"`{metric}`" + (" (median)" if middle_of(metric) == "median" else "")
        print(f"| {name} | " + " | ".join(cells) + " |")
    print("on average:", made.mean().round(3).to_dict())
    print("BCa alone:", {n: round(bca_alone(n), 3) for n in SIZES})
