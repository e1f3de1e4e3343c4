"""What it does to the model that tokens are taken away for no reason: the out-of-distribution cost of removals.

A metric reads the loss of evidence and the strangeness of what is left as one number. A random ranking has no
evidence to choose by, so that an operator under which it loses much early says little of any ranking (Hooker et al.
2019; Hase et al. 2021).
"""

from math import ceil

import numpy as np
import pandas as pd

from saliency_bench.core.labels import value_label
from saliency_bench.core.method_facts import facts_of
from saliency_bench.core.rows import TABLES
from saliency_bench.core.texts import index_of, per_text, with_texts
from saliency_bench.report.analysis import Analysis
from saliency_bench.report.stats import intervals
from saliency_bench.report.table import Cell, Column, Estimate, Table

#: Shares of the tokens that are gone.
SHARES = (0.0, 0.1, 0.5, 0.9)


def removal_cost(analysis: Analysis) -> Table:
    """The mean probability of the explained class as tokens go in a random order, by operator."""
    columns = [
        Column("removal", "Removed tokens are replaced by"),
        *(Column(f"p_{share:.0%}", f"{share:.0%} of tokens gone") for share in SHARES),
    ]
    curves = _random_curves(analysis)
    rows = [
        (value_label(removal), *_estimates(analysis, own))
        for removal, own in curves.groupby("removal", sort=True)
    ]
    caption = (
        "Probability of the explained class, the mean of the random rankings with its interval over examples. What is "
        "lost here was not chosen by any ranking: where it is much, and early, a removal metric reads the strangeness "
        "of what is left. Accuracy and confidence too: saliency-bench sanity."
    )
    title = "What removal itself costs"
    return Table("removal_cost", title, caption, tuple(columns), tuple(rows), marks_best=False)


def _random_curves(analysis: Analysis) -> pd.DataFrame:
    ids = [one["setting_id"] for one in analysis.settings if facts_of(one).role == "chance"]
    curves = analysis.run.columns("curves", [*TABLES["curves"]], {"setting_id": ids[:1]})
    return with_texts(curves, analysis.run.manifest, analysis.run.repeated)


def _estimates(analysis: Analysis, own: pd.DataFrame) -> list[Cell]:
    """At each share; nothing where the grid of a text has no such number of tokens."""
    texts = own.pivot_table(index=index_of(own), columns="k", values="deletion")
    units = own.groupby(index_of(own))["n_units"].first().reindex(texts.index)
    found: list[Cell] = []
    for share in SHARES:
        k = [max(1, ceil(share * n - 1e-9)) if share else 0 for n in units]
        places = texts.columns.get_indexer(k)
        values = np.where(
            places < 0, np.nan, texts.to_numpy()[np.arange(len(texts)), np.maximum(places, 0)]
        )
        if np.isnan(values).any():
            found.append(None)
        else:
            values = per_text(pd.DataFrame({share: values}, index=texts.index)).to_numpy()
            low, high = intervals(values, analysis.resampling)
            found.append(Estimate(float(values.mean()), float(low[0]), float(high[0])))
    return found
