"""A whole study of ours against the same study written by hand: first that results are equal, then time, in pairs.

There are two studies by hand: careful.py, as good as one can write it in two hundred lines, and typical.py. Each run
loads model and data, explains, evaluates, and writes a table of means; ours and the careful one give them intervals by the
same bootstrap. No report is made. The convergence check of a study, which the scripts lack, is switched off.
"""

import json
import os
import shlex
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from benchmarks.study import careful, inputs, typical
from benchmarks.study.equality import (
    Equality,
    Outcome,
    Tolerances,
    check_summaries,
    equality,
    outcome_by_hand,
    outcome_of_run,
)
from benchmarks.study.tables import (
    CAREFUL,
    CONTESTANTS,
    FEWER,
    OURS,
    agreement_table,
    equality_table,
    ratios_table,
    seconds_table,
)
from saliency_bench.attribution.methods import METHODS
from saliency_bench.attribution.methods.base import Expectation
from saliency_bench.attribution.points import NoiseCloud
from saliency_bench.core.errors import InputError, unknown
from saliency_bench.core.rows import Setting
from saliency_bench.models.references import References
from saliency_bench.report.formats import to_csv, to_markdown
from saliency_bench.report.stats import Resampling, summarize
from saliency_bench.store.durable import replace_file
from saliency_bench.store.manifest import collect, portable
from saliency_bench.store.run import MANIFEST, Run, read_run, write_json
from saliency_bench.studies import run as runner
from saliency_bench.studies.block import open_block
from saliency_bench.studies.prepare import Study, prepare
from saliency_bench.studies.timing import measure, running_order, synchronizer

#: From so many texts on, no resample is likely to be the texts themselves in another order (10^4 n! / n^n < 10^-3).
#: Of fewer, rounding decides on which side of the mean it counts, and intervals differ in their fifth digit.
N_DISTINCT = 20

#: What is timed: processor, the seconds of this process, in which what else the machine does counts for neither side.
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}

SECONDS = "seconds.jsonl"
REQUEST = "asked.json"
SUMMARY, LOAD = "summary", "load"

