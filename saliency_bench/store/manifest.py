"""The provenance of a run's numbers besides its configuration: code, versions and machine."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from saliency_bench.core.conf import PACKAGE
from saliency_bench.core.versions import CARRYING, COMPUTING, _version, versions
from saliency_bench.store.durable import sha256

_GIT_SECONDS = 10.0


def collect(
    computation: Mapping[str, Any],
    *,
    command: Sequence[str],
    started: datetime,
    ended: datetime | None = None,
) -> dict[str, Any]:
    """Collects the facts that can change a number (`identity`) and those that cannot (`circumstances`), as JSON data.

    `computation` has the facts that only the runner has: threads, device name, dtype, attention implementation, token
    budget, digest of the weights. `started` and `ended` have a time zone. A fact that the machine does not report is None;
    nothing here fails.
    """
    return {
        "identity": {
            "code": code(),
            "python": platform.python_version(),
            "versions": versions(COMPUTING),
            "system": platform.system(),
            "machine": platform.machine(),
            "cpu": cpu_model(),
            "computation": dict(computation),
        },
        "circumstances": {
            "versions": versions(CARRYING),
            "os": platform.platform(),
            "logical_cores": os.cpu_count(),
            "memory_bytes": memory_bytes(),
            "command": [portable(word) for word in command],
            "started": _utc(started),
            "ended": ended and _utc(ended),
        },
    }


def code(package: Path = PACKAGE) -> dict[str, Any]:
    """Returns the version of the package, and commit and local changes of the checkout it is imported from.

    `dirty_sha256` covers names and contents of all files of the package and of `conf/` beside it
    that differ from the commit. Outside a checkout all but `version` are None.
    """
    facts: dict[str, Any] = {"version": _version("saliency-bench")}
    # An installed package may lie inside somebody else's checkout, which then does not track it.
    tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py") is not None
    commit = _git(package, "rev-parse", "HEAD") if tracked else None
    top = _git(package, "rev-parse", "--show-toplevel") if tracked else None
    places = [str(package), str(package.parent / "conf")]
    options = ("--porcelain", "-z", "--no-renames", "--untracked-files=all")
    changed = _git(package, "status", *options, "--", *places)
    if commit is None or top is None or changed is None:
        return facts | {"commit": None, "dirty": None, "dirty_sha256": None}
    names = sorted(entry[3:] for entry in changed.split("\0") if entry)
    content = "".join(_name_and_content(Path(top.strip()), name) for name in names)
    digest = sha256(os.fsencode(content))
    return facts | {
        "commit": commit.strip(),
        "dirty": bool(names),
        "dirty_sha256": digest if names else None,
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Returns the name of the processor, or at least its architecture."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for key in ("model name", "Model", "Hardware", "cpu"):
        if match := re.search(rf"^{key}\s*:\s*(\S.*?)\s*$", text, re.MULTILINE):
            return match.group(1)
    if sys.platform == "darwin":
        if named := _output(["sysctl", "-n", "machdep.cpu.brand_string"], PACKAGE):
            return named.strip()
    return platform.processor() or platform.machine() or "unknown"


def portable(text: str, cwd: Path | None = None, home: Path | None = None) -> str:
    """Replaces the working folder by `.` and the user's home by `~`, so that the text names no user."""
    for folder, short in ((cwd or _folder(Path.cwd), "."), (home or _folder(Path.home), "~")):
        if folder is not None and folder != Path(folder.anchor):
            text = re.sub(rf"(?<![\w./~-]){re.escape(str(folder))}(?![\w.-])", short, text)
    return text


def _folder(find: Callable[[], Path]) -> Path | None:
    try:
        return find()
    except (OSError, RuntimeError):  # deleted meanwhile, or a user without a home
        return None


def memory_bytes() -> int | None:
    """Returns the memory of this machine in bytes; None if it is unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _name_and_content(top: Path, name: str) -> str:
    try:
        return f"{name}\0{sha256((top / name).read_bytes())}\n"
    except OSError:
        return f"{name}\0absent\n"


def _git(folder: Path, *arguments: str) -> str | None:
    # A repository's own configuration may start programs (core.fsmonitor).
    return _output(["git", "-c", "core.fsmonitor=false", *arguments], folder)


def _output(command: Sequence[str], folder: Path) -> str | None:
    """Returns the output of a command; None if it is missing, fails, waits for input or takes too long."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=variables | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return os.fsdecode(done.stdout)
