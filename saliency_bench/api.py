"""The Python interface: attribute texts, and judge attributions."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from saliency_bench.attribution.backward.score import refuse_without_parts
from saliency_bench.attribution.methods import KINDS, METHODS, ONLY
from saliency_bench.attribution.noise import UNITS
from saliency_bench.attribution.settings import expand, has_backends, refuse_vanishing_sum
from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import InputError, unknown
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.rows import Setting, Target, as_list
from saliency_bench.core.text import Encoded
from saliency_bench.data.example import Example
from saliency_bench.evaluation.curves import OUTPUTS
from saliency_bench.evaluation.metrics import METRICS
from saliency_bench.evaluation.removal import fit_operator
from saliency_bench.evaluation.view import RANKINGS, hyperparameters, usual
from saliency_bench.models import references
from saliency_bench.models.heads import HEADS, SEQUENCE_CLASSIFICATION, TEXT_GENERATION
from saliency_bench.models.model import Model
from saliency_bench.models.preflight import inspect_texts
from saliency_bench.models.references import References
from saliency_bench.models.tasks import padding
from saliency_bench.models.tasks import sequence_classification as task
from saliency_bench.models.tasks.items import KEYS, TEXT, TEXT_PAIR, label_of
from saliency_bench.models.tasks.items import items as items_of
from saliency_bench.models.tasks.registry import questions, task_of
from saliency_bench.models.tasks.targets import ALL
from saliency_bench.models.tasks.task import At
from saliency_bench.study.block import Block, open_block, packing_for, plan_blocks
from saliency_bench.study.budget import resolve as resolve_budget
from saliency_bench.study.evaluate import judge_maps
from saliency_bench.study.prepare import fit_settings

if TYPE_CHECKING:
    import pandas as pd


@runtime_checkable
class Listable(Protocol):
    """Numbers or names in an array, a tensor or a column, or one of their elements."""

    def tolist(self) -> Any:
        """The same as Python's own."""


Targets = Target | Sequence[Any] | Listable
Inputs = str | Iterable[Any] | Dataset[Any]
Baseline = str | np.ndarray | Tensor


