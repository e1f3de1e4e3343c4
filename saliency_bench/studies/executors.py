"""Executors compute the blocks of a study by processes of this machine, Ray, or Slurm; conf/runtime/.

All that moves are names: a worker reads what the run folder says of the study, loads model and data once, and commits
blocks to that folder, which every worker must see. Nothing that was computed passes through the process that waits.
"""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saliency_bench.core.errors import (
    InputError,
    SaliencyBenchError,
    StorageError,
    ValidationError,
    counted,
    is_out_of_memory,
    one_line,
    unknown,
)
from saliency_bench.store import parts
from saliency_bench.store.run import write_json
from saliency_bench.studies.driver import DRIVER
from saliency_bench.studies.run import Execute

HERE, PROCESSES, RAY, SLURM = "here", "processes", "ray", "slurm"
#: The file of blocks that are left, of which each worker takes every n-th.
PIECES = Path("parts") / parts.PIECES
LOGS = "workers"  # the folder of the workers' output
#: The number of times that killed workers are started; a worker that failed with an error is not started again.
ROUNDS = 3
_SECONDS_BETWEEN_LOOKS = 0.2
#: On a file system that many machines share, each look is a question to its server.
_SECONDS_BETWEEN_SHARED_LOOKS = 2.0
#: The errors that the exit codes of workers (`errors`) stand for, with their names in messages.
_KINDS: Mapping[int, tuple[type[Exception], str]] = {
    InputError.exit_code: (InputError, "input"),
    ValidationError.exit_code: (ValidationError, "a check of the numbers"),
    StorageError.exit_code: (StorageError, "storage"),
    5: (MemoryError, "out of memory"),
}
_INTERRUPTED = 130  # the exit code of a worker that a signal has stopped

#: Workers import nothing from the folder that they are started in (-P): it holds data, and may be somebody else's.
PYTHON = (sys.executable, "-P")
RAY_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
LOOPBACK = "127.0.0.1"

Tell = Callable[[int], None]


@dataclass(frozen=True)
class Crew:
    """The workers: `worker(folder).do(block)`, as a class for Ray's actors, and the threads that each of them uses."""

    worker: Callable[[str], Any]
    threads: int


def executor(options: Mapping[str, Any], crew: Crew) -> Execute | None:
    """The executor that `runtime.executor` names; None: blocks are computed in this process."""
    name = options["name"]
    if name == HERE:
        return None
    if name not in EXECUTORS:
        raise unknown("runtime.executor.name", name, [HERE, *EXECUTORS])

    def execute(folder: Path, pieces: Sequence[str], tell: Tell) -> None:
        EXECUTORS[name](folder.resolve(), pieces, options, tell, crew)
        if left := blocks_left(folder, pieces):
            raise SaliencyBenchError(_unfinished(folder, pieces, left, ""))

    return execute


def refuse_to_compute(folder: Path, pieces: Sequence[str], tell: Tell) -> None:
    """The executor of `merge`: it refuses to compute blocks that are missing."""
    raise StorageError(
        f"{folder} lacks {counted(len(pieces), 'block')} ({', '.join(pieces[:3])}{', ...' if len(pieces) > 3 else ''}). "
        f"Go on with: saliency-bench resume {folder}"
    )


def on_processes(
    folder: Path, pieces: Sequence[str], options: Mapping[str, Any], tell: Tell, crew: Crew
) -> None:
    """Computes blocks by worker processes of this machine; new ones take over from those that were killed."""
    for _ in range(ROUNDS):
        left = blocks_left(folder, pieces)
        write_json(folder / PIECES, left)
        n = min(options["workers"], len(left))
        running = [_start(folder, shard, n) for shard in range(n)]
        try:
            # A worker that only repeats blocks which others have finished meanwhile is not waited for.
            while blocks_left(folder, left) and any(worker.poll() is None for worker in running):
                tell(len(pieces) - len(blocks_left(folder, pieces)))
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        finally:
            _stop(running)
        left = blocks_left(folder, pieces)
        if not left:
            return
        ended = [(worker.returncode, _last_words(folder, i)) for i, worker in enumerate(running)]
        _raise_failed(folder, pieces, left, ended)
        if not any(_was_stopped(code) for code, _ in ended):
            return
    numbers = sorted({-code for code, _ in ended if code < 0})
    why = f": workers were killed {ROUNDS} times, at last by signal {numbers} (9: often for want of memory)"
    raise SaliencyBenchError(_unfinished(folder, pieces, left, why))


