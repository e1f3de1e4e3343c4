"""`saliency-bench doctor` says which parts work on this machine, and how to mend the others."""

import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import InputError, SaliencyBenchError, counted
from saliency_bench.studies.progress import progress

GOOD, MISSING, BAD = "ok", "absent", "broken"

#: Libraries without which nothing works, and packages that come with an extra.
LIBRARIES = ("torch", "transformers", "captum", "hydra-core", "peft", "scipy", "pyarrow")
EXTRAS = {
    "data": "datasets",
    "large": "accelerate",
    "ray": "ray",
    "shap": "shap",
    "slurm": "submitit",
}
LITTLE_MEMORY_GB = 4


@dataclass(frozen=True)
class Check:
    """One line: the name of a check, its state, and an explanation."""

    name: str
    state: str
    detail: str


def doctor(words: list[str]) -> int:
    """Prints every check; the exit code is 1 if something is broken."""
    if words:
        raise InputError(f"doctor takes nothing, got {words[0]!r}")
    table = Table(box=None, show_header=False)
    with progress() as show:
        show("trying what is installed", 0, 0)
        results = list(checks())
    for check in results:
        color = {GOOD: "green", BAD: "bold red"}.get(check.state, "yellow")
        name, state = Text(check.name, style="bold"), Text(check.state, style=color)
        table.add_row(name, state, Text(check.detail))
    Console(highlight=False).print(table)
    return int(any(check.state == BAD for check in results))


def checks() -> Iterator[Check]:
    """Runs all checks in order; nothing is downloaded, and only a temporary file is written."""
    yield Check("python", GOOD, f"{platform.python_version()}, {platform.system()}")
    for name in LIBRARIES:
        yield _checked(name, partial(version, name))
    yield _checked("configuration", lambda: f"{len(conf_files.names('method'))} methods")
    yield _checked("default encoder", _encoder)
    yield _checked("devices", _devices)
    yield _checked("gradient", _gradient)
    yield _checked("memory", _memory)
    yield _checked("writing", _writing)
    yield _checked("cache", _cache)
    for extra, package in EXTRAS.items():
        there = find_spec(package) is not None
        detail = version(package) if there else f"pip install 'saliency-bench[{extra}]'"
        yield Check(f"extra {extra}", GOOD if there else MISSING, detail)


def _checked(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, GOOD, look())
    except PackageNotFoundError:
        return Check(name, BAD, f"not installed: pip install {name}")
    except (SaliencyBenchError, OSError, RuntimeError, ImportError) as error:
        return Check(name, BAD, " ".join(str(error).split()))


def _encoder() -> str:
    from saliency_bench.models.encoder import PACKAGE, encoder_folder

    encoder_folder()
    return f"{PACKAGE}, its weights are the ones that results were made with"


def _devices() -> str:
    import torch

    cores = f"cpu with {counted(torch.get_num_threads(), 'thread')}"
    if not torch.cuda.is_available():
        return f"{cores}; no GPU that torch {torch.__version__} can use"
    names = (torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return f"{cores}; {', '.join(names)}"


def _gradient() -> str:
    """Compares a method on a random model of two layers with Captum."""
    import numpy as np

    import saliency_bench as sb
    from saliency_bench.experiments.random_models import random_model, random_texts

    model = random_model("bert", "float64")
    ids = {"input_ids": list(random_texts(model, 1, 6)[0].input_ids)}
    ours, theirs = (
        sb.attribute(model, [ids], "integrated_gradients", baseline="zero", backend=backend)[0]
        for backend in ("native", "captum")
    )
    apart = float(np.abs(ours.scores - theirs.scores).max() / np.abs(theirs.scores).max())
    if not apart < 1e-9:
        raise RuntimeError(f"integrated_gradients differs from Captum's by {apart:.1e}")
    return f"integrated_gradients differs from Captum's by {apart:.0e} of the largest score"


def _memory() -> str:
    from saliency_bench.store.manifest import memory_bytes

    total = memory_bytes()
    if total is None:
        return "unknown"
    gigabytes = total / 2**30
    if gigabytes < LITTLE_MEMORY_GB:
        raise RuntimeError(f"{gigabytes:.1f} GiB: expected {LITTLE_MEMORY_GB} or more")
    return f"{gigabytes:.0f} GiB"


def _writing() -> str:
    """Writes a file here in the way results are written, and removes it."""
    from saliency_bench.store.durable import replace_file

    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".saliency-bench-") as folder:
        replace_file(Path(folder) / "file", b"")
    return f"{shutil.disk_usage(Path.cwd()).free / 2**30:.0f} GiB free here"


def _cache() -> str:
    """The place and size of the cache; nothing is written to it."""
    from saliency_bench.store import cache

    place, size = cache.folder(), cache.size()
    held = (
        f"{counted(size.n_files, 'file')}, {size.n_bytes / 2**20:.1f} MiB"
        if size.n_files
        else "empty"
    )
    return f"{place}, {held}; {cache.VARIABLE} names another folder"
