"""The Python interface: attribute texts, and judge attributions."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from saliency_bench import conf_files
from saliency_bench.attribution import captum
from saliency_bench.attribution.methods import KINDS, METHODS
from saliency_bench.blocks import open_block, plan_blocks
from saliency_bench.data.example import Example
from saliency_bench.encoded import Encoded
from saliency_bench.errors import InputError, unknown
from saliency_bench.judge import judge_maps
from saliency_bench.maps import AttributionMap
from saliency_bench.models import references
from saliency_bench.models.model import Model
from saliency_bench.models.preflight import inspect_model
from saliency_bench.models.references import References
from saliency_bench.registry import Registry
from saliency_bench.rows import Setting, expand_axes
from saliency_bench.tasks import sequence_classification as task

if TYPE_CHECKING:
    import pandas as pd

Targets = str | int | Sequence[str | int]
Inputs = str | Iterable[Any]


def attribute(
    model: Model,
    inputs: Inputs,
    method: str = "integrated_gradients",
    *,
    backend: str | Sequence[str] = "native",
    target: Targets = "predicted",
    labels: Sequence[int | str] | None = None,
    output: str = "logit",
    baseline: str | Sequence[str] | None = None,
    reduction: str | Sequence[str] | None = None,
    seed: int | Sequence[int] = 0,
    token_budget: int | None = None,
    progress: bool = False,
    **hyperparameters: Any,
) -> list[AttributionMap]:
    """Attribution maps: one flat list, by input, then setting, then target.

    Args:
        model: from `load_model` or `wrap_model`; it is left as found.
        inputs: texts, pairs of texts, already tokenised inputs (mappings with `input_ids`), or a Dataset of these.
        method: see `saliency-bench list methods`.
        backend: "native" is ours, "captum" the same method through Captum.
        target: "predicted", "gold" (with `labels`), a class by index or name, or a list of these.
        labels: gold classes, one per input.
        output: the score that is explained: "logit", "probability" or "log_probability" of the target.
        baseline: where paths start: mask, pad, unk, zero or mean.
        reduction: from one vector per token to one number: l2, l1, sum or dot.
        seed: of the noise.
        token_budget: tokens per pass; bounds memory, changes no number beyond rounding.
        progress: show a progress bar.
        **hyperparameters: the method's own. What is not given has the value in conf/method/. A list is an axis:
            one map per value, from one pass where the points are shared.

    Raises:
        TypeError: the method has no such hyperparameter.
        InputError: an input, a name or a value is not usable.
    """
    given = dict(hyperparameters)
    if baseline is not None:
        given["baseline"] = baseline
    encoded = _encode_all(model, inputs, labels)
    budget = token_budget or conf_files.runtime_defaults()["token_budget"]
    targets = list(target) if isinstance(target, list | tuple) else [target]
    found: dict[tuple[int, int, int], AttributionMap] = {}
    with model.frozen():
        refs = References(model)
        settings = _settings(model, method, backend, reduction, seed, output, given)
        _refuse_vanishing(model, settings, encoded)
        for block in _watched(plan_blocks(encoded), progress):
            items = [encoded[index] for index in block.indices]
            for t, one in enumerate(targets):
                maps = open_block(refs, items, one, budget).explain([s.at(one) for s in settings])
                for s, of_setting in enumerate(maps.values()):
                    for index, made in zip(block.indices, of_setting, strict=True):
                        found[index, s, t] = made.at(index)
    return [found[key] for key in sorted(found)]


def evaluate(
    model: Model,
    maps: Sequence[AttributionMap],
    metrics: Sequence[str] = ("srg", "comprehensiveness", "sufficiency"),
    *,
    removal: str = "mask",
    grid: str | Sequence[float] | None = None,
    output: str = "probability",
    token_budget: int | None = None,
) -> "pd.DataFrame":
    """Judges maps by faithfulness metrics; every distinct question is asked of the model once.

    Args:
        model: the model that the maps explain.
        maps: from `attribute`, or `AttributionMap.from_scores`.
        metrics: names of entries in conf/metric/; see `saliency-bench list metrics`.
        removal: what stands in for removed tokens: mask, pad, unk, zero or mean.
        grid: the fractions at which curve metrics are read: "eraser", "deciles", "full" or a list of fractions;
            each metric's own where None.
        output: what the curves show of the explained class: "probability".
        token_budget: tokens per pass.

    Returns:
        One row per map and metric: input_index, example_id, method, backend, setting_id, metric, removal, value,
        unit, higher_is_better, status, reason.
    """
    import pandas as pd

    entries = {name: conf_files.metric_defaults(name) for name in metrics}
    for entry in entries.values():
        if grid is not None and "grid" in entry:
            entry["grid"] = grid
    budget = token_budget or conf_files.runtime_defaults()["token_budget"]
    with model.frozen():
        rows = judge_maps(References(model), maps, entries, removal, output, budget)
    return pd.DataFrame(rows, columns=EVALUATION_COLUMNS)


EVALUATION_COLUMNS = [
    "input_index", "example_id", "method", "backend", "setting_id", "metric", "removal", "value", "unit",
    "higher_is_better", "status", "reason",
]  # fmt: skip
