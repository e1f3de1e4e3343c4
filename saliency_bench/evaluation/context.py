"""The linear datamodeling score: whether sums of scores predict the outputs for parts of a prompt.

Cohen-Wang et al. 2024 (ContextCite), section 2. F is the output for the explained continuation. The parts are the units of
a view; with `granularity: segment` they are the passages that come with a text.
"""

import numpy as np
from jaxtyping import Bool

from saliency_bench.core.seeding import seed_of
from saliency_bench.evaluation.metrics import NotApplicable, correlation, metric
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

    `n_sets` random sets are drawn, each set being equally likely. If there are no more than `n_sets` sets, each is taken
    once. p and log p order sets alike, so that the score is the same for both.
    """
    if query.n_units == 0:
        raise NotApplicable("the text has no unit that could be removed")
    # Distinct sets only, so that the sums of equal sets are equal to the last bit.
    sets, drawn = np.unique(_sets(query, n_sets), axis=0, return_inverse=True)
    sums, answers = (values[drawn.reshape(-1)] for values in (sets @ query.scores, query.ask(sets)))
    from scipy.stats import spearmanr

    reason = "all sets weigh the same, so there is nothing to correlate"
    value = correlation(lambda a, b: spearmanr(a, b).statistic, sums, answers, reason)
    return float(np.clip(value, -1, 1))


def _sets(query: Query, n_sets: int) -> Bool[np.ndarray, "N U"]:
    """The units that stay in each set: random sets, which depend only on the text, or all sets if they are few."""
    if 2**query.n_units <= n_sets:
        numbers = np.arange(2**query.n_units)[:, None]
        return (numbers >> np.arange(query.n_units) & 1).astype(bool)
    rng = np.random.default_rng(seed_of("linear_datamodeling_score", query.name))
    return rng.random((n_sets, query.n_units)) < 0.5