#: The configuration of a study from overrides, and its settings.
Compose = Callable[[Sequence[str]], tuple[Any, Sequence[Setting]]]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What is compared: on the first `n` sentences, `pairs` times; equality is first checked on `n_checked`."""

    out: Path
    n: int
    n_checked: int
    pairs: int
    contestants: tuple[str, ...]
    draws: (
        str  # ours: the scripts are handed our noise and random rankings; own: they draw their own
    )
    fewer: tuple[str, ...]  # overrides of the contestant with fewer gradients
    clock: str = "wall"  # one of CLOCKS

    def __post_init__(self) -> None:
        for name in self.contestants:
            if name not in CONTESTANTS:
                raise unknown("contestant", name, list(CONTESTANTS))
        if self.draws not in ("ours", "own"):
            raise unknown("draws", self.draws, ["ours", "own"])
        if OURS not in self.contestants or self.pairs < 1 or not 1 <= self.n_checked <= self.n:
            raise InputError(
                f"expected {OURS} among the contestants, pairs >= 1 and 1 <= n_checked <= n, "
                f"got {', '.join(self.contestants)}, {self.pairs}, {self.n_checked}, {self.n}"
            )


def compare(compose: Compose, request: Request, command: Sequence[str], say: Say = print) -> None:
    """Checks, times and writes three tables, a page with two of them and the manifest to `request.out`.

    All is written after each repeat. A comparison that was stopped goes on where it was: whole repeats are kept.

    Raises:
        ValidationError: a contestant's results are not ours; it is not timed then.
        InputError: the folder holds another comparison.
    """
    started = datetime.now(UTC)
    sizes = _claimed(request)
    entrants = Entrants(compose, request, sizes, request.n)
    few = Entrants(compose, request, sizes, request.n_checked)
    for name, run in few.runs().items():
        run()
        say(f"checked: {name}")
    differences = _compared(few)
    seconds = _kept(request.out / SECONDS, request.contestants)
    for repeat in range(len(seconds[OURS]), request.pairs):
        _time(entrants, repeat, seconds, request.out / SECONDS, say)
        differences = _compared(entrants)  # what was timed is compared too
        _write(entrants, differences, seconds, command, started)
    if not entrants.results:  # an earlier call has done all repeats
        _write(entrants, differences, seconds, command, started)


class Entrants:
    """The contestants on the first n sentences; `results` keeps what each run gave last."""

    def __init__(self, compose: Compose, request: Request, sizes: careful.Sizes, n: int) -> None:
        base = [f"n_examples={n}", "timing.enabled=false", "convergence.n_examples=0"]
        self.request, self.sizes, self.n = request, sizes, n
        self.config, self.settings = compose(base)
        self.fewer = compose([*base, *request.fewer])
        self.study = prepare(self.config, self.settings)
        self.draws = inputs.Draws(*our_draws(self.study)) if request.draws == "ours" else None
        self.results: dict[str, Any] = {}

    def runs(self) -> dict[str, Callable[[], None]]:
        """One function per contestant that does the whole study."""
        return {name: self._runner(name) for name in self.request.contestants}

    def _runner(self, name: str) -> Callable[[], None]:
        def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                self.results[name] = self._run(name, Path(folder))

        return run

    def _run(self, name: str, folder: Path) -> Any:
        if name == OURS:
            return _run_ours(self.config, self.settings, folder / "run")
        if name == FEWER:
            return _run_ours(*self.fewer, folder / "run")
        classifier, texts = inputs.load(self.n)
        if name == CAREFUL:
            results = careful.study(classifier, texts, self.sizes, self.draws)
            table = careful.summary(results.values)
        else:
            results = typical.study(classifier, texts, self.draws)
            table = results.values.pivot_table("value", "method", "metric", sort=False)
        table.to_csv(folder / "means.csv")
        return texts, results

    def outcome(self, name: str) -> Outcome:
        """What the contestant gave last, in one form for all."""
        if name in (OURS, FEWER):
            return outcome_of_run(self.results[name])
        return outcome_by_hand(*self.results[name])


def _run_ours(config: Any, settings: Sequence[Setting], folder: Path) -> Run:
    run = read_run(runner.run(replace(config, out=str(folder)), settings, ["compare_study"]))
    summary = summarize(run.tables["rows"], Resampling.of(run.manifest))
    summary.to_csv(folder / "means.csv")
    return replace(run, tables=dict(run.tables) | {SUMMARY: summary})  # the folder does not stay


def our_draws(
    study: Study,
) -> tuple[list[torch.Tensor], list[Float[np.ndarray, "N _"]]]:
    """Of each text, the noise [S T D] of the study's SmoothGrad and the scores of its random rankings."""
    (smoothgrad,) = [one for one in study.settings if one.method == "smoothgrad"]
    (random,) = [one for one in study.settings if one.method == "random"]
    refs, noise, scores = References(study.model), [], []
    with study.model.frozen():
        for item in study.encoded:
            block = open_block(refs, [item], study.config.target, study.config.runtime.token_budget)
            plan = METHODS.call(
                "smoothgrad", block.context(smoothgrad.output, smoothgrad.seed), smoothgrad.hyper
            )
            assert isinstance(plan, Expectation)
            assert isinstance(plan.points, NoiseCloud)
            nodes = [node for sample in range(plan.draws.n) for node, _ in plan.sample(sample)]
            noise.append(plan.points.shift(torch.zeros(len(nodes), dtype=torch.long), nodes))
            (one,) = block.explain([random])[random.id]
            assert one.draws is not None
            scores.append(one.draws)
    return noise, scores


def _compared(entrants: Entrants) -> list[Equality]:
    """Everything that the contestants gave last against what ours did."""
    run = entrants.results[OURS]
    ours, tolerances = entrants.outcome(OURS), Tolerances(run)
    if entrants.n >= N_DISTINCT:
        check_summaries(run.tables[SUMMARY], careful.summary(ours.values), run.settings)
    drawn = ("smoothgrad", "random") if entrants.draws is None else ()
    return [
        row
        for name in entrants.results
        if name != OURS
        for row in equality(
            ours,
            entrants.outcome(name),
            tolerances,
            name,
            ("integrated_gradients",) if name == FEWER else drawn,
        )
    ]


