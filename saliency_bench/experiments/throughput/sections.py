"""The throughput benchmark: contestants that agree, side by side, over what their speed depends on.

A section is a function in `SECTIONS` from a `Bench` to rows (`rows.THROUGHPUT`). In each of its cases every contestant
is first compared with ours, then warmed up, then timed in interleaved repeats with the matrix products of one layer of
the model among them (`trial.measured`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from saliency_bench.attribution.quadrature import CALIBRATED
from saliency_bench.attribution.quadrature import quadrature as nodes_of
from saliency_bench.core import conf as conf_files
from saliency_bench.core.rows import OK, Setting, as_list
from saliency_bench.experiments.throughput.bench import Bench, texts_of_length
from saliency_bench.experiments.throughput.captum_contestants import Trials, captum_in_order, tuned
from saliency_bench.experiments.throughput.contestants import (
    Contestant,
    Problem,
    Scores,
    explained,
    integrated_gradients,
    maps_of,
    setting_of,
)
from saliency_bench.experiments.throughput.evaluation_contestants import evaluation_contestants
from saliency_bench.experiments.throughput.trial import (
    Case,
    Expected,
    Protocol,
    Row,
    absent_rows,
    admission,
    entered,
    expected_of,
    measured,
    rounding,
    row_of,
)
from saliency_bench.studies.block import opened_blocks
from saliency_bench.studies.memory import peak_memory

#: The rule that errors are measured against.
DENSE = "clenshaw_curtis"


def throughput(bench: Bench) -> Iterator[Row]:
    """The rows of every configured section, as they are measured.

    Raises:
        InputError: a section or contestant is unknown, or cannot be had from this model.
    """
    with bench.model.frozen():
        for name in bench.config["sections"]:
            yield from SECTIONS[name](bench)


def check(config: Mapping[str, Any]) -> None:
    """Checks the settings of the configured sections before a model is loaded.

    Raises:
        InputError: a rule is unknown, or cannot have so many steps.
    """
    rule, sections = config["quadrature"], config["sections"]
    counts = [(rule, config["n_steps"])]
    for name in set(sections) - {"contestants"}:
        counts += [(rule, n) for n in as_list(config[name].get("n_steps", []))]
    if "sweep" in sections:
        section = config["sweep"]
        counts += [(section["quadrature"], n + section["extra_steps"]) for n in section["n_steps"]]
    if "accuracy" in sections:
        section = config["accuracy"]
        counts += [(rule, section["captum_steps"]), (DENSE, section["reference_steps"])]
        counts.append((CALIBRATED, section["calibrated_steps"]))
    for quadrature, n_steps in counts:
        integrated_gradients(baseline=config["baseline"], quadrature=quadrature, n_steps=n_steps)


# --- sections


def contestants(bench: Bench) -> Iterator[Row]:
    """All contestants on texts of mixed lengths: the main comparison."""
    yield from bench.cases(
        "contestants", {"mixed lengths": bench.problem()}, bench.config["contestants"]
    )


def budget(bench: Bench) -> Iterator[Row]:
    """Over token budgets, which are Captum's internal_batch_size too."""
    config = bench.config["budget"]
    for n in config["token_budgets"]:
        cases = {f"{n} tokens": bench.small(config, token_budget=n)}
        yield from bench.cases(
            "budget", cases, config["contestants"], {"captum_sorted": {"tokens_at_once": [n]}}
        )


def length(bench: Bench) -> Iterator[Row]:
    """Over texts of one length each, where nothing is won by padding less."""
    config = bench.config["length"]
    cases = {
        f"length {n}": bench.small(
            config, encoded=texts_of_length(bench.model, bench.encoded, n, config["n_examples"])
        )
        for n in config["lengths"]
    }
    yield from bench.cases("length", cases, config["contestants"])


def steps(bench: Bench) -> Iterator[Row]:
    """Over numbers of steps."""
    config = bench.config["steps"]
    cases = {f"{n} steps": bench.small(config | {"n_steps": n}) for n in config["n_steps"]}
    yield from bench.cases("steps", cases, config["contestants"])


def precision(bench: Bench) -> Iterator[Row]:
    """Over types of the model; errors are those to float64."""
    config = bench.config["precision"]
    double = replace(bench, model=bench.load(dtype="float64"))
    with double.model.frozen():
        problem = double.small(config)
        (truth,) = explained(problem, [problem.setting])
    for dtype in config["dtypes"]:
        other = replace(bench, model=bench.load(dtype=dtype))
        with other.model.frozen():
            cases = {dtype: other.small(config)}
            yield from other.cases("precision", cases, config["contestants"], truth=truth)


def sweep(bench: Bench) -> Iterator[Row]:
    """All settings of a sweep: together, the largest alone, and by Captum one after the other."""
    yield from _step_sweep(bench)
    yield from _sample_sweep(bench)


