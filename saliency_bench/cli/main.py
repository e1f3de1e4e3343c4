"""The command line: a verb and its words. The module of a verb is imported when the verb is called."""

import os
import re
import select
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import TextIO

from saliency_bench.core.errors import (
    InputError,
    SaliencyBenchError,
    is_out_of_memory,
    one_of,
)
from saliency_bench.core.program import as_typed
from saliency_bench.core.version import __version__
from saliency_bench.studies.progress import importing

HELP = (Path(__file__).parent / "help.txt").read_text("utf-8")

#: The exit code of a process that SIGPIPE ended: nobody reads our output any more, as after `| head`.
UNREAD = 141

#: Keeps libraries quiet on a terminal that shows our progress.
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

#: The module of this package and the function of each verb, which takes the words after it.
VERBS = {
    "run": "compose.run",
    "estimate": "compose.estimate",
    "resume": "runs.resume",
    "merge": "runs.merge",
    "work": "work.work",
    "report": "results.report",
    "across": "results.across",
    "compare": "results.compare",
    "suite": "suite.suite",
    "submit": "suite.submit",
    "verify": "suite.verify",
    "leaderboard": "suite.leaderboard",
    "explain": "explain.explain",
    "list": "listing.list_parts",
    "models": "models.models",
    "info": "listing.info",
    "validate": "experiment.validate",
    "throughput": "experiment.throughput",
    "trust": "experiment.trust",
    "sanity": "experiment.sanity",
    "doctor": "doctor.doctor",
}
#: The module whose import loads PyTorch, which takes seconds.
WITH_TORCH = "runs"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the words after the program's name; those of this process where None.

    Returns:
        The exit code; an error has been printed as one message on standard error.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    try:
        with _sigterm_interrupts(), _plain_warnings():
            code = _dispatch(words)
            sys.stdout.flush()  # a reader that is gone shows here at the latest
            return code
    # Hydra and argparse end like this, and so does rich where the output is closed.
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):
            return UNREAD
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException as error:  # interrupts too
        return UNREAD if _nobody_reads(error) else fail(error)


def _dispatch(words: list[str]) -> int:
    if "-h" in words or "--help" in words:
        print(_help(words[0]), end="")
        return 0
    if words == ["--version"]:
        print(f"saliency-bench {__version__}")
        return 0
    verb, rest = "run", words
    if words and not words[0].startswith(("-", "~", "+")) and "=" not in words[0]:
        verb, rest = words[0], words[1:]
    if verb not in VERBS and rest and rest[0].startswith("="):
        raise InputError(
            f"{verb} {' '.join(rest[:2])}: expected no space around =, as n_examples=3"
        )
    if " " in verb:
        raise InputError(
            f"unknown command {verb!r}. To explain a text: saliency-bench explain {shlex.quote(verb)}"
        )
    one_of("command", verb, VERBS)
    return _verb(verb)(rest) or 0


def _help(word: str) -> str:
    """The lines of the help on this verb; all of it for other words, and for `run`, whose words stand everywhere."""
    if word not in VERBS or word == "run":
        return HELP
    usage, others = HELP.split("\n\nExamples:\n")
    uses = [use for use in re.split(r"\n(?=  saliency-bench )", usage) if _is_of(word, use)]
    examples = [line for line in others.splitlines() if _is_of(word, line)]
    shown = "\n".join(["Usage:", *uses, *(["", "Examples:", *examples] if examples else [])])
    return f"{shown}\n\nAll commands, overrides and options: saliency-bench --help\n"


def _is_of(verb: str, line: str) -> bool:
    return line.split()[:2] == ["saliency-bench", verb]


def _verb(verb: str) -> Callable[[list[str]], int | None]:
    """The function of a verb; it returns an exit code, or None for 0."""
    name, function = VERBS[verb].split(".")
    with importing() if name == WITH_TORCH else nullcontext():
        module = import_module(f"saliency_bench.cli.{name}")
    call: Callable[[list[str]], int | None] = getattr(module, function)
    return call


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Has SIGTERM, which schedulers send before they kill, end a command as an interrupt does."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt("terminated")

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can set signal handlers
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Prints a warning as a sentence, without the line of code that gave it."""
    before = warnings.formatwarning
    if os.environ.get("SALIENCY_BENCH_TRACEBACK") != "1":
        warnings.formatwarning = lambda message, *_, **__: f"Warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _nobody_reads(error: BaseException) -> bool:
    """Whether our own output is a broken pipe. What could not be written is dropped, so that the process ends quietly."""
    if not isinstance(error, BrokenPipeError):
        return False
    closed = [stream for stream in (sys.stdout, sys.stderr) if _is_closed(stream)]
    for stream in closed:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return bool(closed)


def _is_closed(stream: TextIO) -> bool:
    """Whether the other end of a pipe is gone."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
    except (OSError, ValueError):  # no file at all
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def fail(error: BaseException) -> int:
    """Prints what went wrong and returns the exit code."""
    if os.environ.get("SALIENCY_BENCH_TRACEBACK") == "1":
        traceback.print_exception(error)
    code, message = _outcome(error)
    # A message may quote text from elsewhere, whose control characters a terminal would obey.
    from saliency_bench.core.heatmap import visible

    text = as_typed("\n".join(map(visible, message.split("\n"))))
    print(f"saliency-bench: {text}", file=sys.stderr)
    return code


def _outcome(error: BaseException) -> tuple[int, str]:
    """The exit code and the message of an error."""
    if isinstance(error, SaliencyBenchError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, f"interrupted. {error}".rstrip()
    if is_out_of_memory(error):
        return 5, "out of memory. Lower runtime.token_budget, or use a smaller model."
    text = " ".join(str(error).split())
    return 1, f"unexpected {type(error).__name__}: {text} (SALIENCY_BENCH_TRACEBACK=1 shows where)"
