"""How far a study is: a bar with the time left on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 30.0

#: `(stage, done, total)`, called before each step and once more when the stage is done.
Show = Callable[[str, int, int], None]


@contextmanager
def progress() -> Iterator[Show]:
    """What a runner calls to say how far it is; everything goes to standard error."""
    if sys.stderr.isatty():
        with _bars() as show:
            yield show
    else:
        yield Lines()


@contextmanager
def _bars() -> Iterator[Show]:
    from rich import progress as rich
    from rich.console import Console

    columns = [rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn()]
    with rich.Progress(
        *columns, rich.TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as bars:
        tasks: dict[str, rich.TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show


class Lines:
    """Plain lines: where a stage begins and ends, and every 30 seconds in between."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.stage = ""
        self.spoken = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Says how far the stage is, if it is time."""
        now = self.clock()
        if stage == self.stage and done < total and now - self.spoken < SECONDS_BETWEEN_LINES:
            return
        self.stage, self.spoken = stage, now
        print(f"{stage}: {done} of {total}", file=sys.stderr, flush=True)
