"""One worker of a run: it reads the run's configuration from its folder, and computes and commits blocks."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saliency_bench.cli import config
from saliency_bench.core.errors import InputError, StorageError, shown
from saliency_bench.models.references import References
from saliency_bench.store.durable import refuse_links
from saliency_bench.store.parts import PartStore
from saliency_bench.store.run import CONFIG, IDENTITY, how_to_finish, read_json
from saliency_bench.studies.block_tables import pieces_of
from saliency_bench.studies.driver import end_with_driver
from saliency_bench.studies.executors import PIECES, Crew, blocks_left
from saliency_bench.studies.folder import refuse_another
from saliency_bench.studies.prepare import prepare
from saliency_bench.studies.run import compute_piece

#: Keys of the executor that `resume` may change.
ADDRESS, WORKERS = "runtime.executor.address=", "runtime.executor.workers="


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
    """The options of a folder's executor. The folder may be somebody else's, so that an address is used only if it was typed.

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


def typed_workers(options: Mapping[str, Any], typed: str | None) -> dict[str, Any]:
    """The executor of a folder with as many workers as were typed; no number of a result depends on them.

    Raises:
        InputError: no such number, or the executor has no workers.
    """
    if typed is None:
        return dict(options)
    if "workers" not in options:
        raise InputError(
            f"{WORKERS}{shown(typed)}: the run is computed by {options['name']}. Remove it."
        )
    if not re.fullmatch(r"[1-9]\d{0,5}", typed):
        raise InputError(f"{WORKERS}{shown(typed)}: expected a whole number from 1 to 999999.")
    return dict(options) | {"workers": int(typed)}


@dataclass(frozen=True)
class _Open:
    """A worker that has loaded model and data: called with a block's name, it computes and commits it."""

    work: Callable[[str], str]
    plan: Sequence[str]

    def __call__(self, name: str) -> str:
        return self.work(name)


def open_worker(folder: Path) -> _Open:
    """A function that computes and commits a block of a claimed folder by its name; model and data are loaded once.

    Raises:
        InputError: the folder holds another study than its configuration gives here: other versions, data or weights.
    """
    cfg = read_config(folder)
    study = prepare(cfg, config.settings(cfg))
    refuse_another(study, folder)
    refs, plan = References(study.model), pieces_of(study)
    store = PartStore(folder, run=study.id)

    def work(name: str) -> str:
        with study.model.frozen():
            compute_piece(study, refs, store, name, plan)
        return name

    return _Open(work, [piece.name for piece in plan])


def _listed(folder: Path) -> list[str]:
    """The blocks that an executor has listed for its workers."""
    pieces: list[str] = read_json(folder / PIECES, list)
    if not all(isinstance(name, str) for name in pieces):
        raise StorageError(
            f"{folder / PIECES}: expected names of blocks, got {shown(pieces)}. Remove the file, and go on with: "
            f"saliency-bench resume {folder}"
        )
    return pieces


def work(folder: Path, shard: int, n_shards: int, helps: bool = False) -> None:
    """Computes every `n_shards`-th of the blocks that were left when the workers were started.

    Where no executor has listed them, of all blocks of the plan, which is the same for every worker. One that `helps`
    then takes what others have not come to, the last first, so that nobody waits for the slowest. Two may do the same
    block at the very end: it has the same bytes, and is committed once.
    """
    end_with_driver()
    listed = folder / PIECES
    worker = None if listed.is_file() else open_worker(folder)
    pieces = _listed(folder) if worker is None else worker.plan
    order = list(pieces[shard::n_shards])
    if helps:
        # Each begins at another place, so that two that help do not take the same.
        others = [name for at, name in enumerate(pieces) if at % n_shards != shard][::-1]
        start = shard * len(others) // n_shards
        order += others[start:] + others[:start]
    if left := blocks_left(folder, order):
        worker = worker or open_worker(folder)
        for name in left:
            end_with_driver()
            worker(name)


class Worker:
    """A Ray actor. It loads the model with its first block, so that an error of loading is that block's error."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.work: Callable[[str], str] | None = None

    def do(self, name: str) -> str:
        """Computes a block."""
        self.work = self.work or open_worker(self.folder)
        return self.work(name)


def crew_of(cfg: config.Config) -> Crew:
    """The workers of a study."""
    return Crew(Worker, cfg.runtime.threads or 1)
