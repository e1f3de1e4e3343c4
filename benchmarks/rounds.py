"""Times side by side: rounds that take every contestant once, and the medians of their ratios with intervals."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from benchmarks.record import ONE_THREAD, Record
from saliency_bench.core.averages import median_interval

T = TypeVar("T")


def process_seconds(run: Callable[[], object]) -> float:
    """The processor time of a call. Other processes do not count; they still slow memory and caches down."""
    started = time.process_time()
    run()
    return time.process_time() - started


def taken(calls: Mapping[str, Callable[[], T]], n_rounds: int) -> list[dict[str, T]]:
    """What the calls return in each round, which begins with another contestant than the round before."""
    names, rounds = [*calls], []
    for number in range(n_rounds):
        first = number % len(names)
        found = {name: calls[name]() for name in names[first:] + names[:first]}
        rounds.append({name: found[name] for name in names})
    return rounds


def over_first(rounds: Sequence[Mapping[str, float]]) -> pd.DataFrame:
    """What each contestant took over what the first took in the same round: a row for each round."""
    table = pd.DataFrame(rounds)
    return table.div(table.iloc[:, 0], axis=0)


def ratios(timers: Mapping[str, Callable[[], float]], n_rounds: int) -> pd.DataFrame:
    """The seconds of each contestant over those of the first in the same round: a row for each round."""
    return over_first(taken(timers, n_rounds))


def summary(table: pd.DataFrame, name: str = "contestant") -> pd.DataFrame:
    """Of each column the median ratio with an interval of at least 95 % (`median_interval`), and the number of rounds."""
    found = {column: median_interval(table[column].to_numpy(float), 0.95) for column in table}
    columns = pd.DataFrame.from_dict(found, orient="index", columns=["median", "low", "high"])
    return columns.assign(n=len(table)).rename_axis(name).reset_index()


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