def attribute(
    model: Model,
    inputs: Inputs,
    method: str = "integrated_gradients",
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
    continuation: str | None = None,
    **hyperparameters: Any,
) -> list[AttributionMap]:
    """Attribution maps: one flat list, by input, then setting, then target, then question.

    What is asked of a text, what classes are and what may be removed depends on the model's task: docs/tasks.md.

    Args:
        model: from `load_model` or `wrap_model`; it is left as found. Threads that explain the same one take turns.
        inputs: texts, pairs of texts, mappings with `text` (and `text_pair`, `label`), (text, class number), already
            tokenised inputs (mappings with `input_ids`, ids alone, or these with labels or written tokens beside them),
            or a Dataset, Series or DataLoader of these, in batches too; of a table one column, as `frame["text"]`.
            A mapping may have whatever else the model's `forward` names (`position_ids`, `bbox`), and the rest is
            refused by name. Padding (where `attention_mask` is 0) is left out, unless the model's outputs depend on it:
            then a text is explained at the length given, its pads marked as special.
        method: see `saliency-bench list methods`.
        backend: "native" is ours, "captum" the same method through Captum.
        target: "predicted", "gold" (the label), "runner_up", a class by index or name, "all" (a map for each
            class), a contrast of two as a tuple (A, B) or "contrast:A|B" (the score of A minus that of B), or a list of
            these. Names of a tuple are taken as they are, numbers as numbers.
        labels: gold classes, one per input; those that tokenised inputs bring (`labels`) where None.
        output: the score that is explained: "logit" (where None), "probability", "log_probability" or
            "cross_entropy" of the target. A model with a criterion of its own has that alone.
        baseline: where paths start: mask, pad, unk, zero, mean, uniform, max_entropy, text:SOME WORDS,
            vector:FILE.npy, or the vector itself, one number per dimension of the embedding.
        reduction: from one vector per token to one number: l2, l1, sum or dot.
        seed: of the noise.
        token_budget: tokens per pass; bounds memory, changes no number beyond rounding. "auto" is measured once
            on a GPU, "calibrate" on a CPU too.
        progress: show a progress bar.
        at: where a text is asked about, in tasks that can be asked at several places: places of tokens, or words
            with a meaning in the task; each has a map of its own. None is the task's own choice.
        continuation: what follows each prompt, for a causal language model: each of its tokens has a map, of the
            prompt and of what stands before it; the same as giving pairs of prompt and continuation.
        **hyperparameters: the method's own. What is not given has the value in conf/method/. A list is an axis:
            one map per value, from one pass where the points are shared. `backward` says by which rule gradients are
            taken: plain, attnlrp, cp_lrp or gim, see docs/backward_rules.md.

    Raises:
        TypeError: the method has no such hyperparameter.
        InputError: an input, a name or a value is not usable.
    """
    given = {key: _plain(value) for key, value in hyperparameters.items()}
    plain: Any = map(_plain, (reduction, seed, at, labels, token_budget))
    reductions, seeds, places, gold, tokens = plain
    if isinstance(gold, str | int):  # of the only text
        gold = [gold]
    explained = _explained(model, output)
    if baseline is not None:
        given["baseline"] = baseline
    if continuation is not None:
        inputs = _continued(model, inputs, continuation)
    asked = _asked(target)
    found: dict[tuple[int, int, int, int], AttributionMap] = {}
    with model.frozen():
        texts = _encode_all(model, inputs, gold)
        placed = questions(model, texts, places)
        encoded = [question for _, question in placed]
        budget = _tokens_per_pass(tokens, model, encoded)
        refs = References(model)
        longest = max(map(len, encoded), default=1)
        settings = _settings(model, method, backend, reductions, seeds, explained, given, longest)
        findings = inspect_texts(model, encoded)
        targets = _targets(refs, encoded[0], asked, budget)
        for setting in settings:
            refuse_vanishing_sum(setting, findings.sum_vanishes)
        refuse_without_parts(model, settings, encoded[0])
        for block in track(plan_blocks(encoded, packing_for(model, budget)), progress):
            items = [encoded[index] for index in block.indices]
            for t, one in enumerate(targets):
                maps = open_block(refs, items, one, budget).explain([s.at(one) for s in settings])
                for s, of_setting in enumerate(maps.values()):
                    for index, made in zip(block.indices, of_setting, strict=True):
                        text = placed[index][0]
                        found[text, s, t, index] = made.at(text)
    return [found[key] for key in sorted(found)]


def _asked(target: Any) -> list[Target]:
    """The targets one by one, whole numbers of any type as Python's own.

    Raises:
        InputError: there is none, or one is neither a class by name or number nor a pair of these.
    """
    plain = _plain(target)
    listed = [*plain] if isinstance(plain, list | range) else [plain]
    if not listed:
        raise _no_target(target)
    return [_pair(one) if isinstance(one, tuple) else _class(one) for one in listed]


def _plain(value: Any) -> Any:
    """Numbers, rows and columns of numpy, torch and pandas as Python's own numbers and lists."""
    if isinstance(value, list | tuple):
        return (tuple if isinstance(value, tuple) else list)(map(_plain, value))
    return value.tolist() if hasattr(value, "tolist") else value


def _pair(asked: tuple[Any, ...]) -> Target:
    if len(asked) != 2:
        raise InputError(f"target={asked!r}: expected two classes, (A, B)")
    return _class(asked[0]), _class(asked[1])


def _class(asked: Any) -> str | int:
    if (
        isinstance(asked, list) and len(asked) == 1
    ):  # a row of one, as argmax of a batch of one gives
        (asked,) = asked
    if isinstance(asked, bool) or not isinstance(asked, str | int):
        raise _no_target(asked)
    return asked


