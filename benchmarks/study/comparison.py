"""A whole study of ours against the same study written by hand: first that results are equal, then time, in pairs.

The study by hand is a script of its own (benchmarks/study/by_hand.py), handed in as a module. Each run of
either loads model and data, explains, judges, and writes its table; nothing is drawn. The convergence check of a
study, which the script lacks, is switched off.
"""

import json
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from saliency_bench.attribution.methods import METHODS
from saliency_bench.attribution.methods.base import Expectation
from saliency_bench.attribution.parity import REORDERING
from saliency_bench.attribution.points import NoiseCloud
from saliency_bench.core.errors import InputError, ValidationError, unknown
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.rows import NOT_APPLICABLE, OK, Setting
from saliency_bench.core.seeding import token_hash
from saliency_bench.evaluation.removal import CachingProbe
from saliency_bench.models.references import References
from saliency_bench.report.formats import to_csv, to_markdown
from saliency_bench.report.table import Cell, Column, Estimate, Table
from saliency_bench.store.durable import replace_file
from saliency_bench.store.manifest import collect, portable
from saliency_bench.store.run import MANIFEST, Run, read_run, write_json
from saliency_bench.studies import run as runner
from saliency_bench.studies.block import OpenBlock, open_block, plan_blocks
from saliency_bench.studies.evaluate import judge_block
from saliency_bench.studies.prepare import Study, prepare, usual_readings
from saliency_bench.studies.timing import interleaved_ratio, measure, running_order, synchronizer

if TYPE_CHECKING:
    import pandas as pd

OURS, UNSHARED, FEWER = "ours", "ours_unshared", "ours_fewer_gradients"
SORTED, RANDOM, ONCE = "by_hand_sorted", "by_hand_random", "by_hand_sorted_curves_once"

#: What each contestant is.
CONTESTANTS = {
    OURS: "saliency_bench.studies.run.run: everything shared",
    SORTED: "by hand, texts sorted by length, sizes of batch and pass tuned; a loop for each metric",
    RANDOM: "by hand, texts as they come, 32 in a padded batch; a loop for each metric",
    ONCE: "by hand, sorted and tuned; each method's two curves asked once, all metrics read off them",
    UNSHARED: "our engine, but every method by itself and every metric of it with forward passes of its own",
    FEWER: "ours with Integrated Gradients from calibrated nodes",
}

#: What is divided by what, and what the quotient says. The gain over the random form is batching times rest times
#: sharing; what fewer gradients give comes on top, at another error of Integrated Gradients.
RATIOS = (
    (SORTED, OURS, "the whole gain over the sorted and tuned form"),
    (RANDOM, OURS, "the whole gain over the random form"),
    (ONCE, OURS, "the gain over a form that shares a method's curves among its metrics"),
    (RANDOM, SORTED, "of this, batching: sorted and tuned instead of random batches"),
    (UNSHARED, OURS, "of this, sharing: gradients, curves and leave-one-out asked once"),
    (
        SORTED,
        UNSHARED,
        "of this, the rest: our engine against Captum and the script, nothing shared",
    ),
    (OURS, FEWER, "on top, fewer gradients"),
)

#: Which of a ranking's two curves a metric reads. Without sharing the other one is not asked.
DELETION, INSERTION = "deletion", "insertion"
READS = {
    "comprehensiveness": (DELETION,),
    "sufficiency": (INSERTION,),
    "srg": (DELETION, INSERTION),
    "deletion_auc": (DELETION,),
    "deletion_auc_normalized": (DELETION,),
    "insertion_auc": (INSERTION,),
    "insertion_auc_normalized": (INSERTION,),
    "log_odds": (DELETION,),
    "log_probability_drop": (DELETION,),
    "morf": (DELETION,),
    "lerf": (INSERTION,),
    "abpc": (DELETION, INSERTION),
    "decision_flip_fraction": (DELETION,),
    "decision_flip_most_informative": (DELETION,),
    "fewest_that_keep_the_class": (INSERTION,),
    "monotonicity": (DELETION,),
}

#: Shares of units are exact; their mean over ten random rankings is so but for the order of the sum: 10 ε, and some.
ROUNDED_MEAN = 1e-14

