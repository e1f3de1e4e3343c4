"""What every number of a configuration may be, in one place: of studies, of verbs, of methods, metrics and data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saliency_bench.core.errors import InputError, shown

#: No rule or average needs more gradients per text; beyond it, finding the nodes takes longer than using them.
MOST_POINTS = 10_000

MOST_SEED = 2**63 - 1  # of PyTorch's generators
MOST_THREADS = 1024  # with many more, libraries fail to start
MOST_RESAMPLES = 1_000_000  # no bootstrap needs more, and memory grows with them
MOST_HALVINGS = 8  # of the pieces of a path, which are twice as many with each
MOST_EXACT = 20  # units whose sets are all asked for: twice as many with each


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, which are in it unless they are `open`; finite ones only."""

    least: int | float
    most: int | float = math.inf
    whole: bool = False
    open_below: bool = False
    open_above: bool = False

    def __contains__(self, value: int | float) -> bool:
        if not math.isfinite(value) or (self.whole and not isinstance(value, int)):
            return False
        above = self.least < value if self.open_below else self.least <= value
        return above and (value < self.most if self.open_above else value <= self.most)

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if math.isinf(self.most):
            return (
                f"{kind} above {self.least}"
                if self.open_below
                else f"{kind}, at least {self.least}"
            )
        if self.open_below and self.open_above:
            return f"{kind} between {self.least} and {self.most}"
        if self.open_below:
            return f"a fraction above {self.least} and up to {self.most}"
        return f"{kind}, {self.least} to {self.most}"


def _whole(least: int, most: int | float = math.inf) -> Range:
    return Range(least, most, whole=True)


_COUNT, _COUNT_OR_NONE = _whole(1), _whole(0)
_POINTS, _SEED = _whole(1, MOST_POINTS), _whole(0, MOST_SEED)
_POSITIVE, _NOT_NEGATIVE = Range(0, open_below=True), Range(0)
_FRACTION, _PROBABILITY = Range(0, 1, open_below=True), Range(0, 1)
_BETWEEN = Range(0, 1, open_below=True, open_above=True)

#: By key, or by the end of a key after a dot. The longest that fits decides, so that a section may differ from others.
RANGES: Mapping[str, Range] = {
    # a study: conf/config.yaml and what is chosen there
    "seed": _SEED,
    "n_examples": _COUNT,
    "convergence.n_examples": _COUNT_OR_NONE,
    "report.n_examples": _COUNT_OR_NONE,
    "largest_gap": _NOT_NEGATIVE,
    "smallest_tau": Range(-1, 1),
    "convergence.reference_steps": _whole(2, MOST_POINTS),
    "reference_samples": _whole(2, MOST_POINTS),
    "agreement.k": _FRACTION,
    "agreement.p": _BETWEEN,
    "confidence": _BETWEEN,
    "n_resamples": _whole(100, MOST_RESAMPLES),
    "n_repeats": _COUNT,
    "n_warmup": _COUNT_OR_NONE,
    "training_seed": _SEED,
    # runtime
    "threads": _whole(1, MOST_THREADS),
    "token_budget": _COUNT,
    "workers": _COUNT,
    "gpus_per_worker": _COUNT_OR_NONE,
    "timeout_minutes": _COUNT,
    "memory_gb": _COUNT,
    # data
    "data.share": _PROBABILITY,
    "data.incomplete": _PROBABILITY,
    "lexicon": Range(0, 4, open_below=True),
    # methods
    "n_steps": _POINTS,
    "max_steps": _POINTS,
    "n_samples": _POINTS,
    "max_samples": _POINTS,
    "n_rankings": _POINTS,
    "beam_size": _POINTS,
    "window": _COUNT,
    "tolerance": _BETWEEN,
    "relative_error": _POSITIVE,
    "noise_std": _NOT_NEGATIVE,
    "noise_range": _NOT_NEGATIVE,
    "noise_absolute": _NOT_NEGATIVE,
    "stdev": _NOT_NEGATIVE,
    "weight_noise": _NOT_NEGATIVE,
    "n_inputs": _POINTS,
    "max_distance": _PROBABILITY,
    "neighbours": _COUNT,
    "factor": _whole(0, MOST_HALVINGS),
    "max_evaluations": _COUNT,
    "kernel_width": _POSITIVE,
    "penalty": _NOT_NEGATIVE,
    # metrics
    "grid": _FRACTION,
    "fraction": _FRACTION,
    "share": _FRACTION,
    "shares": _FRACTION,
    "probability": _BETWEEN,
    "retained": _BETWEEN,
    "floor": _NOT_NEGATIVE,
    "n_sets": _POINTS,
    "n_draws": _POINTS,
    "n_draws_deeper": _COUNT_OR_NONE,
    "exact_up_to": _whole(0, MOST_EXACT),
    # sanity
    "noise_seeds": _SEED,
    "training_seeds": _SEED,
    "radius": _POSITIVE,
    "fractions": _FRACTION,
    # trust
    "tie": _NOT_NEGATIVE,
    # throughput
    "max_warmups": _COUNT,
    "stable_within": _POSITIVE,
    "product_seconds": _POSITIVE,
    "tolerance.float64": _POSITIVE,
    "tolerance.float32": _POSITIVE,
    "tolerance.tf32": _POSITIVE,
    "tolerance.bfloat16": _POSITIVE,
    "tolerance.float16": _POSITIVE,
    "batch_size": _COUNT,
    "batch_sizes": _COUNT,
    "internal_batch_size": _COUNT,
    "tokens_at_once": _COUNT,
    "token_budgets": _COUNT,
    "length": _COUNT,
    "lengths": _COUNT,
    "extra_steps": _COUNT_OR_NONE,
    "calibrated_steps": _POINTS,
    "captum_steps": _POINTS,
    "reference_steps": _POINTS,
    "refused_above": _POSITIVE,
    # validate
    "n_tokens": _COUNT,
}


def range_of(key: str) -> Range | None:
    """The range of a dotted key: that of the longest end that has one; None where none has."""
    parts = key.split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts)))
    return next((RANGES[end] for end in ends if end in RANGES), None)


def check(value: Any, key: str = "") -> None:
    """Every number in a value is in the range of its key: those of mappings by the keys in them, those of lists each.

    Other values than numbers, and types, are their readers' affair.

    Raises:
        InputError: the first number that is not; one without a range must be finite.
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            check(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            check(inner, key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        own = range_of(key)
        if own is None and not math.isfinite(value):
            raise InputError(f"{key}={shown(value)}: expected a finite number")
        if own is not None and value not in own:
            raise InputError(f"{key}={shown(value)}: expected {own}")
