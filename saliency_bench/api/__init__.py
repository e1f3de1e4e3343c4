"""The Python interface: attribute texts, and evaluate attributions.

`inputs` of `attribute` are texts, pairs of texts, (text, class number), mappings with `text` (and `text_pair`,
`label`, `options`, `segments`), chats (lists of messages with `role`, `content` and maybe `segments`, or mappings with
`messages`), already tokenised inputs (mappings with `input_ids`, ids alone, or these with labels or written tokens
beside them), or a Dataset, DataFrame, Series or DataLoader of these, in batches too. A warning names the fields of texts
that are not used; of a table without a column `text` give one column, as `frame["film"]`. A tokenised input may have
whatever else the model's `forward` names (`position_ids`, `bbox`); other keys are refused by name. Padding
(where `attention_mask` is 0) is left out, unless the model's outputs depend on it: then a text is explained at the
length given, and its pads are marked as special.

`target` is "predicted", "gold" (the label), "runner_up", a class by index or name, "all" (a map for each class), a
contrast of two as a tuple (A, B) or "contrast:A|B" (the score of A minus that of B), or a list of these. In a tuple
texts are names and numbers are indices.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress

from saliency_bench.api.arguments import (
    Baseline,
    Listable,
    Targets,
    each_target,
    fitted_removals,
    metric_entry,
    named,
    output_of,
    plain,
    plain_targets,
    settings_of,
    tokens_per_pass,
    with_hyperparameters,
    with_replacements,
)
from saliency_bench.api.inputs import Inputs, as_maps, as_model, continued, encode_all
from saliency_bench.attribution.backward.score import refuse_without_parts
from saliency_bench.attribution.settings import refuse_vanishing_sum
from saliency_bench.core.errors import InputError, is_out_of_memory, one_of
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.method_facts import BACKWARD_PARTS
from saliency_bench.core.rows import Setting, Target
from saliency_bench.core.text import Encoded
from saliency_bench.evaluation.curves import OUTPUTS
from saliency_bench.evaluation.removal import replacing_tokens
from saliency_bench.evaluation.view import RANKINGS, usual
from saliency_bench.models.intake import FAILURES
from saliency_bench.models.model import Model
from saliency_bench.models.preflight import inspect_texts
from saliency_bench.models.references import References
from saliency_bench.models.remembered import preflight_of
from saliency_bench.models.tasks.registry import questions
from saliency_bench.models.tasks.task import At
from saliency_bench.studies.block import explain_texts
from saliency_bench.studies.evaluate import evaluate_maps

if TYPE_CHECKING:
    import pandas as pd

EVALUATION_COLUMNS = [
    "input_index", "example_id", "method", "backend", "setting_id", "metric", "removal", "replaced_by",
    "value", "unit", "higher_is_better", "status", "reason",
]  # fmt: skip


def attribute(
    model: Any,
    inputs: Inputs,
    method: str | Sequence[str] = "integrated_gradients",
    *,
    backend: str | Sequence[str] = "native",
    target: Targets = "predicted",
    labels: int | str | Sequence[Any] | Listable | None = None,
    output: str | None = None,
    baseline: Baseline | Sequence[Baseline] | None = None,
    reduction: str | Sequence[str] | Listable | None = None,
    seed: int | Sequence[Any] | Listable = 0,
    token_budget: int | str | Listable | None = None,
    progress: bool = False,
    at: At | Listable = None,
    continuation: str | Sequence[str] | None = None,
    **hyperparameters: Any,
) -> list[AttributionMap]:
    """Attribution maps: one flat list, by input, then setting, then target, then question (docs/tasks.md).

    Args:
        model: from `load_model` or `wrap_model`, or what `load_model` takes, such as a pipeline; it is left as found.
            Threads that explain the same one take turns.
        inputs: texts, pairs, mappings, ids, or a Dataset or DataLoader of these; all forms: help(saliency_bench.api).
        method: see `saliency_bench.methods()`; of several, each gets those of the hyperparameters that it has.
        backend: "native" is ours, "captum" the same method through Captum.
        target: "predicted", "gold", "runner_up", "all", a class, a pair of classes, or a list of these.
        labels: gold classes (or options), one per input; those that the inputs bring (`labels`) where None.
        output: what is explained: "logit" (where None), "probability", "log_probability" or "cross_entropy" of the
            target. A model with a criterion of its own has that alone.
        baseline: where paths start: mask, pad, unk, zero, mean, uniform, max_entropy, text:SOME WORDS,
            vector:FILE.npy, or the vector itself, one number per dimension of the embedding.
        reduction: from one vector per token to one number: l2, l1, sum or dot.
        seed: of the noise.
        token_budget: tokens per pass; bounds memory. "auto" is measured once on a GPU, "calibrate" on a CPU too.
        progress: show a progress bar.
        at: which tokens a text is asked about, by place, or in words that have a meaning in the task.
        continuation: what follows each prompt of a causal language model; each of its tokens has a map, or with
            at="sum" or "mean" (of their log-probabilities) all of them together. Of several, each is a class (`target`).
        **hyperparameters: the method's own, by default as in conf/method/. A list is an axis: one map per value.
            `backward` is the rule by which gradients are taken: plain, attnlrp, cp_lrp or gim (docs/backward_rules.md).

    Raises:
        TypeError: the method has no such hyperparameter.
        InputError: an input, a name or a value is not usable.
    """
    model = as_model(model)
    hyper = {key: plain(value) for key, value in hyperparameters.items()}
    hyper |= {} if baseline is None else {"baseline": baseline}
    targets, explained = plain_targets(target), output_of(model, output)
    if continuation is not None:
        inputs = continued(model, inputs, continuation)
    with model.frozen():
        numbered = questions(model, encode_all(model, inputs, plain(labels)), plain(at))
        encoded = [question for _, question in numbered]
        budget = tokens_per_pass(plain(token_budget), model, encoded)
        axes = {"backend": backend, "reduction": plain(reduction), "seed": plain(seed)}
        methods = [method] if isinstance(method, str) else [*method]
        settings = settings_of(model, methods, hyper, explained, max(map(len, encoded)), **axes)
        return _maps(model, numbered, settings, targets, budget, progress)


def _maps(
    model: Model,
    numbered: Sequence[tuple[int, Encoded]],
    settings: Sequence[Setting],
    targets: Sequence[Target],
    budget: int,
    progress: bool,
) -> list[AttributionMap]:
    """The maps of all questions, each of which comes with the number of its input."""
    encoded = [question for _, question in numbered]
    report, recalled = preflight_of(model, encoded)
    for setting in settings:
        refuse_vanishing_sum(setting, report.sum_vanishes)
    refs = References(model)
    refs.cache[BACKWARD_PARTS] = refuse_without_parts(model, settings, encoded[0])
    try:
        maps = _explained(refs, numbered, settings, targets, budget, progress)
    except FAILURES as error:
        if recalled and not isinstance(error, InputError) and not is_out_of_memory(error):
            inspect_texts(model, encoded)  # says it in a sentence
        raise
    if recalled and not any(_is_informative(map_) for map_ in maps):
        inspect_texts(model, encoded)
    return maps


def _is_informative(map_: AttributionMap) -> bool:
    """Whether a map has scores that are numbers and not all 0."""
    return math.isfinite(map_.probability) and map_.finite and bool(map_.scores.any())


def _explained(
    refs: References,
    numbered: Sequence[tuple[int, Encoded]],
    settings: Sequence[Setting],
    targets: Sequence[Target],
    budget: int,
    progress: bool,
) -> list[AttributionMap]:
    """The maps of all questions by input, setting, target and question; the model has passed its preflight."""
    inputs, encoded = zip(*numbered, strict=True)
    targets = each_target(refs, encoded[0], targets, budget)
    maps: dict[tuple[int, int, int, int], AttributionMap] = {}
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("attributing", total=len(targets) * len(encoded))
        for t, target in enumerate(targets):
            of_target = [setting.at(target) for setting in settings]
            explained = explain_texts(
                refs, encoded, of_target, target, budget, lambda n: bar.advance(task, n)
            )
            for s, of_setting in enumerate(explained):
                for q, (text, map_) in enumerate(zip(inputs, of_setting, strict=True)):
                    maps[text, s, t, q] = map_.at(text)
    return [maps[key] for key in sorted(maps)]


def evaluate(
    model: Any,
    maps: AttributionMap | Iterable[AttributionMap],
    metrics: str | Sequence[str] = ("srg", "comprehensiveness", "sufficiency"),
    *,
    removal: str | Sequence[str] = "mask",
    grid: str | Sequence[float] | Listable | None = None,
    output: str = "probability",
    granularity: str = "token",
    ranking: str = "signed",
    token_budget: int | str | None = None,
) -> "pd.DataFrame":
    """Evaluates maps by faithfulness metrics; every distinct question is asked of the model once.

    Args:
        model: the model that the maps explain, as `attribute` takes it.
        maps: from `attribute`, or `AttributionMap.from_scores`.
        metrics: names of entries in conf/metric/; see `saliency-bench list metrics`.
        removal: what stands in for removed tokens: mask, pad, unk, zero or mean; or attention (they are not
            attended to), delete (the text closes up), or baseline (each map's own); a list gives a row for each.
            A token that the tokenizer lacks is replaced by the first of mask, pad and zero that it has; the column
            `replaced_by` has the token.
        grid: the fractions at which curve metrics are read: "eraser", "deciles", "full" or a list of fractions;
            each metric's own where None.
        output: what is read of the explained class: "probability", "log_probability" or "logit".
        granularity: what is ranked and removed as one: "token", or "word", "sentence" or "segment" (the stretches that
            came with a text, the messages of a chat), whose score is the sum of its tokens'.
        ranking: by the scores ("signed") or by their magnitudes ("absolute").
        token_budget: tokens per pass.

    Returns:
        One row per map and metric: input_index, example_id, method, backend, setting_id, metric, removal,
        replaced_by, value, unit, higher_is_better, status, reason, and a column for each hyperparameter in which the
        maps of a method differ.

    Raises:
        InputError: a name or a value is not usable.
    """
    import pandas as pd

    model, maps = as_model(model), as_maps(maps)
    entries = {name: metric_entry(name, grid) for name in named("metrics", metrics, "srg")}
    one_of("output", output, OUTPUTS)
    one_of("ranking", ranking, RANKINGS)
    removals = fitted_removals(model, named("removal", removal, "mask"))
    budget = tokens_per_pass(token_budget, model, [map_.encoded for map_ in maps])
    with model.frozen():
        views = usual(removals, granularity, output, ranking)
        rows = evaluate_maps(References(model), maps, entries, views, budget)
    settings = [*{map_.setting["setting_id"]: map_.setting for map_ in maps}.values()]
    table = pd.DataFrame(rows, columns=EVALUATION_COLUMNS)
    tokens = replacing_tokens(model)
    return with_hyperparameters(
        with_replacements(table, table["removal"], settings, tokens), settings
    )