def _no_target(asked: Any) -> InputError:
    return InputError(
        f"target={asked!r}: expected predicted, gold, runner_up, all, a class by index or name, a pair of classes, "
        "or a list of these"
    )


def _explained(model: Model, output: str | None) -> str:
    """The score that is explained: the output that was asked for, or the model's own criterion."""
    if model.criterion is None:
        return output or "logit"
    if output not in (None, task.CRITERION):
        raise InputError(
            f"output={output!r}: the model has a criterion of its own, whose negative is what is explained. Leave output "
            "out, or wrap the module without criterion="
        )
    return task.CRITERION


def _targets(
    refs: References, first: Encoded, asked: Sequence[Target], budget: int
) -> list[Target]:
    """The targets one by one, and every class where all are asked for."""
    found: list[Target] = []
    for one in asked:
        if one == ALL and HEADS[refs.model.task].named:
            found += range(open_block(refs, [first], "predicted", budget).logits.shape[-1])
        else:
            found.append(one)
    return found


def evaluate(
    model: Model,
    maps: Sequence[AttributionMap],
    metrics: str | Sequence[str] = ("srg", "comprehensiveness", "sufficiency"),
    *,
    removal: str | Sequence[str] = "mask",
    grid: str | Sequence[float] | Listable | None = None,
    output: str = "probability",
    granularity: str = "token",
    ranking: str = "signed",
    token_budget: int | str | None = None,
) -> "pd.DataFrame":
    """Judges maps by faithfulness metrics; every distinct question is asked of the model once.

    Args:
        model: the model that the maps explain.
        maps: from `attribute`, or `AttributionMap.from_scores`.
        metrics: names of entries in conf/metric/; see `saliency-bench list metrics`.
        removal: what stands in for removed tokens: mask, pad, unk, zero or mean; or attention (they are not
            attended to), or delete (the text closes up), or baseline (each map's own); a list gives a row for each. A token that the tokenizer
            lacks is replaced by the first of mask, pad and zero that it has, as the table's column says.
        grid: the fractions at which curve metrics are read: "eraser", "deciles", "full" or a list of fractions;
            each metric's own where None.
        output: what is read of the explained class: "probability", "log_probability" or "logit".
        granularity: what is ranked and removed as one: "token" or "word", whose score is the sum of its pieces'.
        ranking: by the scores ("signed") or by their magnitudes ("absolute").
        token_budget: tokens per pass.

    Returns:
        One row per map and metric: input_index, example_id, method, backend, setting_id, metric, removal, value,
        unit, higher_is_better, status, reason.
    """
    import pandas as pd

    names = [metrics] if isinstance(metrics, str) else metrics
    entries = {name: _metric_entry(name, grid) for name in names}
    if output not in OUTPUTS:
        raise unknown("output", output, list(OUTPUTS))
    if ranking not in RANKINGS:
        raise unknown("ranking", ranking, list(RANKINGS))
    removals = [removal] if isinstance(removal, str) else removal
    resolved = [fit_operator(model, one) for one in removals]
    for asked, used in zip(removals, resolved, strict=True):
        _warn_of(model, "removal", asked, used, stacklevel=3)
    views = usual(list(dict.fromkeys(resolved)), granularity, output, ranking)
    budget = _tokens_per_pass(token_budget, model, [one.encoded for one in maps])
    with model.frozen():
        rows = judge_maps(References(model), maps, entries, views, budget)
    return pd.DataFrame(rows, columns=EVALUATION_COLUMNS)


def _metric_entry(name: str, grid: Any) -> dict[str, Any]:
    """The entry of a metric in conf/metric/; of one from an installed package its name, and the grid."""
    known = conf_files.names("metric")
    entry = (
        {"metric": name}
        if name in METRICS.names() and name not in known
        else conf_files.metric_defaults(name)
    )
    declared = METRICS.hyperparameters(entry["metric"])
    if grid is not None and "grid" in declared:
        entry["grid"] = _plain(grid)
    METRICS.check(entry["metric"], hyperparameters(entry, declared), name)
    return entry


