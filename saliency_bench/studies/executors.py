"""Where the blocks of a study are computed: by processes of this machine, Ray, or Slurm; conf/runtime/.

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
    is_out_of_memory,
    one_line,
    unknown,
)
from saliency_bench.store import parts
from saliency_bench.store.run import write_json
from saliency_bench.studies.driver import DRIVER
from saliency_bench.studies.run import Execute

HERE, PROCESSES, RAY, SLURM = "here", "processes", "ray", "slurm"
#: What is left to do, for workers that take every n-th of it.
PIECES = Path("parts") / parts.PIECES
LOGS = "workers"  # what workers print
#: Workers that were killed are started anew so often; an error of the program is not tried again.
ROUNDS = 3
_SECONDS_BETWEEN_LOOKS = 0.2
#: On a file system that many machines share, each look is a question to its server.
_SECONDS_BETWEEN_SHARED_LOOKS = 2.0
#: A worker's exit codes (`errors`), by what went wrong there; Python's own name for memory, as if it had run out here.
_KINDS: Mapping[int, tuple[type[Exception], str]] = {
    InputError.exit_code: (InputError, "input"),
    ValidationError.exit_code: (ValidationError, "a check of the numbers"),
    StorageError.exit_code: (StorageError, "storage"),
    5: (MemoryError, "out of memory"),
}
_INTERRUPTED = 130  # of a worker that was asked to stop by whoever rules the machine

#: Workers import nothing from the folder that they are started in (-P): it holds data, and may be somebody else's.
PYTHON = (sys.executable, "-P")
RAY_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
LOOPBACK = "127.0.0.1"

Tell = Callable[[int], None]


@dataclass(frozen=True)
class Crew:
    """Who computes: `worker(folder).do(block)`, as a class for Ray's actors, and the threads that each worker uses."""

    worker: Callable[[str], Any]
    threads: int


def executor(options: Mapping[str, Any], crew: Crew) -> Execute | None:
    """What `runtime.executor` asks for; None: in this process."""
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


def nobody(folder: Path, pieces: Sequence[str], tell: Tell) -> None:
    """Refuses to compute: for who only wants to put together what is there."""
    raise StorageError(
        f"{folder}: {len(pieces)} blocks are missing ({', '.join(pieces[:3])}{', ...' if len(pieces) > 3 else ''}). "
        f"Go on with: saliency-bench resume {folder}"
    )


def on_processes(
    folder: Path, pieces: Sequence[str], options: Mapping[str, Any], tell: Tell, crew: Crew
) -> None:
    """Worker processes of this machine; what killed ones have left is given to new ones."""
    for _ in range(ROUNDS):
        left = blocks_left(folder, pieces)
        write_json(folder / PIECES, left)
        n = min(options["workers"], len(left))
        running = [_start(folder, shard, n) for shard in range(n)]
        try:
            # Who only repeats what another has done meanwhile is not waited for.
            while blocks_left(folder, left) and any(one.poll() is None for one in running):
                tell(len(pieces) - len(blocks_left(folder, pieces)))
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        finally:
            _stop(running)
        left = blocks_left(folder, pieces)
        if not left:
            return
        ended = [(one.returncode, _said(folder, shard)) for shard, one in enumerate(running)]
        _raise_failed(folder, pieces, left, ended)
        if not any(_was_stopped(code) for code, _ in ended):
            return
    numbers = sorted({-code for code, _ in ended if code < 0})
    why = f": workers were killed {ROUNDS} times, at last by signal {numbers} (9: often for want of memory)"
    raise SaliencyBenchError(_unfinished(folder, pieces, left, why))


def on_ray(
    folder: Path, pieces: Sequence[str], options: Mapping[str, Any], tell: Tell, crew: Crew
) -> None:
    """Ray actors, each with a model of its own; a block goes to whoever is free, that of a dead worker to another."""
    if options["address"] is None:
        _keep_ray_to_this_machine()
    ray, threads = _import("ray", RAY), crew.threads
    n = min(options["workers"], len(pieces))
    with _ray_cluster(ray, options, n * threads):
        _refuse_what_is_not_there(ray, n, threads, options["gpus_per_worker"])
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
                # Ray's own words are a traceback in colours; what happened there is said as if it had happened here.
                raise error.cause from None
            else:
                done += 1
                tell(done)
            give(worker)


