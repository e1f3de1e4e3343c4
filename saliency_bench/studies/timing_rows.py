"""The time and memory that each setting takes to explain texts, from token ids to token scores."""

from collections.abc import Callable, Sequence
from typing import Any

from saliency_bench.core.rows import Setting
from saliency_bench.core.text import Encoded
from saliency_bench.models.references import References
from saliency_bench.studies.block import opened_blocks
from saliency_bench.studies.memory import peak_memory
from saliency_bench.studies.timing import measure, synchronizer


def timing_rows(
    refs: References,
    encoded: Sequence[Encoded],
    settings: Sequence[Setting],
    *,
    n_repeats: int,
    n_warmup: int,
    token_budget: int,
) -> list[dict[str, Any]]:
    """One row per setting and repeat; the repeats of all settings are interleaved.

    A setting is timed alone: it shares nothing with the others, and every block's clean pass is its own. Each
    backend gets the same blocks and the same token budget. Peak memory is taken in a pass of its own, since
    measuring it takes time. The model must be frozen.
    """
    device = refs.model.device
    runs = {setting.id: explainer(refs, encoded, setting, token_budget) for setting in settings}
    synchronize = synchronizer(device)
    seconds = measure(runs, n_repeats=n_repeats, n_warmup=n_warmup, synchronize=synchronize)
    rows = []
    for setting in settings:
        with peak_memory(device) as peak:
            n_gradients = runs[setting.id]()
            synchronize()
        rows += [
            {
                "setting_id": setting.id,
                "repeat": repeat,
                "seconds": duration,
                "n_examples": len(encoded),
                "n_tokens": sum(map(len, encoded)),
                "n_gradients": n_gradients,
                "peak_bytes": peak.peak_bytes,
                "device": device.type,
            }
            for repeat, duration in enumerate(seconds[setting.id])
        ]
    return rows


def explainer(
    refs: References, encoded: Sequence[Encoded], setting: Setting, token_budget: int
) -> Callable[[], int]:
    """A function that explains all texts under one setting and returns the number of gradients."""

    def run() -> int:
        n_gradients = 0
        for _, block in opened_blocks(refs, encoded, setting.target, token_budget, [setting]):
            (maps,) = block.explain([setting]).values()
            n_gradients += sum(map_.n_gradients for map_ in maps)
        return n_gradients

    return run
