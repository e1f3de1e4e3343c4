"""Two ways to evaluate several metrics of several methods: together from shared curves, and each one separately."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.text import Encoded
from saliency_bench.evaluation.view import View
from saliency_bench.models.references import References
from saliency_bench.studies.block import opened_blocks
from saliency_bench.studies.evaluate import evaluate_block

Entries = Mapping[str, Mapping[str, Any]]
Values = list[Float[np.ndarray, " _"]]
ByRow = dict[tuple[str, str, str], float]


def evaluation_contestants(
    refs: References,
    encoded: Sequence[Encoded],
    maps: Mapping[str, Sequence[AttributionMap]],
    metrics: Entries,
    removal: str,
    token_budget: int,
) -> dict[str, Callable[[], Values]]:
    """Two ways to the same values, of each text by setting and metric: `shared`, and `separate`.

    `separate` goes through the texts again for each metric and method, in the same blocks: they share no answer of the
    model, and no token is left out of the computation.

    Args:
        refs: of the model, which must be frozen.
        encoded: the texts.
        maps: by setting, one for each text in the same order.
        metrics: entries of conf/metric/.
        removal: see `evaluation.removal`.
        token_budget: tokens per pass.
    """
    views = [View(removal, "token", "probability", "signed")]
    settings = [of_texts[0].setting["setting_id"] for of_texts in maps.values()]

    def evaluated(references: References, names: Sequence[str], entries: Entries) -> ByRow:
        of_rows: ByRow = {}
        for block, opened in opened_blocks(references, encoded, "predicted", token_budget):
            of_block = [maps[name][index] for name in names for index in block.indices]
            for row in evaluate_block(opened, of_block, entries, views).rows:
                of_rows[row["example_id"], row["setting_id"], row["metric"]] = row["value"]
        return of_rows

    def values(of_rows: ByRow) -> Values:
        columns = [(setting, metric) for setting in settings for metric in metrics]
        return [
            np.array([of_rows[item.example_id, *column] for column in columns]) for item in encoded
        ]

    def shared() -> Values:
        return values(evaluated(refs, list(maps), metrics))

    def separate() -> Values:
        whole = References(refs.model, may_drop=False)
        of_rows: ByRow = {}
        for name in maps:
            for metric, entry in metrics.items():
                of_rows |= evaluated(whole, [name], {metric: entry})
        return values(of_rows)

    return {"shared": shared, "separate": separate}
