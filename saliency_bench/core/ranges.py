"""The ranges of all numbers in configurations: of studies, verbs, methods, metrics and data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saliency_bench.core.errors import InputError, shown

#: No rule or average needs more gradients per text; beyond it, finding the nodes takes longer than using them.
MOST_POINTS = 10_000

MOST_SEED = 2**63 - 1  # of PyTorch's generators
MOST_THREADS = 1024  # with many more, libraries fail to start
MOST_RESAMPLES = 1_000_000  # no bootstrap needs more, and memory grows with them
MOST_HALVINGS = 8  # of the pieces of a path: each doubles their number
MOST_EXACT = 20  # units of which all sets are evaluated: each unit doubles their number


@dataclass(frozen=True)
class Range:
    """Finite numbers from `least` to `most`; these are included unless the range is open there."""

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
            kind = "a fraction" if self.most == 1 else kind
            return f"{kind} above {self.least} and up to {self.most}"
        return f"{kind}, {self.least} to {self.most}"


def _whole(least: int, most: int | float = math.inf) -> Range:
    return Range(least, most, whole=True)


#: Ranges, each with its keys; a key is also found at the end of a dotted key.
_KEYS: Sequence[tuple[Range, Sequence[str]]] = (
    # counts, of which there is at least one
    (_whole(1), (
        "n_examples", "n_repeats", "n_tokens", "neighbours", "max_evaluations", "token_budget", "token_budgets", "tokens_at_once", "batch_size",
        "batch_sizes", "internal_batch_size", "length", "lengths", "window", "max_warmups", "workers", "timeout_minutes",
        "memory_gb", "k", "n_prompts", "n_items",
    )),
    # counts that may be 0
    (_whole(0), (
        "convergence.n_examples", "report.n_examples", "n_warmup", "gpus_per_worker", "n_draws_deeper", "extra_steps",
    )),
    # gradients or draws for each text
    (_whole(1, MOST_POINTS), (
        "n_steps", "max_steps", "n_samples", "max_samples", "n_rankings", "beam_size", "n_sets", "n_draws",
        "calibrated_steps", "captum_steps", "reference_steps", "n_inputs",
    )),
    (_whole(2, MOST_POINTS), ("convergence.reference_steps", "reference_samples")),
    (_whole(0, MOST_SEED), ("seed", "noise_seeds", "training_seed", "training_seeds")),
    (_whole(1, MOST_THREADS), ("threads",)),
    (_whole(100, MOST_RESAMPLES), ("n_resamples",)),
    (_whole(0, MOST_EXACT), ("exact_up_to",)),
    (_whole(0, 3), ("attractors",)),
    (_whole(0, MOST_HALVINGS), ("factor",)),
    # sizes
    (Range(0), (
        "largest_gap", "noise_std", "noise_range", "noise_absolute", "weight_noise", "stdev", "penalty", "floor", "tie",
    )),
    (Range(0, open_below=True), (
        "relative_error", "kernel_width", "radius", "stable_within", "product_seconds", "refused_above",
        "tolerance.float64", "tolerance.float32", "tolerance.tf32", "tolerance.bfloat16", "tolerance.float16",
    )),
    (Range(-1, 1), ("smallest_tau",)),
    (Range(0, 4, open_below=True), ("lexicon",)),
    # fractions and probabilities
    (Range(0, 1), ("data.share", "data.incomplete", "data.controls", "max_distance")),
    (Range(0, 1, open_below=True), ("agreement.k", "grid", "fraction", "fractions", "share", "shares")),
    (Range(0, 1, open_below=True, open_above=True), (
        "agreement.p", "confidence", "tolerance", "probability", "retained",
    )),
)  # fmt: skip
#: Ranges by key. Of several that are ends of a dotted key, the longest counts, so that a section may differ from others.
RANGES: Mapping[str, Range] = {key: numbers for numbers, keys in _KEYS for key in keys}


def range_of(key: str) -> Range | None:
    """Returns the range of a dotted key, by its longest end that has one; None if none has."""
    parts = key.split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts)))
    return next((RANGES[end] for end in ends if end in RANGES), None)


def check(value: Any, key: str = "") -> None:
    """Checks that every number in a value, also in mappings and lists, is in the range of its key.

    Values that are not numbers are skipped: types are checked elsewhere.

    Raises:
        InputError: a number is out of its range, or has no range and is not finite.
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            check(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            check(inner, key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        allowed = range_of(key)
        if allowed is None and not math.isfinite(value):
            raise InputError(f"{key}={shown(value)}: expected a finite number")
        if allowed is not None and value not in allowed:
            raise InputError(f"{key}={shown(value)}: expected {allowed}")
