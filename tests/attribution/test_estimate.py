"""How sure a mean over random draws is said to be."""

from types import SimpleNamespace

import numpy as np
import torch

from saliency_bench.attribution.estimate import RunningEstimate


def test_scores_that_cancel_to_zero_between_draws_are_not_sure():
    draws = np.array([[[1.0, 0.0]], [[-1.0, 0.0]]])  # two groups, one text

    def convergence(values):
        def scores(kept):
            return np.tensordot(kept, values, 1) / kept.sum()

        own = SimpleNamespace(attributable=torch.ones(1, 2, dtype=torch.bool))
        auto = SimpleNamespace(auto=True, relative_error=0.1)
        one = SimpleNamespace(
            sizes=[1, 1],
            scores=scores,
            ctx=SimpleNamespace(batch=own),
            plan=SimpleNamespace(draws=auto),
        )
        return RunningEstimate._convergence(one)

    assert not convergence(draws).converged[0]
    assert convergence(draws).error[0] == np.inf
    assert convergence(0 * draws).converged[0]