def on_slurm(
    folder: Path, pieces: Sequence[str], options: Mapping[str, Any], tell: Tell, crew: Crew
) -> None:
    """A job array through submitit; what it leaves, because time ran out, `resume` gives to another."""
    submitit = _import("submitit", SLURM)
    write_json(folder / PIECES, list(pieces))
    n = min(options["workers"], len(pieces))
    python = {f"{one}_python": shlex.join(PYTHON) for one in ("slurm", "local")}
    array = submitit.AutoExecutor(folder=str(folder / LOGS), cluster=options["cluster"], **python)
    array.update_parameters(
        name="saliency-bench",
        timeout_min=options["timeout_minutes"],
        mem_gb=options["memory_gb"],
        cpus_per_task=crew.threads,
        **({"gpus_per_node": options["gpus_per_worker"]} if options["gpus_per_worker"] else {}),
        **({"slurm_partition": options["partition"]} if options["partition"] else {}),
    )
    commands = [[*PYTHON, "-c", _HEAR, *_command(folder, i, n)] for i in range(n)]
    with array.batch():
        jobs = [array.submit(submitit.helpers.CommandFunction(one)) for one in commands]
    try:
        while not all(job.done() for job in jobs):
            tell(len(pieces) - len(blocks_left(folder, pieces)))
            time.sleep(_SECONDS_BETWEEN_SHARED_LOOKS)
    except BaseException:
        for job in jobs:
            job.cancel()
        raise
    # A job that ran out of time, or whose result could not be written, has none.
    results = [_heard(job.result()) for job in jobs if job.exception() is None]
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
    """A cluster of this machine's own, without dashboard or usage reports, heard by nobody else; or the one at an address."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_worker_niceness", "0"
    )  # Ray's 15 would starve them beside anything else
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
    except (
        Exception
    ) as error:  # of many kinds: no cluster, another version, a node that does not start in time
        if is_out_of_memory(error):
            raise
        if address is None:  # nothing that was asked for is wrong
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
    """Refuses what is no address of a cluster, or one where nobody listens: Ray would wait for minutes."""
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


def _refuse_what_is_not_there(ray: Any, n: int, threads: int, gpus: int | float) -> None:
    """Refuses to ask for more than the cluster has: its workers would be waited for without end."""
    there = ray.cluster_resources()
    for name, each, key in [("CPU", threads, "threads"), ("GPU", gpus, "executor.gpus_per_worker")]:
        if n * each > there.get(name, 0):
            raise InputError(
                f"runtime.{key}={each:g} for {n} workers needs {n * each:g} {name}s, and the Ray cluster has "
                f"{there.get(name, 0):g}. Lower it, or runtime.executor.workers."
            )


def blocks_left(folder: Path, pieces: Sequence[str]) -> list[str]:
    """The names that have no part yet; whether parts are whole is looked at when they are put together."""
    try:
        with os.scandir(folder / "parts") as entries:
            there = {entry.name for entry in entries}
    except FileNotFoundError:
        there = set()
    return [name for name in pieces if name not in there]


def _unfinished(folder: Path, pieces: Sequence[str], left: Sequence[str], why: str) -> str:
    return (
        f"{len(left)} of {len(pieces)} blocks were not finished{why.rstrip('.')}. "
        f"Go on with: saliency-bench resume {folder}"
    )


def _raise_failed(
    folder: Path, pieces: Sequence[str], left: Sequence[str], ended: Sequence[tuple[int, str]]
) -> None:
    """Raises what a worker failed with: of the kind that its exit code tells, in its own words if there are any."""
    failed = [(code, said) for code, said in ended if code and not _was_stopped(code)]
    if not failed:
        return
    code, said = min(failed, key=lambda one: (one[0] not in _KINDS, not one[1]))
    kind, name = _KINDS.get(code, (SaliencyBenchError, "failed"))
    heard = f"a worker said: {said}" if said else f"a worker ended with exit code {code} ({name})"
    raise kind(_unfinished(folder, pieces, left, f": {heard}"))


def _was_stopped(code: int) -> bool:
    """Whether somebody else ended the worker: it may be started anew."""
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
    except OSError:  # a disk that is full: how the worker ends is heard all the same
        with suppress(OSError):
            path.unlink()
        return start(subprocess.DEVNULL)


def _stop(running: "Sequence[subprocess.Popen[bytes]]") -> None:
    for one in running:
        if one.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(one.pid, signal.SIGTERM)
    for one in running:
        try:
            one.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(one.pid, signal.SIGKILL)
            one.wait()


#: What a job of Slurm's does: runs a worker to its end, and gives its exit code and what it said at last. Python without
#: this package, so that nothing that is pickled needs to be understood on the other machine.
_HEAR = """
import json, subprocess, sys
done = subprocess.run(sys.argv[1:], stderr=subprocess.PIPE)
err = done.stderr.decode("utf-8", "replace")
sys.stderr.write(err)
print(json.dumps([done.returncode, err[-4000:]]))
"""


def _heard(output: str) -> tuple[int, str]:
    """A job's last line: the worker's exit code, and the end of what it said."""
    code, err = json.loads(output.strip().splitlines()[-1])
    return int(code), str(err)


def _log(folder: Path, shard: int) -> Path:
    return folder / LOGS / f"{shard}.log"


def _said(folder: Path, shard: int) -> str:
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
