"""The time until the numbers of a study are there."""

import time
from collections.abc import Callable, Sequence

from saliency_bench.models.ledger import MAPS, Work
from saliency_bench.studies.prepare import Study


class TimeLeft:
    """Estimates the time that is left from the blocks of this process that are done.

    Blocks go on at their pace. Timing explains its texts again and again, each as long as a text of the blocks took to
    explain. Work that other processes do is not in the ledger: then only the pace of the blocks counts.
    """

    def __init__(
        self, study: Study, n_texts: Sequence[int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Starts the clock. `n_texts` are those of each block that is left, in their order."""
        self.n_texts, self.clock, self.ledger = n_texts, clock, study.model.ledger
        self.start, self.before = clock(), self.ledger.copy()
        timing = study.config.timing
        passes = timing.n_repeats + timing.n_warmup + 1  # one for the memory
        n_timed = min(timing.n_examples, len(study.encoded))
        self.n_again = passes * n_timed if timing.enabled else 0

    def after(self, n_blocks: int) -> float | None:
        """The seconds that are left after so many blocks; None before the first."""
        n_done = sum(self.n_texts[:n_blocks])
        if not n_done:
            return None
        pace = (self.clock() - self.start) / n_done
        maps = self.ledger.since(self.before).work.get(MAPS, Work()).seconds / n_done
        return pace * sum(self.n_texts[n_blocks:]) + maps * self.n_again
