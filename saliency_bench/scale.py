"""Who computes the blocks of a study: processes of this machine, Ray, or Slurm; conf/runtime/.

All that moves are names: a worker reads what the run folder says of the study, loads model and data once, and commits
blocks to that folder, which every worker must see. Nothing that was computed passes through the process that waits.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from saliency_bench import config
from saliency_bench.errors import InputError, SaliencyBenchError, StorageError, shown, unknown
from saliency_bench.models.references import References
from saliency_bench.runner import Execute, compute_piece
from saliency_bench.store import parts
from saliency_bench.store.durable import refuse_links
from saliency_bench.store.parts import PartStore
from saliency_bench.store.run import CONFIG, IDENTITY, how_to_finish, read_json, write_json
from saliency_bench.study import prepare, refuse_another

HERE, PROCESSES, RAY, SLURM = "here", "processes", "ray", "slurm"
#: What is left to do, for workers that take every n-th of it.
PIECES = Path("parts") / parts.PIECES
LOGS = "workers"  # what workers print
#: Workers that were killed are started anew so often; an error of the program is not tried again.
ROUNDS = 3
_SECONDS_BETWEEN_LOOKS = 0.2

DRIVER = "SALIENCY_BENCH_DRIVER"  # in the environment of a worker: the process that waits for it
_PR_SET_PDEATHSIG = 1  # prctl(2)
ADDRESS = "runtime.executor.address="

Tell = Callable[[int], None]


def executor(options: Mapping[str, Any]) -> Execute | None:
    """What `runtime.executor` asks for; None: in this process."""
    name = options["name"]
    if name == HERE:
        return None
    if name not in EXECUTORS:
        raise unknown("runtime.executor.name", name, [HERE, *EXECUTORS])

    def execute(folder: Path, pieces: Sequence[str], tell: Tell) -> None:
        EXECUTORS[name](folder.resolve(), pieces, options, tell)
        if left := _left(folder, pieces):
            raise SaliencyBenchError(
                f"{len(left)} of {len(pieces)} blocks were not finished{_last_words(folder)} "
                f"Go on with: saliency-bench resume {folder}"
            )

    return execute


def nobody(folder: Path, pieces: Sequence[str], tell: Tell) -> None:
    """Refuses to compute: for who only wants to put together what is there."""
    raise StorageError(
        f"{folder}: {len(pieces)} blocks are missing ({', '.join(pieces[:3])}{', ...' if len(pieces) > 3 else ''}). "
        f"Go on with: saliency-bench resume {folder}"
    )


def read_config(folder: Path) -> config.Config:
    """The configuration of an unfinished run, as its folder has it: data, checked and never called.

    Raises:
        InputError: the folder holds no unfinished run, or its configuration is not valid.
        StorageError: the file is damaged.
    """
    path = folder / CONFIG
    if not path.is_file() and (folder / IDENTITY).is_file():
        raise StorageError(f"{folder} is unfinished: {how_to_finish(folder)}")
    if not path.is_file():
        raise InputError(
            f"{folder} holds no unfinished run: it has no {CONFIG}. Give the folder of a run that was stopped."
        )
    if not (folder / IDENTITY).is_file():
        raise InputError(
            f"{folder} holds no run: it has no {IDENTITY}. Give the folder of a run that was stopped."
        )
    refuse_links(folder)
    cfg = config.from_plain(read_json(path, dict))
    config.validate(cfg)
    return replace(cfg, out=str(folder))


def typed_address(options: Mapping[str, Any], typed: str | None, folder: Path) -> dict[str, Any]:
    """The executor that a folder asks for; it may be somebody else's, so that an address is dialled only if it was typed.

    Raises:
        InputError: the folder names an address that was not typed, or its executor has none.
    """
    if typed is None:
        if (held := options.get("address")) is None:
            return dict(options)
        raise InputError(
            f"{folder} would connect to {held}. If that is your cluster, say so: "
            f"saliency-bench resume {folder} {ADDRESS}{held}; or {ADDRESS}null for one of this machine."
        )
    if "address" not in options:
        raise InputError(f"{ADDRESS}{typed}: the run is computed by {options['name']}. Remove it.")
    return dict(options) | {"address": None if typed == "null" else typed}


def open_worker(folder: Path) -> Callable[[str], str]:
    """A function that computes and commits a block of a claimed folder by its name; model and data are loaded once.

    Raises:
        InputError: the folder holds another study than its configuration gives here: other versions, data or weights.
    """
    cfg = read_config(folder)
    study = prepare(cfg, config.settings(cfg))
    refuse_another(study, folder)
    refs, store = References(study.model), PartStore(folder)

    def work(name: str) -> str:
        with study.model.frozen():
            compute_piece(study, refs, store, name)
        return name

    return work


def work(folder: Path, shard: int, n_shards: int) -> None:
    """Computes every `n_shards`-th of the blocks that were left when the workers were started."""
    end_with_driver()
    pieces = read_json(folder / PIECES, list)
    if not all(isinstance(name, str) for name in pieces):
        raise StorageError(
            f"{folder / PIECES}: expected names of blocks, got {shown(pieces)}. Remove the file, and go on with: "
            f"saliency-bench resume {folder}"
        )
    if mine := _left(folder, pieces[shard::n_shards]):
        worker = open_worker(folder)
        for name in mine:
            end_with_driver()
            worker(name)


def end_with_driver() -> None:
    """Ends this process with the one that started it for a run: a worker that nobody waits for only takes the machine.

    Where the system can (Linux) it is killed at once, elsewhere it ends before its next block; blocks are whole always.
    """
    driver = os.environ.get(DRIVER)
    if driver is None:  # started by hand or by a scheduler
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if str(os.getppid()) != driver:
        raise SaliencyBenchError("the run that this worker is of has ended.")


def on_processes(
    folder: Path, pieces: Sequence[str], options: Mapping[str, Any], tell: Tell
) -> None:
    """Worker processes of this machine; what killed ones have left is given to new ones."""
    for _ in range(ROUNDS):
        left = _left(folder, pieces)
        write_json(folder / PIECES, left)
        n = min(options["workers"], len(left))
        running = [_start(folder, shard, n) for shard in range(n)]
        try:
            while any(one.poll() is None for one in running):
                tell(len(pieces) - len(_left(folder, pieces)))
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        finally:
            _stop(running)
        killed = [one for one in running if one.returncode < 0]
        if not killed or not _left(folder, pieces):
            return


def on_ray(folder: Path, pieces: Sequence[str], options: Mapping[str, Any], tell: Tell) -> None:
    """Ray actors, each with a model of its own; a block goes to whoever is free, that of a dead worker to another."""
    ray = _import("ray", RAY)
    with _ray_cluster(ray, options):
        actor = ray.remote(num_cpus=1, num_gpus=options["gpus_per_worker"])(_Worker)
        waiting, tries = list(pieces), dict.fromkeys(pieces, 0)
        busy: dict[Any, tuple[Any, str]] = {}

        def give(worker: Any) -> None:
            if waiting:
                name = waiting.pop(0)
                tries[name] += 1
                busy[worker.do.remote(name)] = worker, name

        for _ in range(min(options["workers"], len(pieces))):
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
                raise error.as_instanceof_cause() from error
            else:
                done += 1
                tell(done)
            give(worker)


def on_slurm(folder: Path, pieces: Sequence[str], options: Mapping[str, Any], tell: Tell) -> None:
    """A job array through submitit; what it leaves, because time ran out, `resume` gives to another."""
    submitit = _import("submitit", SLURM)
    write_json(folder / PIECES, list(pieces))
    n = min(options["workers"], len(pieces))
    array = submitit.AutoExecutor(folder=str(folder / LOGS), cluster=options["cluster"])
    array.update_parameters(
        name="saliency-bench",
        timeout_min=options["timeout_minutes"],
        mem_gb=options["memory_gb"],
        cpus_per_task=1,
        **({"gpus_per_node": options["gpus_per_worker"]} if options["gpus_per_worker"] else {}),
        **({"slurm_partition": options["partition"]} if options["partition"] else {}),
    )
    # A job runs the command line, so that nothing that is pickled needs to be understood later.
    commands = [submitit.helpers.CommandFunction(_command(folder, i, n)) for i in range(n)]
    with array.batch():
        jobs = [array.submit(command) for command in commands]
    try:
        while not all(job.done() for job in jobs):
            tell(len(pieces) - len(_left(folder, pieces)))
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    except BaseException:
        for job in jobs:
            job.cancel()
        raise


EXECUTORS: Mapping[str, Callable[[Path, Sequence[str], Mapping[str, Any], Tell], None]] = {
    PROCESSES: on_processes,
    RAY: on_ray,
    SLURM: on_slurm,
}


class _Worker:
    """A Ray actor. It loads the model with its first block, so that what is wrong is that block's error."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.work: Callable[[str], str] | None = None

    def do(self, name: str) -> str:
        """Computes a block."""
        self.work = self.work or open_worker(self.folder)
        return self.work(name)


