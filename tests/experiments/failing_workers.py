"""What a worker of `trust` may do: in a module that imports little, which the worker's process has to import."""

import os
import time

NEVER = 200.0  # seconds


def killed(*_):
    """Ends as a process that was killed."""
    os._exit(9)


def refusing(config, threads, kind, training_seed):
    """Refuses one kind of model, and takes for ever with any other."""
    from saliency_bench.core.errors import InputError

    if kind == "single_token":
        raise InputError(f"{kind} is not here")
    time.sleep(NEVER)
