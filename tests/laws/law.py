"""Laws, and the broken implementations that show that each can fail.

A law is a test of one dtype. It is written down together with its twins: implementations with one thing wrong, each
of which it must refuse (`test_broken.py`). A law that nothing breaks says nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

#: Changes the package into one that is wrong, until the patch is undone.
Twin = Callable[[pytest.MonkeyPatch], None]
Check = Callable[[torch.dtype], None]

#: What a number may differ by, relative to the largest score of its text: what the library promises of any two
#: orders of the same sums. In float64 that is some thousand rounding errors, 2**-53 each; in float32 some hundred.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}

BOTH = (torch.float64, torch.float32)

#: Of laws about what is done and how often, which no rounding changes.
ONE = (torch.float32,)


@dataclass(frozen=True)
class Law:
    """A check, the dtypes in which it holds, and what must fail it."""

    check: Check
    dtypes: tuple[torch.dtype, ...]
    twins: tuple[Twin, ...]

    @property
    def loosest(self) -> torch.dtype:
        """The dtype that lets most pass: what fails there fails in the others too."""
        return max(self.dtypes, key=TOLERANCE.__getitem__)


LAWS: dict[str, Law] = {}


def law(*twins: Twin, dtypes: tuple[torch.dtype, ...] = BOTH) -> Callable[[Check], Check]:
    """Makes a test of a function of a dtype, and remembers what must break it."""
    if not twins:
        raise TypeError("a law needs at least one broken twin")

    def register(check: Check) -> Check:
        known = LAWS.setdefault(check.__name__, Law(check, dtypes, twins))
        if known.check.__code__.co_filename != check.__code__.co_filename:
            raise TypeError(f"two laws are called {check.__name__}")
        asked = [
            pytest.param(
                dtype,
                id=str(dtype).removeprefix("torch."),
                marks=pytest.mark.thorough if dtype != dtypes[0] else (),
            )
            for dtype in dtypes
        ]
        return pytest.mark.parametrize("dtype", asked)(check)

    return register


def assert_same(
    found: Sequence[float] | np.ndarray,
    expected: Sequence[float] | np.ndarray,
    dtype: torch.dtype,
    what: object = "",
    scale: float | None = None,
) -> None:
    """That one text's scores agree as the library promises; `scale` is the largest score, if `expected` has it not."""
    expected = np.asarray(expected)
    size = float(np.abs(expected).max()) if scale is None else scale
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=TOLERANCE[dtype] * size, err_msg=str(what)
    )