def on_ray(
    folder: Path, pieces: Sequence[str], options: Mapping[str, Any], tell: Tell, crew: Crew
) -> None:
    """Computes blocks by Ray actors, each with a model of its own; a dead actor's block goes to another."""
    if options["address"] is None:
        _keep_ray_to_this_machine()
    ray, threads = _import("ray", RAY), crew.threads
    n = min(options["workers"], len(pieces))
    with _ray_cluster(ray, options, n * threads):
        _refuse_absent_resources(ray, n, threads, options["gpus_per_worker"])
        actor = ray.remote(num_cpus=threads, num_gpus=options["gpus_per_worker"])(crew.worker)
        waiting, tries = list(pieces), dict.fromkeys(pieces, 0)
        busy: dict[Any, tuple[Any, str]] = {}

        def give(worker: Any) -> None:
            if waiting:
                name = waiting.pop(0)
                tries[name] += 1
                busy[worker.do.remote(name)] = worker, name

        for _ in range(n):
            give(actor.remote(str(folder)))
        done = 0
        while busy:
            (ready,), _ = ray.wait(list(busy), num_returns=1)
            worker, name = busy.pop(ready)
            try:
                ray.get(ready)
            except ray.exceptions.RayActorError as error:
                if tries[name] >= ROUNDS:
                    raise SaliencyBenchError(f"block {name} killed {ROUNDS} workers") from error
                waiting.insert(0, name)
                worker = actor.remote(str(folder))
            except ray.exceptions.RayTaskError as error:
                # Ray's message is a traceback in colours: the error of the worker is raised in its place.
                raise error.cause from None
            else:
                done += 1
                tell(done)
            give(worker)


def on_slurm(
    folder: Path, pieces: Sequence[str], options: Mapping[str, Any], tell: Tell, crew: Crew
) -> None:
    """Computes blocks by a job array through submitit; `resume` goes on with those that are left when time runs out."""
    submitit = _import("submitit", SLURM)
    write_json(folder / PIECES, list(pieces))
    n = min(options["workers"], len(pieces))
    python = {f"{name}_python": shlex.join(PYTHON) for name in ("slurm", "local")}
    array = submitit.AutoExecutor(folder=str(folder / LOGS), cluster=options["cluster"], **python)
    array.update_parameters(
        name="saliency-bench",
        timeout_min=options["timeout_minutes"],
        mem_gb=options["memory_gb"],
        cpus_per_task=crew.threads,
        **({"gpus_per_node": options["gpus_per_worker"]} if options["gpus_per_worker"] else {}),
        **({"slurm_partition": options["partition"]} if options["partition"] else {}),
    )
    commands = [[*PYTHON, "-c", _RUN_AND_TELL, *_command(folder, i, n)] for i in range(n)]
    with array.batch():
        jobs = [array.submit(submitit.helpers.CommandFunction(command)) for command in commands]
    try:
        while not all(job.done() for job in jobs):
            tell(len(pieces) - len(blocks_left(folder, pieces)))
            time.sleep(_SECONDS_BETWEEN_SHARED_LOOKS)
    except BaseException:
        for job in jobs:
            job.cancel()
        raise
    # A job that ran out of time, or whose result could not be written, has none.
    results = [_outcome(job.result()) for job in jobs if job.exception() is None]
    ended = [(code, _last_line(err)) for code, err in results]
    if left := blocks_left(folder, pieces):
        _raise_failed(folder, pieces, left, ended)


EXECUTORS: dict[str, Callable[[Path, Sequence[str], Mapping[str, Any], Tell, Crew], None]] = {
    PROCESSES: on_processes,
    RAY: on_ray,
    SLURM: on_slurm,
}


def _keep_ray_to_this_machine() -> None:
    """Has Ray take the loopback address for this machine's, as it does on Windows and macOS.

    Elsewhere it takes one that others reach, also where it is given the loopback's, and hears them on every interface.
    """
    os.environ[RAY_CLUSTERS] = "0"  # read when Ray is imported
    if (constants := sys.modules.get("ray._private.ray_constants")) is not None:
        constants.ENABLE_RAY_CLUSTER = False  # type: ignore[attr-defined]


@contextmanager
def _ray_cluster(ray: Any, options: Mapping[str, Any], n_cpus: int) -> Iterator[None]:
    """The Ray cluster at an address, or one on this machine without dashboard or usage reports that no other machine reaches."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's niceness of 15 would starve its workers beside anything else.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Ray would put the current folder on its workers' path, unless a client of its own has sent the job.
    job = ray.job_config.JobConfig()
    job._client_job = True
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "job_config": job}
    address = options["address"]
    if address is None:
        quiet |= {"num_cpus": n_cpus, "include_dashboard": False, "_node_ip_address": LOOPBACK}
    else:
        _refuse_address(address)
    try:
        ray.init(address=address, **quiet)
    # Errors are of many kinds: no cluster, another version, a node that does not start in time.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if address is None:  # no option is wrong
            raise SaliencyBenchError(
                "no Ray cluster could be started here. Try again where the machine has more to spare, or use "
                f"runtime=processes, which needs none. It said: {one_line(error)}"
            ) from error
        raise InputError(
            f"runtime.executor.address={address}: no Ray cluster could be joined. It said: {one_line(error)}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _refuse_address(address: str) -> None:
    """Refuses an address that is no cluster's or does not answer, since Ray would wait for minutes."""
    key = f"runtime.executor.address={address}"
    if address == "auto":
        return
    match = re.fullmatch(r"\[?([^/\[\]]+)\]?:(\d{1,5})", address)
    if match is None or int(match[2]) > 65535:
        raise InputError(
            f"{key}: expected null, auto or HOST:PORT of the cluster's head (its port is 6379 unless it was given "
            "another); ray:// needs Ray's client, which is not used here."
        )
    try:
        socket.create_connection((match[1], int(match[2])), timeout=5).close()
    except OSError as error:
        raise InputError(
            f"{key}: nobody answers there ({error}). Start the cluster (ray start --head), or give null for one of this "
            "machine's own."
        ) from error


