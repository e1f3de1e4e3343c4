"""The verb `work`, which an executor starts. Imports nothing heavy: a worker first checks whether its driver is alive."""

import re
from pathlib import Path

from saliency_bench.core.errors import InputError
from saliency_bench.studies.driver import end_with_driver


def work(words: list[str]) -> None:
    """Computes blocks as one of the workers of a run; an executor starts it."""
    end_with_driver()  # before the libraries are loaded, which takes seconds
    from saliency_bench.cli import worker

    helps = words[2:] == ["help=true"]
    match = re.fullmatch(r"shard=(\d+)/(\d+)", words[1] if len(words) == 2 + helps else "")
    if match is None or not int(match[1]) < int(match[2]):
        raise InputError(
            "work takes a run folder and a shard, and help=true where it is to take others' blocks after its own: "
            "saliency-bench work DIR shard=0/4"
        )
    worker.work(Path(words[0]), int(match[1]), int(match[2]), helps)
