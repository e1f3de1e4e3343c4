"""In the tests, every function of the package refuses arguments and results of other types and shapes than it names."""

import beartype
import jaxtyping
import numpy as np
import pytest
from jaxtyping import Float

from saliency_bench.report.stats import Resampling, intervals
from saliency_bench.report.table import whole


def test_a_wrong_shape_and_a_wrong_type_are_refused():
    with pytest.raises(jaxtyping.TypeCheckError):
        intervals(np.ones(3), Resampling(0.95, 99, 0))  # of columns
    with pytest.raises(jaxtyping.TypeCheckError):
        whole("3")


def test_inner_functions_of_one_name_are_checked_each_by_its_own_annotations():
    def make(shape):
        @jaxtyping.jaxtyped(typechecker=beartype.beartype)
        def inner(x: Float[np.ndarray, shape], n: int = 1) -> Float[np.ndarray, " A"]:
            return x if n == 1 else x[None]

        return inner

    for _ in range(2):
        assert len(make(" A")(np.ones(3))) == 3
        for wrong in (
            lambda: make("A B")(np.ones(3)),
            lambda: make(" A")(np.ones((3, 1))),
            lambda: make(" A")(np.ones(3), n=2),  # its result
            lambda: make(" A")(np.ones(3), n="1"),
        ):
            with pytest.raises(jaxtyping.TypeCheckError):
                wrong()