def _step_sweep(bench: Bench) -> Iterator[Row]:
    config = bench.config["sweep"]
    counts = sorted(config["n_steps"])
    problem = bench.small(config | {"n_steps": counts[-1]})
    # Nesting rules have both ends of the path among their nodes: one more gradient than Captum's n.
    settings = [
        integrated_gradients(
            baseline=problem.baseline,
            quadrature=config["quadrature"],
            n_steps=n + config["extra_steps"],
        )
        for n in counts
    ]
    nodes = {
        node
        for setting in settings
        for node in nodes_of(config["quadrature"], setting.hyper["n_steps"])[0]
    }
    plain = [replace(problem, n_steps=n) for n in counts]
    use, _ = tuned(problem, Trials(**bench.config["options"]["captum_sorted"]))
    runs = [captum_in_order("", "", of_count, use).run for of_count in plain]
    yield from _sweep(
        bench,
        Case("sweep", f"{_listed(counts)} steps", problem),
        settings,
        (len(nodes), settings[-1].hyper["n_steps"], sum(counts)),
        lambda: [scores for run in runs for scores in run() or []],
        expected_of(problem, [of_count.setting for of_count in plain]),
        f"Captum, setting by setting: {use}",
    )


def _sample_sweep(bench: Bench) -> Iterator[Row]:
    config = bench.config["sweep"]
    counts = sorted(config["n_samples"])
    problem = bench.small(config | {"n_steps": counts[-1]})
    settings = [setting_of("smoothgrad", n_samples=n) for n in counts]
    twins = [setting.twin("captum") for setting in settings]
    yield from _sweep(
        bench,
        Case("sweep", f"{_listed(counts)} samples", problem),
        settings,
        (counts[-1], counts[-1], sum(counts)),
        lambda: _one_by_one(problem, twins),
        expected_of(problem, settings),
        "Captum's NoiseTunnel, setting by setting: our blocks, our noise, our token budget",
    )


def _one_by_one(problem: Problem, settings: Sequence[Setting]) -> Scores:
    """The scores of settings that share nothing but the choice of the class."""
    scores = {}
    for block, opened in opened_blocks(
        problem.references, problem.encoded, "predicted", problem.token_budget
    ):
        for setting in settings:
            (maps,) = opened.explain([setting]).values()
            for index, map_ in zip(block.indices, maps, strict=True):
                scores[setting.id, index] = map_.scores
    n = len(problem.encoded)
    return [scores[setting.id, index] for setting in settings for index in range(n)]


