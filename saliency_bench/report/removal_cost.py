"""The out-of-distribution cost of removal operators: the effect on the model of removing tokens at random.

A removal metric measures the lost evidence and the strangeness of the remaining text together. A random ranking has no
evidence: if the probability falls fast under it, an operator says little about any ranking (Hooker et al. 2019; Hase et al.
2021).
"""

from functools import partial

import numpy as np

from saliency_bench.core.labels import value_label
from saliency_bench.core.method_facts import facts_of
from saliency_bench.core.rows import TABLES
from saliency_bench.core.texts import index_of, per_text, with_texts
from saliency_bench.report.analysis import Analysis
from saliency_bench.report.stats import intervals
from saliency_bench.report.table import Cell, Column, Estimate, Field, Table, filled

#: Shares of removed tokens.
SHARES = (0.0, 0.1, 0.5, 0.9)


def removal_cost(analysis: Analysis) -> Table:
    """Returns the table of the mean probability of the explained class as tokens are removed at random, by operator."""
    random = [
        setting["setting_id"] for setting in analysis.settings if facts_of(setting).role == "chance"
    ]
    curves = analysis.run.columns("curves", [*TABLES["curves"]], {"setting_id": random[:1]})
    curves = with_texts(curves, analysis.run.manifest, analysis.run.repeated)
    by_removal = dict(list(curves.groupby("removal", sort=True)))

    def probability(removal: str, share: float) -> Cell:
        """Returns the mean over texts; None if the grid of a text lacks this number of tokens."""
        curves = by_removal[removal]
        k = np.maximum(np.ceil(share * curves["n_units"] - 1e-9), 1) if share else 0
        chosen = curves[curves["k"] == k]
        if len(chosen) < len(curves.drop_duplicates(index_of(curves))):
            return None
        values = per_text(chosen.set_index(index_of(curves))[["deletion"]]).to_numpy()
        (low,), (high,) = intervals(values, analysis.resampling)
        return Estimate(float(values.mean()), float(low), float(high))

    fields: list[Field] = [(Column("removal", "Removed tokens are replaced by"), value_label)]
    for share in SHARES:
        column = Column(f"p_{share:.0%}", f"{share:.0%} of tokens gone")
        fields.append((column, partial(probability, share=share)))
    caption = (
        "Probability of the explained class, the mean of the random rankings with its interval over examples. What is "
        "lost here was not chosen by any ranking: where it is much, and early, a removal metric reads the strangeness "
        "of what is left. Accuracy and confidence too: saliency-bench sanity."
    )
    title = "What removal itself costs"
    return filled("removal_cost", title, caption, fields, by_removal, False)
