"""Contestants on one case: first whether they compute what they must, then their times, interleaved.

One that disagrees, fails or does not apply is not timed, and its row says why.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float

from saliency_bench.attribution.parity import REORDERING, relative_tolerance
from saliency_bench.core.errors import InputError
from saliency_bench.core.rows import DISAGREES, FAILED, MATMUL, NOT_APPLICABLE, OK, Setting
from saliency_bench.experiments.throughput.contestants import (
    CONTESTANTS,
    Contestant,
    Problem,
    Scores,
    explained,
)
from saliency_bench.experiments.throughput.floor import encoder_of, gradient_flops, layer_products
from saliency_bench.studies.block import opened_blocks
from saliency_bench.studies.memory import peak_memory
from saliency_bench.studies.timing import is_stable, measure, synchronizer, warm_up

Row: TypeAlias = dict[str, Any]
Clock: TypeAlias = Callable[[], float]


@dataclass(frozen=True)
class Protocol:
    """How a case is timed. `tolerance` is what scores may differ by, relative to a text's largest one."""

    n_repeats: int
    max_warmups: int
    stable_within: float
    product_seconds: float
    tolerance: float
    clock: Clock = time.perf_counter


@dataclass(frozen=True)
class Case:
    """Some texts under some values of the axes."""

    section: str
    name: str
    problem: Problem
    length: int | None = None  # of every text; None where they differ

    def facts(self) -> Row:
        """What all rows of the case have in common."""
        problem, model = self.problem, self.problem.model
        return {
            "section": self.section,
            "case": self.name,
            "length": self.length,
            "n_steps": problem.n_steps,
            "token_budget": problem.token_budget,
            "dtype": model.precision,
            "baseline": problem.baseline,
            "quadrature": problem.quadrature,
            "n_examples": len(problem.encoded),
            "n_tokens": problem.n_tokens,
            "device": model.device.type,
            "threads": torch.get_num_threads(),
        }


@dataclass(frozen=True)
class Expected:
    """What scores must be, and by how much each may differ from it where the contestant rounds its weights."""

    scores: Scores
    rounding: Float[np.ndarray, " N"] | None = None


@dataclass(frozen=True)
class Admission:
    """What the comparison with ours gave. Only `status` ok is timed; `seconds` is the first run, checks included."""

    status: str
    reason: str | None = None
    seconds: float | None = None
    error: float | None = None
    error_median: float | None = None
    scores: Scores | None = field(default=None, repr=False)


# --- who may be timed


def entered(
    problem: Problem, names: Sequence[str], options: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Contestant], dict[str, str]]:
    """The named contestants, and of those that refuse the problem the reasons."""
    found: list[Contestant] = []
    absent: dict[str, str] = {}
    for name in names:
        try:
            made = CONTESTANTS.call(name, problem, options.get(name, {}))
        except InputError as error:
            absent[name] = str(error)
        else:
            found += made if isinstance(made, list) else [made]
    return found, absent


def expected_of(problem: Problem, settings: Sequence[Setting]) -> Expected:
    """Our scores under these settings, one after the other."""
    scores = [one for own in explained(problem, settings) for one in own]
    return Expected(scores, rounding(problem, settings))


def rounding(problem: Problem, settings: Sequence[Setting]) -> Float[np.ndarray, " N"] | None:
    """What Captum's float32 quadrature may move each text's scores by; in float32 nothing that is seen."""
    if problem.model.dtype != torch.float64:
        return None
    found = np.zeros((len(settings), len(problem.encoded)))
    blocks = opened_blocks(problem.references, problem.encoded, "predicted", problem.token_budget)
    for block, opened in blocks:
        context = opened.context("logit", settings[0].seed)
        for row, setting in enumerate(settings):
            found[row, list(block.indices)] = (
                relative_tolerance(context, setting) - REORDERING[torch.float64]
            )
    return found.ravel()


def differences(scores: Scores, expected: Scores) -> Float[np.ndarray, " N"]:
    """Of each text the largest difference over the largest expected score; infinite where they cannot be compared."""
    if len(scores) != len(expected):
        return np.full(len(expected), np.inf)
    return np.array([_difference(*pair) for pair in zip(scores, expected, strict=True)])


def _difference(found: Float[np.ndarray, " _"], expected: Float[np.ndarray, " _"]) -> float:
    if found.shape != expected.shape or not np.isfinite(found).all():
        return np.inf
    apart = float(np.abs(found - expected).max(initial=0.0))
    size = float(np.abs(expected).max(initial=0.0))
    return apart / size if size else (np.inf if apart else 0.0)


def admission(contestant: Contestant, expected: Expected | None, protocol: Protocol) -> Admission:
    """The first run of a contestant, and whether its scores are what they must be."""
    start = protocol.clock()
    try:
        scores = contestant.scores()
    except Exception as error:  # somebody else's code may raise anything, and the others go on
        text = " ".join(str(error).split())
        return Admission(FAILED, f"{type(error).__name__}: {text}")
    seconds = protocol.clock() - start
    if not contestant.same_quantity or expected is None:
        return Admission(OK, seconds=seconds, scores=scores)
    if scores is None:
        return Admission(FAILED, "it returns no scores to compare with ours", seconds)
    apart = differences(scores, expected.scores)
    allowed = np.full(len(apart), protocol.tolerance)
    if contestant.rounds and expected.rounding is not None:
        allowed += expected.rounding
    errors = _errors(apart)
    if (apart <= allowed).all():
        return Admission(OK, None, seconds, *errors, scores)
    worst = int((apart / allowed).argmax())
    return Admission(
        DISAGREES,
        f"text {worst % len(apart)} differs from ours by {apart[worst]:.2g} of its largest score, expected at most "
        f"{allowed[worst]:.2g}: other ids, target, baseline, nodes or type",
        seconds,
        *errors,
    )