# Time


def _time(
    entrants: Entrants, repeat: int, seconds: dict[str, list[float]], path: Path, say: Say
) -> None:
    """Adds a repeat to `seconds` and to the file."""
    runs = entrants.runs()
    measured = measure(
        {name: runs[name] for name in running_order(list(runs), repeat)},
        n_repeats=1,
        n_warmup=0,
        synchronize=synchronizer("cpu"),
        clock=CLOCKS[entrants.request.clock],
    )
    line = {name: measured[name][0] for name in runs}
    say(f"repeat {repeat + 1}: " + ", ".join(f"{name} {s:.1f} s" for name, s in line.items()))
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line | {LOAD: os.getloadavg()[0]}) + "\n")
    for name, value in line.items():
        seconds[name].append(value)


def _kept(path: Path, contestants: Sequence[str]) -> dict[str, list[float]]:
    """The repeats of an earlier call."""
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    repeats = [json.loads(line) for line in lines]
    return {name: [repeat[name] for repeat in repeats] for name in contestants}


def _claimed(request: Request) -> careful.Sizes:
    """The sizes of the careful study, tuned once; the folder is this comparison's from then on."""
    path = request.out / REQUEST
    wanted = {key: value for key, value in asdict(request).items() if key not in ("out", "pairs")}
    wanted = json.loads(json.dumps(wanted)) | {"threads": torch.get_num_threads()}
    if path.is_file():
        held = json.loads(path.read_text("utf-8"))
        sizes = careful.Sizes(**held.pop("sizes"))
        if held != wanted:
            raise InputError(f"{request.out} holds another comparison. Give another folder.")
        return sizes
    sizes = careful.Sizes(texts=1, tokens=2048)
    if CAREFUL in request.contestants:
        sizes = careful.tune(*inputs.load(request.n), CLOCKS[request.clock])
    request.out.mkdir(parents=True, exist_ok=True)
    write_json(path, wanted | {"sizes": asdict(sizes)})
    return sizes


# What is written


def _write(
    entrants: Entrants,
    differences: Sequence[Equality],
    seconds: Mapping[str, Sequence[float]],
    command: Sequence[str],
    started: datetime,
) -> None:
    request = entrants.request
    tables = [ratios_table(seconds, entrants.n), agreement_table(differences)]
    for table in (tables[0], equality_table(differences), seconds_table(seconds)):
        replace_file(request.out / f"{table.name}.csv", to_csv(table).encode())
    who = "".join(f"- `{name}`: {CONTESTANTS[name]}\n" for name in request.contestants)
    clock = f"Seconds are those of the {'wall clock' if request.clock == 'wall' else 'processor, of one thread'}.\n"
    text = "\n".join(["# A whole study, ours and by hand\n", who, clock, *map(to_markdown, tables)])
    replace_file(request.out / "comparison.md", text.encode())
    config = entrants.study.config
    computation = {
        "device": "cpu",
        "dtype": config.runtime.dtype,
        "threads": torch.get_num_threads(),
        "token_budget": config.runtime.token_budget,
        "attention": config.runtime.attention,
    }
    provenance = collect(computation, command=command, started=started, ended=datetime.now(UTC))
    about = {
        "name": "study_comparison",
        "command": portable(shlex.join(command)),
        "asked": asdict(request) | {"out": None},
        "sizes_by_hand": asdict(entrants.sizes),
        "load_after_each_repeat": _kept(request.out / SECONDS, [LOAD])[LOAD],
        "sentences": [item.example_id for item in entrants.study.encoded],
        "lengths": [len(item) for item in entrants.study.encoded],
        "settings": [setting.to_dict() for setting in entrants.settings],
        "model": entrants.study.identity["model"],
        "convergence_check": "off for both",
        "report": "not made by either",
    }
    write_json(request.out / MANIFEST, about | provenance)
