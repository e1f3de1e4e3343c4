"""Metrics of several methods judged together, against each judged by itself, as one would without shared curves."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from saliency_bench.blocks import open_block, plan_blocks
from saliency_bench.encoded import Encoded
from saliency_bench.judge import judge_block
from saliency_bench.maps import AttributionMap
from saliency_bench.models.references import References

Entries = Mapping[str, Mapping[str, Any]]
Rows = list[dict[str, Any]]


def evaluation_contestants(
    refs: References,
    encoded: Sequence[Encoded],
    maps: Mapping[str, Sequence[AttributionMap]],
    metrics: Entries,
    removal: str,
    token_budget: int,
) -> dict[str, Callable[[], Rows]]:
    """Two ways to the same rows: `shared`, and `separate`.

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
    blocks = plan_blocks(encoded)

    def judged(own: References, settings: Sequence[str], entries: Entries) -> Rows:
        rows: Rows = []
        for block in blocks:
            items = [encoded[index] for index in block.indices]
            opened = open_block(own, items, "predicted", token_budget)
            asked = [maps[setting][index] for setting in settings for index in block.indices]
            rows += judge_block(opened, asked, entries, removal).rows
        return rows

    def shared() -> Rows:
        return judged(refs, list(maps), metrics)

    def separate() -> Rows:
        whole = References(refs.model, may_drop=False)
        return [
            row
            for setting in maps
            for name, entry in metrics.items()
            for row in judged(whole, [setting], {name: entry})
        ]

    return {"shared": shared, "separate": separate}
