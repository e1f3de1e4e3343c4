"""`saliency-bench trust`: which metrics prefer a ranking that is known to be right; conf/trust.yaml.

The models follow a shortcut that was put into each text, so its tokens come first in any right ranking. Metrics judge
that ranking and the same one with the shortcut demoted, by every removal operator (Chan et al. 2022 call the share of
texts on which they prefer the first their diagnosticity; Bastings et al. 2022 made such models for methods).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console

from saliency_bench.core import conf as conf_files
from saliency_bench.core import overrides, ranges
from saliency_bench.core.errors import InputError, SaliencyBenchError, one_of
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.registry import REMOVALS
from saliency_bench.core.rows import OK
from saliency_bench.core.seeding import seed_of, token_hash
from saliency_bench.core.text import Encoded
from saliency_bench.data import shortcuts
from saliency_bench.evaluation.corruption import (
    CORRUPTIONS,
    KNOWN,
    as_scores,
    known_ranking,
    spoilt,
)
from saliency_bench.evaluation.curves import OUTPUTS
from saliency_bench.evaluation.metrics import INFO, METRICS
from saliency_bench.evaluation.units import TOKEN
from saliency_bench.evaluation.view import SIGNED, Reading, usual
from saliency_bench.experiments.findings import of_trust
from saliency_bench.experiments.publish import publish, refuse_a_run
from saliency_bench.experiments.trust_report import frame
from saliency_bench.models import loading
from saliency_bench.models.model import Model
from saliency_bench.models.references import References
from saliency_bench.models.tasks import sequence_classification as task
from saliency_bench.report.stats import Resampling
from saliency_bench.study.block import opened_blocks
from saliency_bench.study.budget import check_budget
from saliency_bench.study.budget import resolve as resolve_budget
from saliency_bench.study.evaluate import judge_block

OUT = Path("results") / "metric_trust"
CONFIG = "trust"
SPLIT = "test"

Progress = Callable[[str, int, int], None]
Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What the command line gives; `config` is conf/trust.yaml with the overrides."""

    out: Path
    config: Mapping[str, Any]

    @property
    def resampling(self) -> Resampling:
        """How intervals are made."""
        one = self.config["statistics"]
        return Resampling(one["confidence"], one["n_resamples"], self.config["seed"])

    @property
    def entries(self) -> dict[str, dict[str, Any]]:
        """The metrics, as conf/metric/ has them."""
        return {name: conf_files.metric_defaults(name) for name in self.config["metrics"]}

    @property
    def workers(self) -> int:
        """Processes that judge; no more than there are models."""
        n_models = len(self.config["kinds"]) * len(self.config["training_seeds"])
        return min(int(self.config["workers"]), n_models)

    @property
    def threads(self) -> int:
        """Of each of them."""
        given: int | None = self.config["runtime"]["threads"]
        return given or max(1, torch.get_num_threads() // self.workers)

    @property
    def readings(self) -> list[Reading]:
        """How texts are looked at."""
        return usual(self.config["removals"], TOKEN, self.config["output"], SIGNED)


@dataclass(frozen=True)
class Outcome:
    """The rows (`rows.TRUST`), and what is known of each model by name."""

    rows: pd.DataFrame
    models: Mapping[str, Mapping[str, Any]]
    started: datetime


def options(words: Sequence[str]) -> Options:
    """The words of a command line, each `key=value`, a key within another as `statistics.confidence`, values in YAML.

    Raises:
        InputError: a word is none of these, or its value is not usable.
    """
    given = dict(overrides.pair(CONFIG, word) for word in words)
    out = Path(given.pop("out", OUT))
    config = conf_files.read("", CONFIG)
    config["runtime"] = conf_files.runtime_defaults() | config["runtime"]
    for key, value in given.items():
        overrides.put(config, key, value, CONFIG)
    _check(config)
    refuse_a_run(out)
    return Options(out, config)


@dataclass(frozen=True)
class Judged:
    """The rows of one model, and what is known of it."""

    name: str
    rows: Sequence[Row]
    facts: Mapping[str, Any]


def measure(chosen: Options, progress: Progress = lambda *_: None) -> Outcome:
    """Judges the known and the spoilt rankings on every configured model.

    Raises:
        InputError: a model is not shipped, or does not load.
        SaliencyBenchError: a worker could not start, or was killed.
    """
    started, config = datetime.now(UTC), chosen.config
    cells = [*product(config["kinds"], config["training_seeds"])]
    workers = chosen.workers
    found = (
        [_judge_model(chosen, kind, seed, progress) for kind, seed in cells]
        if workers == 1
        else _in_processes(chosen, cells, workers, progress)
    )
    rows = [row for one in found for row in one.rows]
    if not rows:
        raise InputError(
            f"n_examples={config['n_examples']}: the models follow the shortcut in none of these texts. Give more."
        )
    return Outcome(frame(rows), {one.name: one.facts for one in found}, started)


def _in_processes(
    chosen: Options, cells: Sequence[tuple[str, int]], workers: int, progress: Progress
) -> list[Judged]:
    """Each model in a process, so many at a time; in the order of `cells`. What ends it early ends all of them."""
    others = set(active_children())
    # A process that has used a GPU cannot be forked.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        asked = [pool.submit(_judge_model, chosen, *cell) for cell in cells]
        try:
            for done, one in enumerate(as_completed(asked), 1):
                progress(one.result().name, done, len(cells))
        except BaseException as error:
            for child in set(active_children()) - others:
                child.terminate()
            if isinstance(error, BrokenProcessPool):
                raise SaliencyBenchError(
                    f"workers={workers}: a worker could not start or was killed, perhaps because memory ran out. Give fewer."
                ) from error
            raise
    return [one.result() for one in asked]


def _judge_model(
    chosen: Options, kind: str, training_seed: int, progress: Progress = lambda *_: None
) -> Judged:
    runtime = chosen.config["runtime"]
    progress("loading the model", 0, 0)
    torch.set_num_threads(chosen.threads)
    model = loading.load_shortcuts(
        kind=kind,
        training_seed=training_seed,
        dtype=runtime["dtype"],
        device=runtime["device"],
        attention=runtime["attention"],
    )
    of_model = {"kind": kind, "training_seed": training_seed}
    found = judged(model, _texts(model, kind, chosen.config), chosen, progress)
    rows = [of_model | row for row in found]
    n_judged = len({row["example_id"] for row in rows})
    return Judged(model.name, rows, dict(model.facts) | {"n_judged": n_judged})


def _texts(model: Model, kind: str, config: Mapping[str, Any]) -> list[Encoded]:
    examples = shortcuts.load(
        kind=kind,
        split=SPLIT,
        seed=config["seed"],
        n_examples=config["n_examples"],
        share=1.0,
        incomplete=0.0,
    )
    return task.encode(model, examples)


def judged(
    model: Model,
    encoded: Sequence[Encoded],
    chosen: Options,
    progress: Progress = lambda *_: None,
) -> Iterator[Row]:
    """What every metric prefers on every text on which the model says what the shortcut does."""
    budget = resolve_budget(chosen.config["runtime"]["token_budget"], model, [*map(len, encoded)])
    entries, readings, tie = chosen.entries, chosen.readings, chosen.config["tie"]
    done, refs = 0, References(model)
    with model.frozen():
        for _, block in opened_blocks(refs, encoded, "predicted", budget):
            items = block.batch.encoded
            progress(model.name, done, len(encoded))
            done += len(items)
            said = zip(items, block.targets.tolist(), strict=True)
            maps = [
                rival
                for item, target in said
                if target == item.gold
                for rival in rivals(item, target, chosen.config)
            ]
            yield from preferences(judge_block(block, maps, entries, readings).rows, tie)
        progress(model.name, len(encoded), len(encoded))


def rivals(item: Encoded, target: int, config: Mapping[str, Any]) -> list[AttributionMap]:
    """Maps of one text: the known ranking, then each spoilt one."""
    assert item.relevant is not None
    ranked = np.flatnonzero(~np.array(item.special))
    relevant = np.array(item.relevant)[ranked]
    name = token_hash(item.input_ids)
    own = known_ranking(relevant, np.random.default_rng(seed_of(KNOWN, config["seed"], name)))
    rankings = {KNOWN: own}
    for how in config["corruptions"]:
        stream = np.random.default_rng(seed_of(how, config["seed"], name))
        rankings[how] = spoilt(own, int(relevant.sum()), how, stream)
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
    """Each value of a spoilt ranking against the known one's of the same text, metric and removal."""
    key = ("example_id", "metric", "removal")
    known = {tuple(row[k] for k in key): row for row in rows if row["setting_id"] == KNOWN}
    for row in rows:
        if row["setting_id"] == KNOWN:
            continue
        place = tuple(row[k] for k in key)
        missing = [one["reason"] for one in (known[place], row) if one["status"] != OK]
        found = dict(zip(key, place, strict=True)) | {"corruption": row["setting_id"]}
        if missing:
            yield found | {"preferred": None, "reason": missing[0]}
        else:
            sign = 1 if row["higher_is_better"] else -1
            gain = sign * (known[place]["value"] - row["value"])
            better = 0.5 if abs(gain) <= tie else float(gain > 0)
            yield found | {"preferred": better, "reason": None}


def conclude(
    chosen: Options, outcome: Outcome, command: Sequence[str], console: Console | None = None
) -> None:
    """Writes rows, tables, figures and the manifest, and prints what was found."""
    rows, models = outcome.rows, outcome.models
    found = of_trust(rows, models, chosen.resampling)
    publish(
        *(found, rows, models, chosen.out, chosen.config, command, outcome.started, console),
        threads=chosen.threads,
    )


def _check(config: Mapping[str, Any]) -> None:
    """Refuses names that nothing has and numbers that make no sense."""
    known: dict[str, Sequence[str]] = {
        "kinds": shortcuts.KINDS,
        "corruptions": list(CORRUPTIONS),
        "metrics": conf_files.names("metric"),
        "removals": REMOVALS.names(),
    }
    for key, names in known.items():
        for one in config[key]:
            one_of(key, one, names)
    one_of("output", config["output"], OUTPUTS)
    one_of("runtime.dtype", config["runtime"]["dtype"], loading.DTYPES)
    check_budget(config["runtime"]["token_budget"], "runtime.token_budget")
    for key in (*known, "training_seeds"):
        if repeated := [one for one in config[key] if config[key].count(one) > 1]:
            raise InputError(f"{key} lists {repeated[0]!r} twice. Remove one.")
    ranges.check(config)
    metrics = {name: conf_files.metric_defaults(name)["metric"] for name in config["metrics"]}
    for name, metric in metrics.items():
        info = INFO[metric] if metric in METRICS else None
        if info is None or info.reads not in ("curve", "inquiry") or info.higher_is_better is None:
            raise InputError(
                f"metrics: {name} removes nothing or has no direction, so that it prefers no ranking. Leave it out."
            )
