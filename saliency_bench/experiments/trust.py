"""`saliency-bench trust`: which metrics prefer a ranking that is known to be right; conf/trust.yaml.

The models follow a shortcut that was put into each text, so its tokens come first in any right ranking; or they detect an
instruction that was planted in a prompt. Metrics evaluate that ranking and the same one with these tokens demoted, by every
removal operator (Chan et al. 2022 call the share of texts on which they prefer the first their diagnosticity; Bastings et al.
2022 made such models for methods). Words that people rated are a weaker truth: what a model uses need not be what they would.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import product
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import InputError, SaliencyBenchError
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.registry import REMOVALS
from saliency_bench.core.rows import OK
from saliency_bench.core.seeding import seed_of, token_hash
from saliency_bench.core.text import Encoded
from saliency_bench.core.units import TOKEN
from saliency_bench.evaluation.corruption import (
    CORRECT,
    CORRUPTIONS,
    as_scores,
    correct_ranking,
    corrupted,
)
from saliency_bench.evaluation.curves import OUTPUTS
from saliency_bench.evaluation.metrics import INFO, METRICS
from saliency_bench.evaluation.removal import fit_operator
from saliency_bench.evaluation.view import SIGNED, usual
from saliency_bench.experiments.reports import ROWS, of_trust, pack
from saliency_bench.experiments.scaffold import (
    Config,
    Experiment,
    ExperimentOptions,
    Outcome,
    Progress,
    computation,
    quiet,
)
from saliency_bench.experiments.trust_report import frame
from saliency_bench.experiments.trust_subjects import KINDS, SUBJECTS
from saliency_bench.models.model import Model
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import encode
from saliency_bench.studies.block import opened_blocks
from saliency_bench.studies.budget import resolve as resolve_budget
from saliency_bench.studies.evaluate import Entries, evaluate_block

Row = dict[str, Any]


@dataclass(frozen=True)
class ModelRows:
    """The rows of one model, and its facts."""

    name: str
    rows: Sequence[Row]
    facts: Mapping[str, Any]


def measure(options: ExperimentOptions, progress: Progress = quiet) -> Outcome:
    """Evaluates the known and the corrupted rankings on every configured model.

    Raises:
        InputError: a model is not shipped, or does not load.
        SaliencyBenchError: a worker could not start, or was killed.
    """
    config = options.config
    cells = [*product(config["kinds"], config["training_seeds"])]
    workers = min(int(config["workers"]), len(cells))
    threads = config["runtime"]["threads"] or max(1, torch.get_num_threads() // workers)
    of_models = (
        [_evaluate_model(config, threads, *cell, progress) for cell in cells]
        if workers == 1
        else _in_processes(config, threads, cells, workers, progress)
    )
    rows = [row for of_model in of_models for row in of_model.rows]
    if not rows:
        raise InputError(
            f"n_examples={config['n_examples']}: the models are right on none of these texts. Give more."
        )
    table, models = frame(rows), {of_model.name: dict(of_model.facts) for of_model in of_models}
    return Outcome(
        of_trust(table, models, options.resampling),
        {ROWS: pack(table)},
        {"models": models, "n_rows": len(rows)},
        computation(config["runtime"], threads=threads),
    )


def _in_processes(
    config: Config,
    threads: int,
    cells: Sequence[tuple[str, int]],
    workers: int,
    progress: Progress,
) -> list[ModelRows]:
    """Evaluates each model in a process of its own, `workers` at a time. An error or an interrupt ends all of them."""
    others = set(active_children())
    # A process that has used a GPU cannot be forked.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        waiting = [pool.submit(_evaluate_model, config, threads, *cell) for cell in cells]
        try:
            for done, finished in enumerate(as_completed(waiting), 1):
                progress(finished.result().name, done, len(cells))
        except BaseException as error:
            for child in set(active_children()) - others:
                child.terminate()
            if isinstance(error, BrokenProcessPool):
                raise SaliencyBenchError(
                    f"workers={workers}: a worker could not start or was killed, perhaps because memory ran out. Give fewer."
                ) from error
            raise
    return [finished.result() for finished in waiting]


def _evaluate_model(
    config: Config, threads: int, kind: str, training_seed: int, progress: Progress = quiet
) -> ModelRows:
    runtime = config["runtime"]
    progress("loading the model", 0, 0)
    torch.set_num_threads(threads)
    subject = SUBJECTS[config["model"]]
    model = subject.load(
        kind=kind,
        training_seed=training_seed,
        dtype=runtime["dtype"],
        device=runtime["device"],
        attention=runtime["attention"],
    )
    cell = {"kind": kind, "training_seed": training_seed}
    entries = {name: conf_files.metric_defaults(name) for name in config["metrics"]}
    # A token that the tokenizer lacks is replaced by another, which may be in the list too.
    fitted = [fit_operator(model, removal, "removals") for removal in config["removals"]]
    config = dict(config) | {"removals": list(dict.fromkeys(fitted))}
    encoded = [item for item in encode(model, subject.texts(kind, config)) if _can_be_demoted(item)]
    rows = [cell | row for row in evaluated(model, encoded, entries, config, progress)]
    n_judged = len({row["example_id"] for row in rows})
    return ModelRows(model.name, rows, cell | dict(model.facts) | {"n_judged": n_judged})


def _can_be_demoted(item: Encoded) -> bool:
    """Whether some of the ranked tokens of a text matter, and some do not."""
    assert item.relevant is not None
    ranked = [
        relevant
        for relevant, special in zip(item.relevant, item.special, strict=True)
        if not special
    ]
    return any(ranked) and not all(ranked)


def evaluated(
    model: Model,
    encoded: Sequence[Encoded],
    entries: Entries,
    config: Config,
    progress: Progress = quiet,
) -> Iterator[Row]:
    """The preference of every metric on every text on which the model's class is that of the shortcut."""
    budget = resolve_budget(config["runtime"]["token_budget"], model, [*map(len, encoded)])
    views = usual(config["removals"], TOKEN, config["output"], SIGNED)
    done, references = 0, References(model)
    with model.frozen():
        for _, block in opened_blocks(references, encoded, "predicted", budget):
            items = block.batch.encoded
            progress(model.name, done, len(encoded))
            done += len(items)
            maps = [
                rival
                for item, target in zip(items, block.targets.tolist(), strict=True)
                if target == item.gold
                for rival in rivals(item, target, config)
            ]
            yield from preferences(evaluate_block(block, maps, entries, views).rows, config["tie"])
        progress(model.name, len(encoded), len(encoded))