def _tokens_per_pass(asked: int | str | None, model: Model, encoded: Sequence[Encoded]) -> int:
    default = conf_files.runtime_defaults()["token_budget"]
    return resolve_budget(default if asked is None else asked, model, [*map(len, encoded)])


EVALUATION_COLUMNS = [
    "input_index", "example_id", "method", "backend", "setting_id", "metric", "removal", "value", "unit",
    "higher_is_better", "status", "reason",
]  # fmt: skip


def _encode_all(model: Model, inputs: Inputs, labels: Sequence[int | str] | None) -> list[Encoded]:
    """Every input tokenised, whatever its form."""
    items = items_of(inputs)
    if not items:
        raise InputError("inputs is empty: expected at least one text")
    if labels is not None and model.task != SEQUENCE_CLASSIFICATION:
        raise InputError(f"labels are of texts, and {model.task} has none: name a target")
    if labels is not None:  # by place: a Series would be asked by its index
        labels = labels.tolist() if hasattr(labels, "tolist") else [*labels]
    if labels is not None and len(labels) != len(items):
        raise InputError(f"labels: expected {len(items)}, one per input, got {len(labels)}")
    keep_pads = _padding_matters(model, items)
    encoded = [
        _encode_one(model, item, index, None if labels is None else labels[index], keep_pads)
        for index, item in enumerate(items)
    ]
    if cut := [index for index, item in enumerate(encoded) if item.truncated]:
        warnings.warn(
            f"inputs[{cut[0]}] is longer than {model.max_length} tokens and was cut ({len(cut)} in all)",
            stacklevel=3,
        )
    if unknown_words := task.mostly_unknown(model, encoded):
        warnings.warn(unknown_words, stacklevel=3)
    return encoded


def _padding_matters(model: Model, items: Sequence[Any]) -> bool:
    """Whether padding of ids is kept, since the model's outputs depend on it; tells of padding that no mask marks."""
    given = [
        (f"inputs[{index}]", item) for index, item in enumerate(items) if isinstance(item, Mapping)
    ]
    if unmarked := [where for where, item in given if padding.attended(model, item, where)]:
        warnings.warn(
            f"{unmarked[0]} is padded and has no attention_mask ({len(unmarked)} in all), so that the model reads the "
            "pads as it reads words: give a mapping with input_ids and attention_mask, or ids without padding",
            stacklevel=4,
        )
    return padding.matters(model, given)


def _continued(model: Model, inputs: Inputs, continuation: str) -> list[tuple[str, str]]:
    """Prompts and what follows them."""
    if model.task != TEXT_GENERATION:
        raise InputError(
            f"continuation= is for task={TEXT_GENERATION}; this model is for {model.task}"
        )
    prompts = items_of(inputs)
    if any(not isinstance(one, str) for one in prompts):
        raise InputError("continuation= follows prompts that are texts")
    return [(prompt, continuation) for prompt in prompts]


def _encode_one(
    model: Model, item: Any, index: int, label: int | str | None, keep_pads: bool
) -> Encoded:
    where = f"inputs[{index}]"
    if isinstance(item, Mapping):
        if label is None and model.task == SEQUENCE_CLASSIFICATION:
            label = label_of(item)
        if "input_ids" in item:
            return task.encoded_ids(model, item, str(index), label, where, keep_pads=keep_pads)
        item = _example(item, index, label, where)
        label = None
    if isinstance(item, Example):
        return task_of(model).encode(
            model, item if label is None else replace(item, label=label), "truncate"
        )
    if isinstance(item, str):
        text, pair = item, None
    elif (
        isinstance(item, tuple | list) and len(item) == 2 and all(isinstance(t, str) for t in item)
    ):
        text, pair = item
    else:
        flat = ", texts of batches as [text for batch in inputs for text in batch]"
        raise InputError(
            f"{where} is {type(item).__name__} ({item!r:.40}); expected a text, a pair of texts or a mapping with input_ids"
            f"{flat if isinstance(item, list | tuple | np.ndarray) else ''}"
        )
    example = Example(str(index), text, pair, label, source=where)
    return task_of(model).encode(model, example, "truncate")


