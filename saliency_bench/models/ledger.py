"""Counts of the work of a model: rows and seconds, by stage of a study.

All passes go through `Model.output`, also those that other libraries start, so that all work is counted.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from typing import NamedTuple

#: Stages of a study.
MAPS, CURVES, CONVERGENCE, TIMING = "maps", "metrics", "convergence check", "timing"
PARITY = "comparison with Captum"


class Work(NamedTuple):
    """An amount of work. Rows are (example, point) pairs; tokens are those of rows, padding included."""

    gradients: float = 0.0
    gradient_tokens: float = 0.0
    forward_rows: float = 0.0
    forward_tokens: float = 0.0
    seconds: float = 0.0

    def plus(self, other: "Work", times: float | int = 1) -> "Work":
        """This plus `times` times the other."""
        return Work(*(a + times * b for a, b in zip(self, other, strict=True)))


@dataclass
class Ledger:
    """Work by stage; the outermost open stage is charged. On a GPU a stage may be charged for waiting for another one."""

    work: dict[str, Work] = field(default_factory=dict)
    calls: int = 0
    clock: Callable[[], float] = time.perf_counter
    _stage: str = ""

    def note(self, n_rows: int, width: int, *, gradient: bool) -> None:
        """Counts one pass."""
        rows = (n_rows, n_rows * width)
        self._add(Work(*rows) if gradient else Work(0, 0, *rows))
        self.calls += 1

    def copy(self) -> "Ledger":
        """A copy of the present counts."""
        return Ledger(self.work.copy(), self.calls)

    def since(self, before: "Ledger") -> "Ledger":
        """The work since an earlier copy."""
        work = {
            stage: paid.plus(before.work.get(stage, Work()), -1.0)
            for stage, paid in self.work.items()
        }
        return Ledger(work, self.calls - before.calls)

    @property
    def total(self) -> Work:
        """The work of all stages."""
        return reduce(Work.plus, self.work.values(), Work())

    @contextmanager
    def under(self, stage: str) -> Iterator[None]:
        """Counts passes and seconds for this stage while open, unless another stage is open already."""
        if self._stage:
            yield
            return
        self._stage, start = stage, self.clock()
        try:
            yield
        finally:
            self._add(Work(seconds=self.clock() - start))
            self._stage = ""

    def _add(self, paid: Work) -> None:
        self.work[self._stage] = self.work.get(self._stage, Work()).plus(paid)
