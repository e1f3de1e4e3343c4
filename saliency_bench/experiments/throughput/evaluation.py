"""Metrics of several methods judged together, against each judged by itself, as one would without shared curves."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.text import Encoded
from saliency_bench.evaluation.view import Reading
from saliency_bench.models.references import References
from saliency_bench.studies.block import opened_blocks
from saliency_bench.studies.evaluate import judge_block

Entries = Mapping[str, Mapping[str, Any]]
Rows = list[dict[str, Any]]
Values = list[Float[np.ndarray, " _"]]


def evaluation_contestants(
    refs: References,
    encoded: Sequence[Encoded],
    maps: Mapping[str, Sequence[AttributionMap]],
    metrics: Entries,
    removal: str,
    token_budget: int,
) -> dict[str, Callable[[], Values]]:
    """Two ways to the same values, of each text by setting and metric: `shared`, and `separate`.

    `separate` goes through the texts again for each metric and method, in the same blocks: nothing that was asked
    for one is known to the other, and no token is left out of the computation.

    Args:
        refs: of the model, which must be frozen.
        encoded: the texts.
        maps: by setting, one for each text in the same order.
        metrics: entries of conf/metric/.
        removal: see `evaluation.removal`.
        token_budget: tokens per pass.
    """
    usual = [Reading(removal, "token", "probability", "signed")]

    def judged(refs: References, settings: Sequence[str], entries: Entries) -> Rows:
        rows: Rows = []
        for block, opened in opened_blocks(refs, encoded, "predicted", token_budget):
            asked = [maps[setting][index] for setting in settings for index in block.indices]
            rows += judge_block(opened, asked, entries, usual).rows
        return rows

    def shared() -> Values:
        return values(judged(refs, list(maps), metrics))

    def separate() -> Values:
        whole = References(refs.model, may_drop=False)
        return values(
            [
                row
                for setting in maps
                for name, entry in metrics.items()
                for row in judged(whole, [setting], {name: entry})
            ]
        )

    settings = [one[0].setting["setting_id"] for one in maps.values()]

    def values(rows: Rows) -> Values:
        found = {
            (row["example_id"], row["setting_id"], row["metric"]): row["value"] for row in rows
        }
        return [
            np.array(
                [found[item.example_id, setting, name] for setting in settings for name in metrics]
            )
            for item in encoded
        ]

    return {"shared": shared, "separate": separate}
