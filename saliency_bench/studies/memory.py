"""The peak memory of a piece of work, beyond what was in use when it began."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """`peak_bytes` is known when the block has ended, and None where the system cannot tell."""

    peak_bytes: int | None = None


@contextmanager
def peak_memory(device: torch.device | str) -> Iterator[Peak]:
    """Growth of allocated (CUDA) or resident (CPU, Linux) memory over the block.

    The two differ: the allocator's count has no overhead, resident pages include the libraries
    that a first call loads, and Linux notes them core by core in batches of max(32, 2 x cores)
    pages, so that small amounts are uncertain. Other threads of this process are counted too.
    """
    device = torch.device(device)
    peak = Peak()
    before = _start(device)
    try:
        yield peak
    finally:
        after = None if before is None else _high_water(device)
        peak.peak_bytes = None if before is None or after is None else max(after - before, 0)


def _start(device: torch.device) -> int | None:
    """Bytes in use, with the high-water mark set back to it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    return _reset_resident() if device.type == "cpu" else None


def _high_water(device: torch.device) -> int | None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    return status_bytes("VmHWM")


def _reset_resident() -> int | None:
    # Writing 5 to clear_refs sets VmHWM back to the resident size of the moment
    # (Linux, Documentation/filesystems/proc.rst, section 3.5 "/proc/<pid>/clear_refs").
    _return_freed_pages()
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return None
    return status_bytes("VmRSS")


def _return_freed_pages() -> None:
    # Memory that was freed but is still resident would be used again without being seen.
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # not glibc
        return


def status_bytes(key: str) -> int | None:
    """Returns an entry of /proc/self/status in bytes, such as VmRSS; None where the system has none."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in lines if line.startswith(f"{key}:")]
    return int(kilobytes[0]) * 1024 if kilobytes else None
