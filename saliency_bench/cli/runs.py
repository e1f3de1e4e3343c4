"""Runs of studies: a new one, one that was stopped (`resume`), one that workers computed (`merge`), a forecast."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from saliency_bench.cli import config, forecast_table, results, worker
from saliency_bench.core.program import as_typed
from saliency_bench.store.run import MANIFEST
from saliency_bench.studies import executors, prepare
from saliency_bench.studies import run as runner
from saliency_bench.studies.forecast import foresee
from saliency_bench.studies.progress import progress

Executing = Callable[[config.Config], runner.Execute | None]


def start(cfg: config.Config, command: Sequence[str]) -> None:
    """Validates a configuration, runs its study and makes the report."""
    config.validate(cfg)
    _run(cfg, command, executors.executor(cfg.runtime.executor, worker.crew_of(cfg)))


def _run(cfg: config.Config, command: Sequence[str], execute: runner.Execute | None) -> None:
    with progress() as show:
        folder = runner.run(cfg, config.settings(cfg), command, show, _announce, execute)
    results.report_run(folder)


def _announce(text: str) -> None:
    print(as_typed(text), file=sys.stderr, flush=True)


def estimate(cfg: config.Config) -> None:
    """Prints what a study would cost."""
    config.validate(cfg)
    with progress() as show:
        study = prepare.prepare(cfg, config.settings(cfg), lambda stage: show(stage, 0, 0))
        show("estimating", 0, 0)
        forecast = foresee(study)
    forecast_table.show(forecast)


def resume(words: list[str]) -> None:
    """Goes on with a run that was stopped; what its folder says is read as data."""
    keys = (worker.ADDRESS, worker.WORKERS)
    typed = {key: word.removeprefix(key) for word in words for key in keys if word.startswith(key)}
    rest = [word for word in words if not word.startswith(keys)]

    def execute(cfg: config.Config) -> runner.Execute | None:
        options = worker.typed_address(
            cfg.runtime.executor, typed.get(worker.ADDRESS), Path(str(cfg.out))
        )
        options = worker.typed_workers(options, typed.get(worker.WORKERS))
        return executors.executor(options, worker.crew_of(cfg))

    _go_on("resume", rest, execute)


def merge(words: list[str]) -> None:
    """Merges the blocks that workers have finished, once none is missing."""
    _go_on("merge", words, lambda cfg: executors.refuse_to_compute)


def _go_on(verb: str, words: list[str], execute: Executing) -> None:
    """Goes on with a run; of a finished one only the report is made again."""
    folder = results.one_folder(verb, words)
    if (folder / MANIFEST).is_file():
        results.report_run(folder)
        return
    cfg = worker.read_config(folder)
    _run(cfg, ["saliency-bench", verb, str(folder)], execute(cfg))
