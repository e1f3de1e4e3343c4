"""Times side by side: rounds that take every contestant once, and the medians of their ratios with intervals."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import binom

from benchmarks.record import ONE_THREAD, Record


def process_seconds(run: Callable[[], object]) -> float:
    """The processor time of a call. Other processes do not count; they still slow memory and caches down."""
    started = time.process_time()
    run()
    return time.process_time() - started


def ratios(timers: Mapping[str, Callable[[], float]], n_rounds: int) -> pd.DataFrame:
    """The seconds of each contestant over those of the first in the same round: a row for each round.

    Each round begins with another contestant than the round before.
    """
    names, rounds = [*timers], []
    for number in range(n_rounds):
        first = number % len(names)
        rounds.append({name: timers[name]() for name in names[first:] + names[:first]})
    seconds = pd.DataFrame(rounds)[names]
    return seconds.div(seconds[names[0]], axis=0)


def summary(table: pd.DataFrame, name: str = "contestant") -> pd.DataFrame:
    """Of each column the median ratio with an interval of at least 95 %, and the number of rounds.

    The k-th smallest and the k-th largest of n ratios enclose the median of their distribution with probability
    1 - 2 P(B < k), B ~ Binomial(n, 1/2). k is the largest for which that is 0.95 or more.
    """
    n = len(table)
    k = int(binom.ppf(0.025, n, 0.5))
    ordered = table.apply(lambda column: column.sort_values(ignore_index=True))
    columns = {"median": table.median(), "low": ordered.iloc[k - 1], "high": ordered.iloc[n - k]}
    return pd.DataFrame(columns).assign(n=n).rename_axis(name).reset_index()


class Costs:
    """The folder of a benchmark (the first word of the command line, or results/NAME): cost.csv, rounds.csv, a manifest.

    Args:
        contestant: the column of cost.csv that names the contestants.
    """

    def __init__(self, name: str, contestant: str = "contestant") -> None:
        self.name, self.contestant = name, contestant
        self.folder = Path(sys.argv[1] if len(sys.argv) > 1 else f"results/{name}")
        self.record = Record("-m", f"benchmarks.{name}")
        self.rounds: list[pd.DataFrame] = []
        self.medians: list[pd.DataFrame] = []
        self.keys: Sequence[str] = []

    def add(self, table: pd.DataFrame, **where: Any) -> None:
        """Adds and prints the ratios of one case, which `where` describes."""
        table, self.keys = table.round(3), [*where]
        self.rounds.append(table.assign(**where, round=range(len(table))))
        self.medians.append(summary(table, self.contestant).assign(**where))
        print(self.medians[-1].to_string(), flush=True)

    def write(self, about: Mapping[str, Any], **computation: Any) -> None:
        """Writes the files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tables = {"rounds.csv": (self.rounds, "round"), "cost.csv": (self.medians, self.contestant)}
        for name, (parts, last) in tables.items():
            pd.concat(parts).set_index([*self.keys, last]).to_csv(self.folder / name)
        self.record.write(self.folder, {"name": self.name, **about}, **ONE_THREAD, **computation)