def _refuse_absent_resources(ray: Any, n: int, threads: int, gpus: int | float) -> None:
    """Refuses to ask for more than the cluster has, since Ray would wait for it without end."""
    there = ray.cluster_resources()
    for name, each, key in [("CPU", threads, "threads"), ("GPU", gpus, "executor.gpus_per_worker")]:
        if n * each > there.get(name, 0):
            raise InputError(
                f"runtime.{key}={each:g} for {n} workers needs {n * each:g} {name}s, and the Ray cluster has "
                f"{there.get(name, 0):g}. Lower it, or runtime.executor.workers."
            )


def blocks_left(folder: Path, pieces: Sequence[str]) -> list[str]:
    """The names that have no part yet. Whether parts are whole is checked when they are put together."""
    try:
        with os.scandir(folder / "parts") as entries:
            there = {entry.name for entry in entries}
    except FileNotFoundError:
        there = set()
    return [name for name in pieces if name not in there]


def _unfinished(folder: Path, pieces: Sequence[str], left: Sequence[str], why: str) -> str:
    return (
        f"{len(left)} of {counted(len(pieces), 'block')} not finished{why.rstrip('.')}. "
        f"Go on with: saliency-bench resume {folder}"
    )


def _raise_failed(
    folder: Path, pieces: Sequence[str], left: Sequence[str], ended: Sequence[tuple[int, str]]
) -> None:
    """Raises the error of a worker that failed: of the kind of its exit code, with its message if there is one."""
    failed = [(code, words) for code, words in ended if code and not _was_stopped(code)]
    if not failed:
        return
    code, words = min(failed, key=lambda end: (end[0] not in _KINDS, not end[1]))
    kind, name = _KINDS.get(code, (SaliencyBenchError, "failed"))
    heard = f"a worker said: {words}" if words else f"a worker ended with exit code {code} ({name})"
    raise kind(_unfinished(folder, pieces, left, f": {heard}"))


def _was_stopped(code: int) -> bool:
    """Whether the worker was ended from outside, so that it may be started again."""
    return code < 0 or code == _INTERRUPTED


def _command(folder: Path, shard: int, n: int) -> list[str]:
    words = ["work", str(folder), f"shard={shard}/{n}", "help=true"]
    return [*PYTHON, "-m", "saliency_bench", *words]


def _start(folder: Path, shard: int, n: int) -> "subprocess.Popen[bytes]":
    # A session of its own: an interrupt reaches the process that waits, which then stops its workers.
    def start(log: Any) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            _command(folder, shard, n),
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {DRIVER: str(os.getpid())},
        )

    path = _log(folder, shard)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as log:
            return start(log)
    except OSError:  # a full disk: the exit code of the worker is known all the same
        with suppress(OSError):
            path.unlink()
        return start(subprocess.DEVNULL)


def _stop(running: "Sequence[subprocess.Popen[bytes]]") -> None:
    for process in running:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
    for process in running:
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


#: The program of a Slurm job: it runs a worker to its end, and prints its exit code and the end of its messages. It does
#: not import this package, so that the other machine need not unpickle anything of it.
_RUN_AND_TELL = """
import json, subprocess, sys
done = subprocess.run(sys.argv[1:], stderr=subprocess.PIPE)
err = done.stderr.decode("utf-8", "replace")
sys.stderr.write(err)
print(json.dumps([done.returncode, err[-4000:]]))
"""


def _outcome(output: str) -> tuple[int, str]:
    """A job's last line: the worker's exit code, and the end of what it said."""
    code, err = json.loads(output.strip().splitlines()[-1])
    return int(code), str(err)


def _log(folder: Path, shard: int) -> Path:
    return folder / LOGS / f"{shard}.log"


def _last_words(folder: Path, shard: int) -> str:
    """The last words of a worker of this machine; none where no log could be written or read."""
    with suppress(OSError):
        return _last_line(_log(folder, shard).read_text("utf-8", errors="replace"))
    return ""


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].removeprefix("saliency-bench: ") if lines else ""


def _import(name: str, extra: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f"runtime={extra} needs {name}, which is not installed. Run: pip install 'saliency-bench[{extra}]'"
        ) from error
