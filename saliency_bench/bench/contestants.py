"""What is timed side by side."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Contestant:
    """`run()` explains all texts it was made for.

    It returns the token scores of each text on the host, in the order of the input; None where its results are
    another quantity than ours.
    """

    name: str
    describe: str
    run: Callable[[], list[np.ndarray] | None]