# --- how they are timed


def measured(
    case: Case,
    entrants: Sequence[tuple[Contestant, Expected]],
    protocol: Protocol,
    truth: Scores | None = None,
) -> Iterator[Row]:
    """Rows of all contestants: a row per repeat of those that agree, one with the reason of each of the others.

    Errors are those to what is expected, or to `truth` where it is given.
    """
    synchronize = synchronizer(case.problem.model.device)
    admitted: dict[str, tuple[Contestant, Admission]] = {}
    for contestant, expected in entrants:
        found = admission(contestant, expected, protocol)
        if found.status == OK:
            against = found if truth is None else _against(found, truth)
            admitted[contestant.name] = contestant, against
        else:
            yield row_of(case, contestant, found)
    if not admitted:
        return
    rows = {
        name: row_of(case, contestant, found) | _warmed(case, contestant, protocol, synchronize)
        for name, (contestant, found) in admitted.items()
    }
    runs: dict[str, Callable[[], object]] = {name: one.run for name, (one, _) in admitted.items()}
    multiply, n_operations = _products(case, protocol)
    if multiply is not None:
        runs[MATMUL] = multiply
        product = {"contestant": MATMUL, "useful_flop": n_operations, "status": OK}
        rows[MATMUL] = case.facts() | product
    seconds = measure(
        runs,
        n_repeats=protocol.n_repeats,
        n_warmup=0,
        synchronize=synchronize,
        clock=protocol.clock,
    )
    for name, row in rows.items():
        for repeat, duration in enumerate(seconds[name]):
            yield row | {"repeat": repeat, "seconds": duration}


def _warmed(
    case: Case, contestant: Contestant, protocol: Protocol, synchronize: Callable[[], None]
) -> Row:
    """The peak of memory in one run, and whether the runs after it were steady."""
    with peak_memory(case.problem.model.device) as peak:
        contestant.run()
        synchronize()
    warm = warm_up(
        contestant.run,
        at_most=protocol.max_warmups,
        within=protocol.stable_within,
        synchronize=synchronize,
        clock=protocol.clock,
    )
    return {
        "peak_bytes": peak.peak_bytes,
        "n_warmups": len(warm),
        "stable": is_stable(warm, protocol.stable_within),
    }


def _against(found: Admission, truth: Scores) -> Admission:
    if found.scores is None:
        return found
    error, median = _errors(differences(found.scores, truth))
    return replace(found, error=error, error_median=median)


def _errors(apart: Float[np.ndarray, " N"]) -> tuple[float | None, float | None]:
    """The largest and the middle difference; None for what is not finite."""
    largest, middle = float(apart.max()), float(np.median(apart))
    return (largest if np.isfinite(largest) else None), (middle if np.isfinite(middle) else None)


def _products(case: Case, protocol: Protocol) -> tuple[Callable[[], None] | None, int]:
    """One layer's matrix products, as often as they take about `product_seconds`; None for a model of unknown sizes."""
    model = case.problem.model
    encoder = encoder_of(model.module)
    if encoder is None:
        return None, 0
    once, n_operations = layer_products(
        encoder, case.problem.token_budget, model.device, model.dtype
    )
    taken = min(
        warm_up(
            once,
            at_most=2,
            within=0.0,
            synchronize=synchronizer(model.device),
            clock=protocol.clock,
        )
    )
    n_times = max(1, round(protocol.product_seconds / taken)) if taken > 0 else 1

    def multiply() -> None:
        for _ in range(n_times):
            once()

    return multiply, n_times * n_operations


def row_of(case: Case, contestant: Contestant, found: Admission) -> Row:
    """What is known of a contestant in a case, its times apart."""
    problem = case.problem
    costs = contestant.n_gradients or [problem.n_steps] * len(problem.encoded)
    encoder = encoder_of(problem.model.module)
    useful = None
    if encoder is not None and any(costs):
        useful = sum(
            gradient_flops(*encoder, [len(item)], n)
            for item, n in zip(problem.encoded, costs, strict=True)
        )
    return case.facts() | {
        "contestant": contestant.name,
        "describe": contestant.describe,
        "n_gradients": sum(costs),
        "padded_tokens": contestant.padded_tokens,
        "useful_flop": useful,
        "first_seconds": found.seconds,
        "error": found.error,
        "error_median": found.error_median,
        "status": found.status,
        "reason": found.reason,
    }


def absent_rows(case: Case, absent: Mapping[str, str]) -> Iterator[Row]:
    """A row with the reason for each that refuses the problem."""
    for name, reason in absent.items():
        yield case.facts() | {"contestant": name, "status": NOT_APPLICABLE, "reason": reason}
