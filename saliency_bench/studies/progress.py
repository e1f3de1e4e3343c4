"""Progress of a command or a study: a bar with the time left on a terminal, a line now and then elsewhere."""

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Task
    from rich.text import Text

    from saliency_bench.studies.run import Progress as Show

SECONDS_BETWEEN_LINES = 30.0
#: The first time left that is known is said after so many seconds.
SECONDS_BEFORE_A_GUESS = 3.0
#: Stages that end sooner have no line.
SECONDS_OF_SILENCE = 0.5
#: Shown at once, since no other thread may run while libraries are imported.
IMPORTING = "importing PyTorch and transformers"

#: The end of a line with the time left of a study, which is that until its numbers are there.
THEN = ", then the report"


def is_watched() -> bool:
    """Whether somebody reads standard error: on a terminal, or in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


@contextmanager
def progress(then: str = THEN) -> "Iterator[Show]":
    """Gives a function that a runner calls before each step and once more at a stage's end (`studies.run.Progress`).

    Everything goes to standard error. `then` says what comes after the time left of a study.
    """
    if sys.stderr.isatty():
        with bars(then=then) as show:
            yield show
        return
    lines = Lines(then=then)
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
def bars(console: "Console | None" = None, then: str = THEN) -> "Iterator[Show]":
    """Gives a function that shows progress as bars on a terminal; None: that of standard error."""
    from rich import progress as rich
    from rich.console import Console
    from rich.text import Text

    class Left(rich.TimeRemainingColumn):
        """The time left of the study if it is known, and else that of the stage."""

        def render(self, task: "Task") -> "Text":
            left, at = task.fields.get("left"), task.fields.get("at", 0.0)
            if left is None or task.finished:
                return super().render(task)
            return Text(
                _about(max(left + at - time.monotonic(), 0.0)) + then, style="progress.remaining"
            )

    columns = [rich.TextColumn("{task.description}"), rich.BarColumn(20), rich.MofNCompleteColumn()]
    with rich.Progress(
        *columns, Left(), console=console or Console(stderr=True), transient=True
    ) as shown:
        tasks: dict[str, rich.TaskID] = {}
        uncounted: list[str] = []

        def show(stage: str, done: int, total: int, left: float | None = None) -> None:
            while (
                uncounted and uncounted[-1] != stage
            ):  # a stage that is not counted ends with the next
                shown.remove_task(tasks.pop(uncounted.pop()))
            if stage not in tasks:
                tasks[stage] = shown.add_task(stage, total=total or None)
                uncounted.extend([] if total else [stage])
            if total:
                at = time.monotonic()
                shown.update(tasks[stage], completed=done, total=total, left=left, at=at)

        yield show


class Lines:
    """Prints plain lines when a stage begins and ends, and every 30 seconds in between, with the time left as soon as it is known.

    A stage that is not counted has one, if it takes more than a moment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, then: str = THEN) -> None:
        self.clock, self.then = clock, then
        self.stage = ""
        self.spoken = 0.0
        self.began = (0.0, 0)  # the time of the stage's first report, and what was done by then
        self.guessed = False
        self.waiting: threading.Timer | None = None

    def __call__(self, stage: str, done: int, total: int, left: float | None = None) -> None:
        """Prints the progress of a stage, if it is time for a line."""
        if not total:
            self._uncounted(stage)
            return
        self.close()
        now = self.clock()
        if stage != self.stage:
            self.began, self.guessed = (now, done), False
        elif done < total and not self._is_time(now, left):
            return
        self.stage, self.spoken, self.guessed = stage, now, self.guessed or left is not None
        _say(f"{stage}: {done} of {total}{self._left(now, done, total, left)}")

    def _is_time(self, now: float, left: float | None) -> bool:
        first = left is not None and not self.guessed
        return now - self.spoken >= (SECONDS_BEFORE_A_GUESS if first else SECONDS_BETWEEN_LINES)

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

    def _left(self, now: float, done: int, total: int, left: float | None) -> str:
        """The time until the numbers of the study are there, or else that of the stage at its pace so far; "" if unknown."""
        start, before = self.began
        if done < total and left is not None:
            return f", {_about(left)}{self.then}"
        if done <= before or done >= total:
            return ""
        return f", {_about((now - start) / (done - before) * (total - done))}"


def _about(seconds: float) -> str:
    from saliency_bench.studies.forecast import duration

    return f"about {duration(seconds)} left"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