def _sweep(
    bench: Bench,
    case: Case,
    settings: Sequence[Setting],
    n_gradients: tuple[int, int, int],
    captum: Callable[[], Scores],
    captum_expected: Expected,
    describe: str,
) -> Iterator[Row]:
    """Three contestants; `n_gradients` is what each text takes of each of them."""
    bench.progress(case.section, 0, 1)
    problem, n = case.problem, len(case.problem.encoded)
    # Every setting by itself: that sharing changes no number is checked too.
    alone = [explained(problem, [setting])[0] for setting in settings]
    entrants = [
        Contestant(
            "ours_sweep",
            "ours: all settings from one pass over the union of their points",
            lambda: [
                scores for of_setting in explained(problem, settings) for scores in of_setting
            ],
        ),
        Contestant(
            "ours_largest",
            "ours: the largest setting alone",
            lambda: explained(problem, settings[-1:])[0],
        ),
        Contestant("captum_sweep", describe, captum, rounds=True),
    ]
    exact = [
        Expected([scores for of_setting in alone for scores in of_setting]),
        Expected(alone[-1]),
        captum_expected,
    ]
    paid = [
        replace(contestant, n_gradients=[k] * n)
        for contestant, k in zip(entrants, n_gradients, strict=True)
    ]
    yield from measured(case, list(zip(paid, exact, strict=True)), bench.protocol())
    bench.progress(case.section, 1, 1)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def memory(bench: Bench) -> Iterator[Row]:
    """Peak memory at few steps and at many, on texts of one length that fill the token budget at few already.

    One run each, scores compared between contestants. At half the steps a first run loads what a first run loads.
    """
    config = bench.config["memory"]
    encoded = texts_of_length(bench.model, bench.encoded, config["length"], config["n_examples"])
    fixed = {"encoded": encoded, "token_budget": config["token_budget"]}
    first, *_ = counts = sorted(config["n_steps"])
    warm = bench.problem(**fixed, n_steps=max(2, first // 2))
    for contestant in entered(warm, config["contestants"], bench.config["options"])[0]:
        contestant.run()
    for done, n in enumerate(counts):
        bench.progress("memory", done, len(counts))
        problem = bench.problem(**fixed, n_steps=n)
        case = Case("memory", f"{n} steps", problem, config["length"])
        entrants, absent = entered(problem, config["contestants"], bench.config["options"])
        yield from absent_rows(case, absent)
        yield from _peaks(case, entrants, bench.protocol())
    bench.progress("memory", len(counts), len(counts))


def _peaks(case: Case, entrants: Sequence[Contestant], protocol: Protocol) -> Iterator[Row]:
    expected: Expected | None = None
    for contestant in entrants:
        with peak_memory(case.problem.model.device) as peak:
            admitted = admission(contestant, expected, protocol)
        # The others are compared with the first, so that no run is made for the comparison alone.
        if expected is None and admitted.scores is not None:
            expected = Expected(admitted.scores, rounding(case.problem, [case.problem.setting]))
        if admitted.status == OK:
            yield row_of(case, contestant, admitted) | {
                "repeat": 0,
                "seconds": admitted.seconds,
                "peak_bytes": peak.peak_bytes,
            }
        else:
            yield row_of(case, contestant, admitted)


def accuracy(bench: Bench) -> Iterator[Row]:
    """The cost of Integrated Gradients with a small error, ours and Captum's default; errors are those to a dense rule."""
    config = bench.config["accuracy"]
    bench.progress("accuracy", 0, 1)
    problem = bench.small(config | {"n_steps": config["captum_steps"]})
    dense = integrated_gradients(
        baseline=problem.baseline, quadrature=DENSE, n_steps=config["reference_steps"]
    )
    (truth,) = explained(problem, [dense])
    settings = {
        "ours_adaptive": setting_of(
            "integrated_gradients_adaptive",
            baseline=problem.baseline,
            tolerance=config["tolerance"],
        ),
        "ours_calibrated": integrated_gradients(
            baseline=problem.baseline, quadrature=CALIBRATED, n_steps=config["calibrated_steps"]
        ),
    }
    entrants = [_by_setting(key, problem, setting) for key, setting in settings.items()]
    use, _ = tuned(problem, Trials(**bench.config["options"]["captum_sorted"]))
    describe = f"Captum, {problem.n_steps} Gauss-Legendre steps, sorted: {use}"
    entrants.append(captum_in_order("captum_default", describe, problem, use))
    # They need not be equal, only near: a larger error is no error of quadrature.
    protocol = replace(bench.protocol(), tolerance=config["refused_above"])
    case = Case("accuracy", f"to {100 * config['tolerance']:g} %", problem)
    yield from measured(case, [(entrant, Expected(truth)) for entrant in entrants], protocol)
    bench.progress("accuracy", 1, 1)


def _by_setting(name: str, problem: Problem, setting: Setting) -> Contestant:
    """A contestant of ours, run once to see how many gradients each text takes."""
    costs = [map_.n_gradients for map_ in maps_of(problem, [setting])[0]]
    describe = f"ours: {setting.method}, {np.mean(costs):.3g} gradients per text"
    return Contestant(name, describe, lambda: explained(problem, [setting])[0], n_gradients=costs)


def evaluation(bench: Bench) -> Iterator[Row]:
    """Metrics of several methods from shared curves, against each metric of each method by itself."""
    config = bench.config["evaluation"]
    problem = bench.small(config | {"n_steps": bench.config["n_steps"]})
    entries = {name: conf_files.metric_defaults(name) for name in config["metrics"]}
    maps = {name: maps_of(problem, [setting_of(name)])[0] for name in config["methods"]}
    for done, removal in enumerate(config["removals"]):
        bench.progress("evaluation", done, len(config["removals"]))
        ways = evaluation_contestants(
            bench.references,
            problem.encoded,
            maps,
            entries,
            removal,
            problem.token_budget,
        )
        entrants = [
            Contestant(
                f"evaluation_{name}", _WAYS[name], run, n_gradients=[0] * len(problem.encoded)
            )
            for name, run in ways.items()
        ]
        expected = Expected(ways["shared"]())
        case = Case("evaluation", f"removal {removal}", problem)
        yield from measured(case, [(entrant, expected) for entrant in entrants], bench.protocol())
    bench.progress("evaluation", len(config["removals"]), len(config["removals"]))


_WAYS = {
    "shared": "all metrics of all methods from shared curves, each question asked once",
    "separate": "each metric of each method by itself, in the same blocks",
}


#: In the order in which they make sense. The keys of conf/throughput.yaml have the same names.
SECTIONS: dict[str, Callable[[Bench], Iterable[Row]]] = {
    "contestants": contestants,
    "length": length,
    "budget": budget,
    "steps": steps,
    "precision": precision,
    "sweep": sweep,
    "memory": memory,
    "accuracy": accuracy,
    "evaluation": evaluation,
}