def _example(item: Mapping[str, Any], index: int, label: int | str | None, where: str) -> Example:
    """The text of a row: one with `text`, and with nothing that would be left out.

    Raises:
        InputError: it has other columns, or `text` is no text.
    """
    text, pair = item.get(TEXT), item.get(TEXT_PAIR)
    if {*item} <= {*KEYS} and isinstance(text, str) and isinstance(pair, str | None):
        return Example(str(index), text, pair, label, source=where)
    named = next((key for key in item if isinstance(item[key], str)), TEXT)
    raise InputError(
        f"{where} has no input_ids; it has: {', '.join(map(str, item))}. Expected a mapping with input_ids, or with text "
        f"(and text_pair, label) alone. Give the texts themselves, as [row[{named!r}] for row in inputs], and classes "
        "as labels="
    )


def _settings(
    model: Model,
    method: str,
    backends: str | Sequence[str],
    reduction: str | Sequence[str] | None,
    seed: int | Sequence[int],
    output: str,
    given: dict[str, Any],
    longest: int,
) -> list[Setting]:
    """One setting per combination of axes, with what was not given taken from conf/method/."""
    shipped = conf_files.names("method")
    if method not in METHODS and method not in shipped:
        raise unknown("method", method, sorted({*METHODS.names(), *shipped}))
    name = method
    entry: dict[str, Any] = {"method": method}
    if name in shipped:
        entry = conf_files.method_defaults(name)
        method = entry["method"]
    if any(
        f"noise_{unit}" in given for unit in UNITS
    ):  # σ in another unit than the shipped entry's
        entry |= {f"noise_{unit}": None for unit in UNITS}
    entry |= given
    if "baseline" in given:
        entry["baseline"] = [
            references.resolve_baseline(model, one, f"method.{name}.baseline")
            if isinstance(one, np.ndarray | Tensor)
            else one
            for one in as_list(given["baseline"])
        ]
    if has_backends(method):
        entry["backend"] = backends
    if reduction is not None and KINDS[method] != "token":
        entry["reduction"] = reduction
    settings = expand({name: entry}, output=output, seed=seed)
    _warn_of_unused(method, backends, reduction)
    fitted, lacking = fit_settings(model, settings, longest)
    for said in dict.fromkeys(f"{one['source']}: {one['message']}" for one in lacking):
        warnings.warn(said, stacklevel=3)
    return fitted


def _warn_of(model: Model, key: str, asked: Any, used: str, stacklevel: int) -> None:
    """Tells that something stands in for what the model lacks."""
    if message := references.lacking(model, asked, used):
        warnings.warn(f"{key}={asked}: {message}", stacklevel=stacklevel)


def _warn_of_unused(
    method: str, backends: str | Sequence[str], reduction: str | Sequence[str] | None
) -> None:
    """Tells of what was asked for and has no say in this method."""
    if KINDS[method] != "token":
        return
    own = ONLY.get(method, "native")
    others = {backends} if isinstance(backends, str) else {*backends}
    if given := sorted(others - {"native", own}):
        warnings.warn(f"{method} has no backend {given[0]}: it is computed by {own}", stacklevel=4)
    if reduction not in (None, "none"):
        warnings.warn(
            f"{method} gives one number per token: reduction={reduction} changes nothing",
            stacklevel=4,
        )


def track(blocks: Sequence[Block], progress: bool) -> Iterable[Block]:
    """The blocks, behind a progress bar on standard error where one is wanted."""
    if not progress:
        return blocks
    from rich.console import Console
    from rich.progress import track as rich_track

    return rich_track(blocks, "attributing", console=Console(stderr=True))
