"""Ends a worker together with the process that started it. Imports nothing heavy, so that this works from the start."""

import ctypes
import os
import signal
from contextlib import suppress

from saliency_bench.core.errors import SaliencyBenchError

DRIVER = "SALIENCY_BENCH_DRIVER"  # in the environment of a worker: the process that waits for it
_PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with_driver() -> None:
    """Ends this process with the one that started it for a run: a worker that nobody waits for only takes the machine.

    Where the system can (Linux) it is killed at once, elsewhere it ends when this is next called: before it loads
    libraries, and before each block. Blocks are whole always.

    Raises:
        SaliencyBenchError: that process has ended.
    """
    driver = os.environ.get(DRIVER)
    if driver is None:  # started by hand or by a scheduler
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Asked after the call: a driver that had ended before it sends no signal.
    if str(os.getppid()) != driver:
        raise SaliencyBenchError("the run that this worker is of has ended.")