SECONDS = "seconds.jsonl"
ASKED = "asked.json"

#: The configuration of a study from overrides, and its settings.
Compose = Callable[[Sequence[str]], tuple[Any, Sequence[Setting]]]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What is compared: on the first `n` sentences, `pairs` times; equality is first checked on `n_checked`."""

    out: Path
    n: int
    n_checked: int
    pairs: int
    contestants: tuple[str, ...]
    draws: str  # ours: the script is handed our noise and random rankings; own: it draws its own
    fewer: tuple[str, ...]  # overrides of the contestant with fewer gradients

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


@dataclass(frozen=True)
class Outcome:
    """What a contestant found: `values` has method, text, metric, value; `scores` are by method and text id."""

    values: "pd.DataFrame"
    scores: Mapping[tuple[str, str], Float[np.ndarray, " _"]]
    rankings: Mapping[tuple[str, str], Int[np.ndarray, " _"]]


def compare(
    compose: Compose, by_hand: Any, asked: Asked, command: Sequence[str], say: Say = print
) -> None:
    """Checks, times and writes three tables, a page with two of them and the manifest to `asked.out`.

    A comparison that was stopped goes on where it was: whole repeats are kept.

    Raises:
        ValidationError: a contestant's results are not ours; it is not timed then.
        InputError: the folder holds another comparison.
    """
    started = datetime.now(UTC)
    entrants = _claimed(lambda sizes: Entrants(compose, by_hand, asked, sizes, asked.n), asked)
    few = Entrants(compose, by_hand, asked, entrants.sizes, asked.n_checked)
    for name, run in few.runs().items():
        run()
        say(f"checked: {name}")
    found = _compared(few)
    seconds = _kept(asked.out / SECONDS, asked.contestants)
    _time(entrants, seconds, asked.out / SECONDS, say)
    # What was timed is compared too, unless nothing had to be: an earlier call has done all repeats.
    found = _compared(entrants) if entrants.found else found
    _write(entrants, found, seconds, command, started)


class Entrants:
    """The contestants on the first n sentences; `found` keeps what each run gave last."""

    def __init__(
        self, compose: Compose, by_hand: Any, asked: Asked, sizes: Mapping[str, int], n: int
    ) -> None:
        base = [f"n_examples={n}", "timing.enabled=false", "convergence.n_examples=0"]
        self.by_hand, self.asked, self.sizes, self.n = by_hand, asked, sizes, n
        self.config, self.settings = compose(base)
        self.fewer = compose([*base, *asked.fewer])
        self.study = prepare(self.config, self.settings)
        self.draws = by_hand.Draws(*our_draws(self.study)) if asked.draws == "ours" else None
        self.found: dict[str, Any] = {}

    def tuned(self) -> dict[str, int]:
        """The sizes of the sorted form that are fastest here."""
        best = self.by_hand.tune(*self.by_hand.load(self.n))
        return {"texts": best.texts, "rows": best.rows}

    def runs(self) -> dict[str, Callable[[], None]]:
        """One function per contestant that does the whole study."""
        return {name: self._runner(name) for name in self.asked.contestants}

    def _runner(self, name: str) -> Callable[[], None]:
        def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                self.found[name] = self._run(name, Path(folder))

        return run

    def _run(self, name: str, folder: Path) -> Any:
        if name == OURS:
            return _run_ours(self.config, self.settings, folder / "run")
        if name == FEWER:
            return _run_ours(*self.fewer, folder / "run")
        if name == UNSHARED:
            return run_unshared(self.config, self.settings)
        classifier, texts = self.by_hand.load(self.n)
        results = self.by_hand.study(classifier, texts, self._options(name))
        results.means().to_csv(folder / "means.csv")
        return texts, results

    def _options(self, name: str) -> Any:
        if name == RANDOM:
            return self.by_hand.Options(sort=False, texts=32, rows=32, draws=self.draws)
        return self.by_hand.Options(sort=True, once=name == ONCE, draws=self.draws, **self.sizes)

    def outcome(self, name: str) -> Outcome:
        """What the contestant found last, in one form for all."""
        found = self.found[name]
        if name in (OURS, FEWER):
            return _outcome_of_run(found)
        return found if name == UNSHARED else _outcome_by_hand(*found)


def _run_ours(config: Any, settings: Sequence[Setting], folder: Path) -> Run:
    run = read_run(runner.run(replace(config, out=str(folder)), settings, ["compare_study"]))
    return replace(run, tables=dict(run.tables))  # the folder does not stay


def run_unshared(config: Any, settings: Sequence[Setting]) -> Outcome:
    """The study through our engine with nothing shared: each setting and each metric has passes of its own."""
    import pandas as pd

    study = prepare(config, settings)
    refs = References(study.model)
    names = {setting.id: setting.name for setting in study.settings}
    usual, budget = usual_readings(study.config), study.config.runtime.token_budget
    rows, all_maps = [], []
    with study.model.frozen():
        for planned in plan_blocks(study.encoded):
            items = [study.encoded[index] for index in planned.indices]
            for setting in study.settings:
                block = open_block(refs, items, study.config.target, budget)
                (maps,) = block.explain([setting]).values()
                all_maps += maps
                for name, entry in study.config.metric.items():
                    own = _HalfBlock(refs, block.batch, block.target, budget)
                    own.reads = READS.get(entry["metric"], ())
                    rows += judge_block(own, maps, {name: entry}, usual).rows
    table = pd.DataFrame(rows).assign(method=lambda table: table.setting_id.map(names))
    return Outcome(_values(table), *_of_maps(all_maps))


class _HalfBlock(OpenBlock):
    """A block whose probe asks the model for the curves in `reads` alone."""

    reads: tuple[str, ...] = ()

    def probe(self, removal: str) -> Any:
        """A probe that is asked for both curves in turn, as `evaluate_curves` asks."""
        return _HalfProbe(super().probe(removal), self.reads)


@dataclass(frozen=True)
class _HalfProbe:
    """Answers NaN where the other curve is asked for, so that a metric which reads it has no value."""

    whole: CachingProbe
    reads: tuple[str, ...]

    def __call__(
        self, examples: Int[np.ndarray, " N"], keep: Sequence[Bool[np.ndarray, " _"]]
    ) -> Float[np.ndarray, "N C"]:
        # Deletion and insertion alternate. Both ends, which are on either curve, are always asked.
        places = np.array(
            [
                place
                for place, (example, stays) in enumerate(zip(examples.tolist(), keep, strict=True))
                if (DELETION, INSERTION)[place % 2] in self.reads or self._is_end(example, stays)
            ]
        )
        known = self.whole(examples[places], [keep[place] for place in places])
        answers = np.full((len(keep), known.shape[1]), np.nan)
        answers[places] = known
        return answers

    def _is_end(self, example: int, stays: Bool[np.ndarray, " T"]) -> bool:
        kept = stays[self.whole.attributable[example][: len(stays)]]
        return bool(kept.all() or not kept.any())


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


def _outcome_of_run(run: Run) -> Outcome:
    names = {one["setting_id"]: one["name"] for one in run.settings}
    rows = run.tables["rows"].assign(method=lambda table: table.setting_id.map(names))
    scores, rankings = {}, {}
    for one in run.tables["maps"].itertuples():
        key = names[one.setting_id], one.example_id
        scores[key] = np.asarray(one.scores)
        rankings[key] = _ranking(scores[key], np.asarray(one.attributable), one.token_ids.tolist())
    return Outcome(_values(rows), scores, rankings)


def _of_maps(maps: Sequence[AttributionMap]) -> tuple[dict[Any, Any], dict[Any, Any]]:
    keys = [(one.setting["name"], one.example_id) for one in maps]
    scores = {key: one.scores for key, one in zip(keys, maps, strict=True)}
    rankings = {
        key: _ranking(one.scores, np.array(one.attributable), one.token_ids)
        for key, one in zip(keys, maps, strict=True)
    }
    return scores, rankings


def _ranking(
    scores: Float[np.ndarray, " T"], attributable: Bool[np.ndarray, " T"], ids: Sequence[int]
) -> Int[np.ndarray, " U"]:
    from saliency_bench.evaluation.ranking import rank

    return rank(scores, attributable, signed=True, tie_seed=token_hash(ids))


def _values(rows: "pd.DataFrame") -> "pd.DataFrame":
    """The rows that have a value, or say that there is none; a failed one is an error."""
    failed = rows[~rows.status.isin([OK, NOT_APPLICABLE])]
    if len(failed):
        one = failed.iloc[0]
        raise ValidationError(f"{one.method} has no {one.metric} on {one.example_id}: {one.reason}")
    kept = rows[rows.status == OK]
    return kept.rename(columns={"example_id": "text"})[["method", "text", "metric", "value"]]


def _outcome_by_hand(texts: Sequence[Any], results: Any) -> Outcome:
    names = [text.name for text in texts]
    scores = {
        (method, names[place]): np.atleast_2d(own)[0]
        for (method, place), own in results.scores.items()
    }
    rankings = {
        (method, names[place]): draws[0] for (method, place), draws in results.rankings.items()
    }
    return Outcome(results.values.dropna(), scores, rankings)


# Equality


@dataclass(frozen=True)
class Equality:
    """One contestant's metric of one method against ours.

    `n_ties` texts are left out, see `equality`. `worst` is the largest difference of a text over its tolerance, None
    where the two have other nodes or other random numbers, and nothing is claimed of single texts.
    """

    contestant: str
    method: str
    metric: str
    ours: float
    theirs: float
    n_texts: int
    n_ties: int
    worst: float | None


class Tolerances:
    """How far a contestant may be from ours, text by text.

    The library promises that any two ways to batch agree within r = 2e-5 of a text's largest score (`REORDERING`).
    The same for its largest log-odds gives d = r max(1, |log p/(1-p)|), and p moves by at most d/4. So d is enough for
    means of differences of two or three p and for areas; over p(full) - p(empty), and with what that moves by, where
    they are normalised; 2 d for a difference of two log-odds. Σ of T scores gathers T r of the largest, and
    F(x) - F(x') adds 2 d. Leave-one-out is a difference of two logits: 2 d. A decision is open where a log-odds on the
    deletion curve is within d of 0; that reads two classes.
    """

    def __init__(self, run: Run) -> None:
        names = {one["setting_id"]: one["name"] for one in run.settings}
        curves = run.tables["curves"].assign(method=lambda table: table.setting_id.map(names))
        r = REORDERING[torch.float32]
        self.d: dict[str, float] = {}
        self.span: dict[str, float] = {}
        self.open: set[tuple[str, str]] = set()
        for text, own in curves.groupby("example_id"):
            odds = np.abs(_logit(own[["deletion", "insertion"]].to_numpy().ravel()))
            self.d[text] = r * max(1.0, float(odds.max()))
            first = own[own.k == 0].iloc[0]
            self.span[text] = abs(float(first.deletion - first.insertion))
        for (method, text), own in curves.groupby(["method", "example_id"]):
            # The mean over random draws says nothing of single ones: none of them is called open.
            if (
                np.abs(_logit(own.deletion.to_numpy())) <= self.d[text]
            ).any() and method != "random":
                self.open.add((method, text))
        self.scores: dict[tuple[str, str], float] = {}
        self.gap: dict[tuple[str, str], tuple[float, float]] = {}
        for one in run.tables["maps"].itertuples():
            method, text = names[one.setting_id], one.example_id
            largest = float(np.abs(one.scores).max())
            loo = 2 * self.d[text] if method == "leave_one_out" else 0.0
            self.scores[method, text] = max(r * largest, loo)
            gathered = len(one.scores) * r * largest + 2 * self.d[text]
            self.gap[method, text] = gathered, abs(one.output_difference)

    def of(self, method: str, metric: str, text: str, value: float) -> float:
        """Of one value."""
        d = self.d[text]
        gathered, difference = self.gap[method, text]
        if metric == "completeness_gap":
            return gathered
        if metric == "completeness_gap_relative":
            return (gathered + abs(value) * 2 * d) / difference
        if metric == "decision_flip_fraction":
            return 1.0 if (method, text) in self.open else ROUNDED_MEAN
        if metric.endswith("_normalized"):
            return d * (1 + abs(value)) / self.span[text]
        return 2 * d if metric == "log_odds" else d


def _logit(p: Float[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(p) - np.log1p(-np.asarray(p)))


def equality(
    ours: Outcome, theirs: Outcome, tolerances: Tolerances, contestant: str, apart: Sequence[str]
) -> list[Equality]:
    """Every metric of every method, text by text, except for the methods in `apart`, which are not to be equal.

    Where scores are equal within their tolerance and yet rank the tokens differently, tokens with scores that are as
    good as equal have changed places; such a text is counted and not compared further.

    Raises:
        ValidationError: the first thing that is not equal.
    """
    tied = {
        key
        for key in ours.scores
        if key[0] not in apart and _is_tied(ours, theirs, key, tolerances.scores[key], contestant)
    }
    keys = ["method", "text", "metric"]
    both = ours.values.merge(theirs.values, on=keys, how="outer", suffixes=("_ours", "_theirs"))
    rows = []
    for (method, metric), own in both.groupby(["method", "metric"], sort=False):
        kept = own[[(method, text) not in tied for text in own.text]]
        worst = None if method in apart else _worst(tolerances, method, metric, kept, contestant)
        means = float(own.value_ours.mean()), float(own.value_theirs.mean())
        counts = len(kept), len(own) - len(kept)
        rows.append(Equality(contestant, method, metric, *means, *counts, worst))
    return rows


def _is_tied(
    ours: Outcome, theirs: Outcome, key: tuple[str, str], tolerance: float, contestant: str
) -> bool:
    difference = float(np.abs(ours.scores[key] - theirs.scores[key]).max())
    if not difference <= tolerance:
        raise ValidationError(
            f"{contestant}: scores of {key[0]} on {key[1]} differ from ours by {difference:.2g}, "
            f"expected at most {tolerance:.2g}"
        )
    return not np.array_equal(ours.rankings[key], theirs.rankings[key])


def _worst(
    tolerances: Tolerances, method: str, metric: str, rows: "pd.DataFrame", contestant: str
) -> float:
    """The largest difference of a text over its tolerance."""
    worst = 0.0
    for row in rows.itertuples():
        tolerance = tolerances.of(method, metric, row.text, row.value_ours)
        difference = abs(row.value_ours - row.value_theirs)
        if not difference <= tolerance:  # nor where only one of the two has a value
            raise ValidationError(
                f"{contestant}: {metric} of {method} on {row.text} is {row.value_theirs:.8g}, ours "
                f"{row.value_ours:.8g}, expected at most {tolerance:.2g} between them"
            )
        worst = max(worst, difference / tolerance if tolerance else 0.0)
    return worst


def _compared(entrants: Entrants) -> list[Equality]:
    """Everything that the contestants found last against what ours did."""
    ours, tolerances = entrants.outcome(OURS), Tolerances(entrants.found[OURS])
    drawn = ("smoothgrad", "random") if entrants.draws is None else ()
    apart = {UNSHARED: (), FEWER: ("integrated_gradients",)}
    found = []
    for name in entrants.found:
        if name != OURS:
            theirs = entrants.outcome(name)
            found += equality(ours, theirs, tolerances, name, apart.get(name, drawn))
    return found


# Time


def _time(entrants: Entrants, seconds: dict[str, list[float]], path: Path, say: Say) -> None:
    """Adds whole repeats to `seconds`, and to the file, until there are as many as were asked for."""
    runs = entrants.runs()
    for repeat in range(len(seconds[OURS]), entrants.asked.pairs):
        order = running_order(list(runs), repeat)
        one = measure(
            {name: runs[name] for name in order},
            n_repeats=1,
            n_warmup=0,
            synchronize=synchronizer("cpu"),
        )
        found = {name: one[name][0] for name in runs}
        say(f"repeat {repeat + 1}: " + ", ".join(f"{name} {s:.1f} s" for name, s in found.items()))
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(found) + "\n")
        for name, value in found.items():
            seconds[name].append(value)


def _kept(path: Path, contestants: Sequence[str]) -> dict[str, list[float]]:
    """The repeats of an earlier call."""
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    repeats = [json.loads(line) for line in lines]
    return {name: [repeat[name] for repeat in repeats] for name in contestants}


def _claimed(entrants_of: Callable[[Mapping[str, int]], Entrants], asked: Asked) -> Entrants:
    """The folder is this comparison's; sizes of the sorted form are tuned once, on all texts."""
    path = asked.out / ASKED
    own = {key: value for key, value in asdict(asked).items() if key not in ("out", "pairs")}
    own = json.loads(json.dumps(own)) | {"threads": torch.get_num_threads()}
    if path.is_file():
        held = json.loads(path.read_text("utf-8"))
        sizes = held.pop("sizes")
        if held != own:
            raise InputError(f"{asked.out} holds another comparison. Give another folder.")
        return entrants_of(sizes)
    tuned = entrants_of({}).tuned()
    asked.out.mkdir(parents=True, exist_ok=True)
    write_json(path, own | {"sizes": tuned})
    return entrants_of(tuned)


# What is written


def ratios_table(seconds: Mapping[str, Sequence[float]], n: int) -> Table:
    """Median quotients of repeats that ran side by side, with their intervals."""
    rows: list[tuple[Cell, ...]] = [
        (
            above,
            below,
            Estimate(*interleaved_ratio(seconds[above], seconds[below])),
            len(seconds[below]),
            what,
        )
        for above, below, what in RATIOS
        if seconds.get(above) and seconds.get(below)
    ]
    return Table(
        name="ratios",
        title=f"The whole study on {n} sentences: time over time",
        caption="Medians of repeats that ran side by side; the interval lies between two order statistics and covers "
        "the median with at least 95 %, or is the whole range below 6 repeats.",
        columns=(
            Column("seconds_of", "Time of"),
            Column("over", "over that of"),
            Column("ratio", "Ratio"),
            Column("repeats", "Repeats"),
            Column("meaning", "What it says"),
        ),
        rows=tuple(rows),
        marks_best=False,
    )


def seconds_table(seconds: Mapping[str, Sequence[float]]) -> Table:
    """Every repeat of every contestant."""
    rows: list[tuple[Cell, ...]] = [
        (name, repeat, value) for name, own in seconds.items() for repeat, value in enumerate(own)
    ]
    columns = (
        Column("contestant", "Contestant"),
        Column("repeat", "Repeat"),
        Column("seconds", "Seconds", unit="s"),
    )
    return Table("seconds", "Seconds", "", columns, tuple(rows), marks_best=False)


def equality_table(found: Sequence[Equality]) -> Table:
    """Every contestant, method and metric against ours."""
    columns = (
        Column("contestant", "Contestant"),
        Column("method", "Method"),
        Column("metric", "Metric"),
        Column("ours", "Ours"),
        Column("theirs", "Theirs"),
        Column("n_texts", "Texts compared"),
        Column("n_ties", "Texts with near ties"),
        Column("worst", "Largest difference / tolerance"),
    )
    return Table(
        name="equality",
        title="Metric means",
        caption="Compared text by text. –: other nodes or other random numbers, so that only the means can be compared.",
        columns=columns,
        rows=tuple(tuple(asdict(one).values()) for one in found),
        marks_best=False,
    )


def _write(
    entrants: Entrants,
    found: Sequence[Equality],
    seconds: Mapping[str, Sequence[float]],
    command: Sequence[str],
    started: datetime,
) -> None:
    asked = entrants.asked
    tables = [ratios_table(seconds, entrants.n), equality_table(found)]
    for table in [*tables, seconds_table(seconds)]:
        replace_file(asked.out / f"{table.name}.csv", to_csv(table).encode())
    who = "".join(f"- `{name}`: {CONTESTANTS[name]}\n" for name in asked.contestants)
    text = "\n".join(["# A whole study, ours and by hand\n", who, *map(to_markdown, tables)])
    replace_file(asked.out / "comparison.md", text.encode())
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
        "asked": asdict(asked) | {"out": None},
        "sizes_by_hand": dict(entrants.sizes),
        "sentences": [item.example_id for item in entrants.study.encoded],
        "lengths": [len(item) for item in entrants.study.encoded],
        "settings": [setting.to_dict() for setting in entrants.settings],
        "model": entrants.study.identity["model"],
        "convergence_check": "off for both",
        "report": "not made by either",
    }
    write_json(asked.out / MANIFEST, about | provenance)