@contextmanager
def _ray_cluster(ray: Any, options: Mapping[str, Any]) -> Iterator[None]:
    """A cluster of this machine's own, without dashboard or usage reports; or the one at an address."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_worker_niceness", "0"
    )  # Ray's 15 would starve them beside anything else
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if options["address"] is None:
        quiet |= {"num_cpus": options["workers"], "include_dashboard": False}
    ray.init(address=options["address"], **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def _left(folder: Path, pieces: Sequence[str]) -> list[str]:
    """The names that have no part yet; whether parts are whole is looked at when they are put together."""
    return [name for name in pieces if not (folder / "parts" / name).exists()]


def _command(folder: Path, shard: int, n: int) -> list[str]:
    return [sys.executable, "-m", "saliency_bench", "work", str(folder), f"shard={shard}/{n}"]


def _start(folder: Path, shard: int, n: int) -> "subprocess.Popen[bytes]":
    logs = folder / LOGS
    logs.mkdir(parents=True, exist_ok=True)
    # A session of its own: an interrupt reaches the process that waits, which then stops its workers.
    with (logs / f"{shard}.log").open("ab") as log:
        return subprocess.Popen(
            _command(folder, shard, n),
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {DRIVER: str(os.getpid())},
        )


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


def _last_words(folder: Path) -> str:
    """The last line that a worker printed."""
    logs = sorted((folder / LOGS).glob("*.log"), key=lambda path: path.stat().st_mtime)
    for log in reversed(logs):
        lines = log.read_text("utf-8", errors="replace").strip().splitlines()
        if lines:
            return f": a worker said: {lines[-1].removeprefix('saliency-bench: ')}"
    return "."


def _import(name: str, extra: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f"runtime={extra} needs {name}, which is not installed. Run: pip install 'saliency-bench[{extra}]'"
        ) from error