def rivals(item: Encoded, target: int, config: Config) -> list[AttributionMap]:
    """Maps of one text: the correct ranking, then each corrupted one."""
    assert item.relevant is not None
    ranked = np.flatnonzero(~np.array(item.special))
    relevant = np.array(item.relevant)[ranked]
    name = token_hash(item.input_ids)
    stream = np.random.default_rng(seed_of(CORRECT, config["seed"], name))
    rankings = {CORRECT: correct_ranking(relevant, stream)}
    for how in config["corruptions"]:
        stream = np.random.default_rng(seed_of(how, config["seed"], name))
        rankings[how] = corrupted(rankings[CORRECT], int(relevant.sum()), how, stream)
    like = AttributionMap(
        encoded=item,
        setting={},
        scores=np.zeros(len(item)),
        target=target,
        label=str(target),
        probability=float("nan"),  # of no use here
    )
    return [
        AttributionMap.from_scores(as_scores(ranked[ranking], len(item)), like, name=how)
        for how, ranking in rankings.items()
    ]


def preferences(rows: Sequence[Row], tie: float) -> Iterator[Row]:
    """Each value of a corrupted ranking against the known one's of the same text, metric and removal."""
    key = ("example_id", "metric", "removal")
    correct = {tuple(row[k] for k in key): row for row in rows if row["setting_id"] == CORRECT}
    for row in rows:
        if row["setting_id"] == CORRECT:
            continue
        place = tuple(row[k] for k in key)
        missing = [rival["reason"] for rival in (correct[place], row) if rival["status"] != OK]
        facts = dict(zip(key, place, strict=True)) | {"corruption": row["setting_id"]}
        if missing:
            yield facts | {"preferred": None, "reason": missing[0]}
        else:
            sign = 1 if row["higher_is_better"] else -1
            gain = sign * (correct[place]["value"] - row["value"])
            better = 0.5 if abs(gain) <= tie else float(gain > 0)
            yield facts | {"preferred": better, "reason": None}


def _check(config: Config) -> None:
    """Refuses a kind of truth that the model does not have, and metrics that prefer no ranking."""
    kinds = SUBJECTS[config["model"]].kinds
    for kind in config["kinds"]:
        if kind not in kinds:
            raise InputError(
                f"kinds: model={config['model']} has {', '.join(kinds)}, not {kind}. Give profile={config['model']}, which sets both."
            )
    for name in config["metrics"]:
        metric = conf_files.metric_defaults(name)["metric"]
        info = INFO[metric] if metric in METRICS else None
        if info is None or info.reads not in ("curve", "query") or info.higher_is_better is None:
            raise InputError(
                f"metrics: {name} removes nothing or has no direction, so that it prefers no ranking. Leave it out."
            )


EXPERIMENT = Experiment(
    name="trust",
    out=Path("results") / "metric_trust",
    measure=measure,
    choices={
        "kinds": lambda: KINDS,
        "model": lambda: SUBJECTS,
        "corruptions": lambda: CORRUPTIONS,
        "metrics": lambda: conf_files.names("metric"),
        "removals": REMOVALS.names,
        "output": lambda: OUTPUTS,
    },
    check=_check,
)
