"""A lock by which one process at a time works on a run folder; workers, which only add parts, need none."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from saliency_bench.core.errors import StorageError
from saliency_bench.store.durable import storing


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder and locks it; the lock ends with the process, however that ends.

    File systems without such locks are used without: there too, a part is committed by one process only. A folder that is
    still empty at the end is removed.

    Raises:
        StorageError: another process works on the folder, or it cannot be made.
    """
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":  # folders cannot be opened there
        yield
        return
    with storing(folder):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(folder, descriptor)
        yield
    finally:
        with suppress(OSError):
            folder.rmdir()
        os.close(descriptor)


def _lock(folder: Path, descriptor: int) -> None:
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise StorageError(
                f"{folder}: another process works on this run. Wait for it, or stop it."
            ) from error
