"""Whether the scores of a prompt's parts add up to what the model says of them: the linear datamodeling score.

Cohen-Wang et al. 2024 (ContextCite), section 2. F is the output for the explained continuation; the parts are the units of
a view, with `granularity: segment` the passages that a text came with.
"""

import numpy as np
from jaxtyping import Bool

from saliency_bench.core.seeding import seed_of
from saliency_bench.evaluation.metrics import NotApplicable, metric
from saliency_bench.evaluation.query import Query


@metric(
    "linear_datamodeling_score",
    unit="1",
    higher_is_better=True,
    bounds=(-1.0, 1.0),
    source="Park et al. 2023 (TRAK), definition 2.3; for parts of a prompt Cohen-Wang et al. 2024 (ContextCite), section 2",
    reads="query",
)
def linear_datamodeling_score(query: Query, *, n_sets: int) -> float:
    """Spearman's correlation over sets V of units of F(V alone) and the sum of the scores of V.

    Every set is as likely as any other: `n_sets` are drawn, and where there are no more than so many each is taken once.
    p and log p order sets alike, so that it is the same for both.
    """
    if query.n_units == 0:
        raise NotApplicable("the text has no unit that could be removed")
    # Sets that were drawn twice have one sum, to the last bit.
    sets, drawn = np.unique(_sets(query, n_sets), axis=0, return_inverse=True)
    sums, answers = (values[drawn.reshape(-1)] for values in (sets @ query.scores, query.ask(sets)))
    if np.isnan(answers).any():
        return float("nan")
    if np.ptp(sums) == 0 or np.ptp(answers) == 0:
        raise NotApplicable("all sets weigh the same, so there is nothing to correlate")
    from scipy.stats import spearmanr

    return float(np.clip(spearmanr(sums, answers).statistic, -1, 1))


def _sets(query: Query, n_sets: int) -> Bool[np.ndarray, "N U"]:
    """What stays of the units in each set: random sets that belong to the text, or all sets there are."""
    if 2**query.n_units <= n_sets:
        numbers = np.arange(2**query.n_units)[:, None]
        return (numbers >> np.arange(query.n_units) & 1).astype(bool)
    rng = np.random.default_rng(seed_of("linear_datamodeling_score", query.name))
    return rng.random((n_sets, query.n_units)) < 0.5
