"""What the user typed to start this program, so that what it names can be typed too."""

import os
import re

#: Set by scripts/bench.
VARIABLE = "SALIENCY_BENCH_PROGRAM"
NAME = "saliency-bench"
_COMMAND = re.compile(rf"(?<![\w/-]){NAME}(?= [-a-z])")


def program() -> str:
    """The first word of a command: `saliency-bench`, or the script that was called in its place."""
    return os.environ.get(VARIABLE, NAME)


def as_typed(text: str) -> str:
    """A message with its commands as the user types them."""
    return _COMMAND.sub(lambda _: program(), text)
