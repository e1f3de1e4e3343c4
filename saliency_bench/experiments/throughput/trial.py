"""Trials of contestants on a case: first their scores are checked, then their times are measured, interleaved.

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
    """The way cases are timed. Scores may differ by `tolerance`, relative to a text's largest score."""

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
        """The columns that all rows of the case share."""
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
    """The expected scores, and the difference that each text may have where the contestant rounds its weights."""

    scores: Scores
    rounding: Float[np.ndarray, " N"] | None = None


@dataclass(frozen=True)
class Admission:
    """The outcome of the comparison with ours. Only `status` ok is timed; `seconds` is the first run, checks included."""

    status: str
    reason: str | None = None
    seconds: float | None = None
    error: float | None = None
    error_median: float | None = None
    scores: Scores | None = field(default=None, repr=False)


# --- admission


def entered(
    problem: Problem, names: Sequence[str], options: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Contestant], dict[str, str]]:
    """The named contestants, and the reasons of those that refuse the problem."""
    contestants: list[Contestant] = []
    absent: dict[str, str] = {}
    for name in names:
        try:
            made = CONTESTANTS.call(name, problem, options.get(name, {}))
        except InputError as error:
            absent[name] = str(error)
        else:
            contestants += made if isinstance(made, list) else [made]
    return contestants, absent


def expected_of(problem: Problem, settings: Sequence[Setting]) -> Expected:
    """Our scores under these settings, one after the other."""
    scores = [of_text for of_setting in explained(problem, settings) for of_text in of_setting]
    return Expected(scores, rounding(problem, settings))


def rounding(problem: Problem, settings: Sequence[Setting]) -> Float[np.ndarray, " N"] | None:
    """The difference that Captum's float32 quadrature makes to each text's scores at most; None in float32, where it is not seen."""
    if problem.model.dtype != torch.float64:
        return None
    allowed = np.zeros((len(settings), len(problem.encoded)))
    blocks = opened_blocks(problem.references, problem.encoded, "predicted", problem.token_budget)
    for block, opened in blocks:
        context = opened.context("logit", settings[0].seed)
        for row, setting in enumerate(settings):
            allowed[row, list(block.indices)] = (
                relative_tolerance(context, setting) - REORDERING[torch.float64]
            )
    return allowed.ravel()


def differences(scores: Scores, expected: Scores) -> Float[np.ndarray, " N"]:
    """Of each text the largest difference over the largest expected score; infinite where they cannot be compared."""
    if len(scores) != len(expected):
        return np.full(len(expected), np.inf)
    return np.array([_difference(*pair) for pair in zip(scores, expected, strict=True)])


def _difference(scores: Float[np.ndarray, " _"], expected: Float[np.ndarray, " _"]) -> float:
    if scores.shape != expected.shape or not np.isfinite(scores).all():
        return np.inf
    apart = float(np.abs(scores - expected).max(initial=0.0))
    size = float(np.abs(expected).max(initial=0.0))
    return apart / size if size else (np.inf if apart else 0.0)


def admission(contestant: Contestant, expected: Expected | None, protocol: Protocol) -> Admission:
    """Runs a contestant for the first time and compares its scores with the expected ones."""
    start = protocol.clock()
    try:
        scores = contestant.scores()
    except Exception as error:  # code of another package may raise anything, and the others go on
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


# --- timing


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
        outcome = admission(contestant, expected, protocol)
        if outcome.status == OK:
            against = outcome if truth is None else _against(outcome, truth)
            admitted[contestant.name] = contestant, against
        else:
            yield row_of(case, contestant, outcome)
    if not admitted:
        return
    rows = {
        name: row_of(case, contestant, outcome) | _warmed(case, contestant, protocol, synchronize)
        for name, (contestant, outcome) in admitted.items()
    }
    runs: dict[str, Callable[[], object]] = {
        name: contestant.run for name, (contestant, _) in admitted.items()
    }
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


def _against(outcome: Admission, truth: Scores) -> Admission:
    if outcome.scores is None:
        return outcome
    error, median = _errors(differences(outcome.scores, truth))
    return replace(outcome, error=error, error_median=median)


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


def row_of(case: Case, contestant: Contestant, outcome: Admission) -> Row:
    """The row of a contestant in a case, without its times."""
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
        "first_seconds": outcome.seconds,
        "error": outcome.error,
        "error_median": outcome.error_median,
        "status": outcome.status,
        "reason": outcome.reason,
    }


def absent_rows(case: Case, absent: Mapping[str, str]) -> Iterator[Row]:
    """A row with the reason for each that refuses the problem."""
    for name, reason in absent.items():
        yield case.facts() | {"contestant": name, "status": NOT_APPLICABLE, "reason": reason}
