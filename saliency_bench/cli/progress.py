"""Progress of a command: a bar with the time left on a terminal, a line now and then elsewhere."""

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 30.0
#: Stages that end sooner have no line.
SECONDS_OF_SILENCE = 0.5
#: Shown at once, since no other thread may run while libraries are imported.
IMPORTING = "importing PyTorch and transformers"

#: `(stage, done, total)`, called before each step and once more when the stage is done; a total of 0 is not counted.
Show = Callable[[str, int, int], None]


@contextmanager
def progress() -> Iterator[Show]:
    """Gives a function that a runner calls to report progress; everything goes to standard error."""
    if sys.stderr.isatty():
        with _bars() as show:
            yield show
        return
    lines = Lines()
    try:
        yield lines
    finally:
        lines.close()


@contextmanager
def importing() -> Iterator[None]:
    """Shows a message while large libraries are imported, unless they have been imported already."""
    with uncollected(), progress() as show:
        if "torch" not in sys.modules:
            show(IMPORTING, 0, 0)
        yield


@contextmanager
def uncollected() -> Iterator[None]:
    """Turns the garbage collector off while open: it takes a fifth of the time of imports and finds little."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def _bars() -> Iterator[Show]:
    from rich import progress as rich
    from rich.console import Console

    columns = [rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn()]
    with rich.Progress(
        *columns, rich.TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as bars:
        tasks: dict[str, rich.TaskID] = {}
        uncounted: list[str] = []

        def show(stage: str, done: int, total: int) -> None:
            while (
                uncounted and uncounted[-1] != stage
            ):  # a stage that is not counted ends with the next
                bars.remove_task(tasks.pop(uncounted.pop()))
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total or None)
                uncounted.extend([] if total else [stage])
            if total:
                bars.update(tasks[stage], completed=done, total=total)

        yield show


class Lines:
    """Prints plain lines when a stage begins and ends, and every 30 seconds in between, with the time left.

    A stage that is not counted has one, if it takes more than a moment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.stage = ""
        self.spoken = 0.0
        self.began = (0.0, 0)  # the time of the stage's first report, and what was done by then
        self.waiting: threading.Timer | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Prints the progress of a stage, if it is time for a line."""
        if not total:
            self._uncounted(stage)
            return
        self.close()
        now = self.clock()
        if stage == self.stage and done < total and now - self.spoken < SECONDS_BETWEEN_LINES:
            return
        if stage != self.stage:
            self.began = now, done
        self.stage, self.spoken = stage, now
        _say(f"{stage}: {done} of {total}{self._left(now, done, total)}")

    def close(self) -> None:
        """Drops a stage that has not been printed yet."""
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None

    def _uncounted(self, stage: str) -> None:
        if stage == self.stage:
            return
        self.close()
        self.stage = stage
        if stage == IMPORTING:
            _say(f"{stage} ...")
            return
        self.waiting = threading.Timer(SECONDS_OF_SILENCE, _say, [f"{stage} ..."])
        self.waiting.daemon = True
        self.waiting.start()

    def _left(self, now: float, done: int, total: int) -> str:
        """The time that the rest takes at the pace so far; nothing where there is none or no pace."""
        from saliency_bench.studies.forecast import duration

        start, before = self.began
        if done <= before or done >= total:
            return ""
        return f", about {duration((now - start) / (done - before) * (total - done))} left"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
