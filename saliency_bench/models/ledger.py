"""What a model was asked: every row that went through it, under the part of the work that asked for it.

All passes go through `Model.output`, also those that other libraries ask for, so that nothing can be spent unseen.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

#: Stages of a study.
MAPS, CURVES, CONVERGENCE, TIMING, PARITY = (
    "maps",
    "metrics",
    "convergence check",
    "timing",
    "comparison with Captum",
)
#: Parts that many stages have.
TEXTS = "texts and baselines"
#: Parts that are paid for once per study, and once per length of a text, whatever the number of texts.
DENSITY = "density of nodes"
SEARCH, PROOF = PER_LENGTH = ("max_entropy search", "proof that tokens may be dropped")


class Place(NamedTuple):
    """Who asks: a stage of a study, and within it one part."""

    stage: str
    part: str


NOWHERE = Place("", "")


class Asked(NamedTuple):
    """One kind of row: who asked, whether for its gradient, by the shortened last layer, and how many tokens."""

    place: Place
    gradient: bool
    short: bool
    width: int


@dataclass
class Ledger:
    """Rows by kind, and seconds by place.

    The outermost stage and the innermost part hold. Seconds are those of a place alone, without those of the places
    inside it; on a GPU, which works behind the program's back, a place may be charged for another's wait.
    """

    rows: Counter[Asked] = field(default_factory=Counter)
    seconds: dict[Place, float] = field(default_factory=dict)
    calls: int = 0
    clock: Callable[[], float] = time.perf_counter
    _place: Place = NOWHERE
    _since: float | None = None

    def note(self, n_rows: int, width: int, *, gradient: bool, short: bool) -> None:
        """Takes down one pass."""
        self.rows[Asked(self._place, gradient, short, width)] += n_rows
        self.calls += 1

    def copy(self) -> "Ledger":
        """As it is now."""
        return Ledger(self.rows.copy(), self.seconds.copy(), self.calls)

    def since(self, before: "Ledger") -> "Ledger":
        """What has come since an earlier copy."""
        rows = self.rows - before.rows
        seconds = {
            place: took - before.seconds.get(place, 0.0) for place, took in self.seconds.items()
        }
        return Ledger(rows, seconds, self.calls - before.calls)

    @contextmanager
    def under(self, stage: str | None = None, part: str | None = None) -> Iterator[None]:
        """While open, passes and seconds are those of the stage, unless another is open, and of the part.

        The parts of what is done once for many texts are no others' parts.
        """
        outer = self._place
        inner = outer.part if part is None or outer.part in (DENSITY, *PER_LENGTH) else part
        self._turn(Place(outer.stage or stage or "", inner))
        try:
            yield
        finally:
            self._turn(outer)

    def _turn(self, place: Place) -> None:
        now = self.clock()
        if self._since is not None:
            self.seconds[self._place] = self.seconds.get(self._place, 0.0) + now - self._since
        self._place = place
        self._since = None if place == NOWHERE else now
