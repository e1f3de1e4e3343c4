"""Metrics that query the model beyond the curves of a ranking; each distinct question is computed once for all rankings.

F is the output of the view for the explained class, and x without S the text with the units S removed. Random sets of
units depend only on the text, so that all methods have the same sets and answers.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from saliency_bench.core.rank_correlation import tau_b
from saliency_bench.core.removal_order import orders_between
from saliency_bench.core.seeding import seed_of
from saliency_bench.evaluation.metrics import NotApplicable, correlation, metric
from saliency_bench.evaluation.soft import equally_retained, retention

T = TypeVar("T")

EDIN = "Edin et al. 2025 (NAOPC), section 4"
ZHAO = "Zhao & Aletras 2023, section 3"

#: Decorators of metrics with the same unit and bounds.
_correlation = partial(metric, unit="1", bounds=(-1.0, 1.0), reads="query")
_normalized_drop = partial(metric, unit="1", bounds=(-np.inf, np.inf), reads="query")
_soft = partial(metric, unit="1", bounds=(0.0, np.inf), reads="query")


@dataclass(frozen=True)
class Query:
    """The scores of one example's units, in the order of the text, and functions that query the model.

    `ranking` lists units, most relevant first. `ask` returns F for sets of units that stay. `blur` returns F for n random
    draws in which every number of a unit's embedding stays with the unit's probability and is 0 otherwise. `name` is the
    name of the text, on which random draws depend. `shared` is a cache for all rankings of the text.
    """

    scores: Float[np.ndarray, " U"]
    ranking: Int[np.ndarray, " U"]
    ask: Callable[[Bool[np.ndarray, "N U"]], Float[np.ndarray, " N"]]
    blur: Callable[[Float[np.ndarray, " U"], int], Float[np.ndarray, " n"]]
    name: str
    shared: dict[Hashable, Any]

    @property
    def n_units(self) -> int:
        """The number of units."""
        return len(self.scores)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """A value that does not depend on the scores, computed once for all rankings of the text."""
        if key not in self.shared:
            self.shared[key] = make()
        value: T = self.shared[key]
        return value

    def drops(self, removed: Bool[np.ndarray, "N U"]) -> Float[np.ndarray, " N"]:
        """F(x) - F(x without S), for each set S."""
        answers = self.ask(np.concatenate([np.zeros_like(removed[:1]), removed]) ^ True)
        return np.asarray(answers[0] - answers[1:])


@_correlation(
    "leave_one_out_tau",
    higher_is_better=True,
    source="Jain & Wallace 2019, section 4.1; circular for leave-one-out and sequential IG with the same removal",
)
def leave_one_out_tau(query: Query) -> float:
    """Kendall's τ-b of the scores and F(x) - F(x without the unit)."""
    if query.n_units < 2:
        raise NotApplicable("fewer than two units can be ranked, so there is no order to compare")
    drops = query.drops(np.eye(query.n_units, dtype=bool))
    reason = "all scores are equal, so there is no order to compare"
    return correlation(tau_b, query.scores, drops, reason)


@_correlation(
    "faithfulness_correlation",
    higher_is_better=True,
    source="Bhatt, Weller & Moura 2020, definition 3; for scores that add up, as those of Integrated Gradients",
)
def faithfulness_correlation(query: Query, *, share: float, n_sets: int) -> float:
    """Pearson's correlation over random sets S of the sum of their scores and F(x) - F(x without S).

    Every set has a `share` of the units, and at least one.
    """
    size = max(1, round(share * query.n_units))
    if size >= query.n_units:
        raise NotApplicable("too few units to remove some of them")
    rng = np.random.default_rng(seed_of("faithfulness_correlation", query.name))
    removed = np.zeros((n_sets, query.n_units), dtype=bool)
    np.put_along_axis(removed, rng.random(removed.shape).argsort(1)[:, :size], True, axis=1)
    sums, drops = removed @ query.scores, query.drops(removed)
    reason = "all sets weigh the same, so there is nothing to correlate"
    value = correlation(lambda a, b: np.corrcoef(a, b)[0, 1], sums, drops, reason)
    return float(np.clip(value, -1, 1))


@metric(
    "infidelity",
    unit="output squared",
    higher_is_better=False,
    bounds=(0.0, np.inf),
    source="Yeh et al. 2019, definition 2.1, where the perturbation is x - x without S",
    reads="query",
)
def infidelity(query: Query, *, probability: float, n_sets: int, normalize: bool) -> float:
    """The mean over random sets S of (the sum of their scores - (F(x) - F(x without S)))².

    Every unit is in S with `probability`. With `normalize` the scores are first multiplied by the number for which this is
    smallest, so that methods with different scales can be compared; without it only complete methods can.
    """
    if query.n_units == 0:
        raise NotApplicable("the text has no unit that could be removed")
    rng = np.random.default_rng(seed_of("infidelity", query.name))
    removed = rng.random((n_sets, query.n_units)) < probability
    sums, drops = removed @ query.scores, query.drops(removed)
    square = float(sums @ sums)
    if normalize and square > 0:
        sums = sums * float(sums @ drops) / square
    return float(np.mean((sums - drops) ** 2))


def _normalized(
    query: Query, value: float, beam_size: int, exact_up_to: int, floor: float
) -> float:
    """An AOPC scaled to 0 for the worst and 1 for the best order of removal."""
    lowest, highest = query.once(
        ("bounds", beam_size, exact_up_to),
        lambda: orders_between(query.drops, query.n_units, beam_size, exact_up_to),
    )
    if highest - lowest <= floor:
        raise NotApplicable(f"no order of removal differs from another by more than {floor}")
    return (value - lowest) / (highest - lowest)


def _aopc(query: Query, ranking: Int[np.ndarray, " U"]) -> float:
    """The mean over k = 1 ... U of F(x) - F(x without the first k)."""
    if query.n_units == 0:
        raise NotApplicable("the text has no unit that could be ranked")
    place = np.argsort(ranking)
    return float(np.mean(query.drops(place < np.arange(1, query.n_units + 1)[:, None])))


@_normalized_drop("normalized_comprehensiveness", higher_is_better=True, source=EDIN)
def normalized_comprehensiveness(
    query: Query, *, beam_size: int, exact_up_to: int, floor: float
) -> float:
    """AOPC scaled to 0 for the worst and 1 for the best order of removal, so that models can be compared.

    The two orders are exact for texts of up to `exact_up_to` units. For longer texts they are found by beam search, and a
    ranking may lie outside of them. It is not applicable to texts in which they differ by at most `floor`.
    """
    value = _aopc(query, query.ranking)
    return _normalized(query, value, beam_size, exact_up_to, floor)


@_normalized_drop(
    "normalized_sufficiency", higher_is_better=False, source=f"{EDIN}; least relevant first"
)
def normalized_sufficiency(
    query: Query, *, beam_size: int, exact_up_to: int, floor: float
) -> float:
    """`normalized_comprehensiveness` of the reversed ranking."""
    value = _aopc(query, query.ranking[::-1])
    return _normalized(query, value, beam_size, exact_up_to, floor)


@_soft("soft_sufficiency", higher_is_better=True, source=f"{ZHAO}, equation 3 (Soft-NS)")
def soft_sufficiency(query: Query, *, n_draws: int, retained: float | None, floor: float) -> float:
    """The part of p(x) that is left when numbers stay with their unit's probability, from 0 (empty text) to 1 (x).

    A unit's probability is its score, scaled to [0, 1] within the text. With `retained` the probabilities are raised to
    the power for which their mean is this number; otherwise a method with larger scores keeps more, which is an advantage
    (Huang & Chan 2026).
    """
    full, empty = _ends(query)
    scale = _scale(full, empty, floor)
    blurred = query.blur(_kept(query, retained), n_draws)
    lost = np.maximum(0.0, full - np.mean(blurred))  # NaN stays NaN, as it does not in max
    return float(np.maximum(0.0, (scale - lost) / scale))


@_soft("soft_comprehensiveness", higher_is_better=True, source=f"{ZHAO}, equation 4 (Soft-NC)")
def soft_comprehensiveness(
    query: Query, *, n_draws: int, retained: float | None, floor: float
) -> float:
    """The loss of p(x) when numbers go with their unit's probability, divided by the loss for the empty text.

    `retained` is the mean probability of staying; see `soft_sufficiency`.
    """
    full, empty = _ends(query)
    gone = _kept(query, None if retained is None else 1 - retained)
    lost = np.maximum(0.0, full - np.mean(query.blur(1 - gone, n_draws)))
    return float(lost / _scale(full, empty, floor))


@metric(
    "soft_retention",
    unit="share",
    higher_is_better=None,
    bounds=(0.0, 1.0),
    source="Huang & Chan 2026, the control that soft metrics need",
    reads="query",
)
def soft_retention(query: Query) -> float:
    """The mean probability with which `soft_sufficiency` keeps a number; methods that differ in it are not comparable."""
    return float(np.mean(_kept(query, None)))


def _kept(query: Query, retained: float | None) -> Float[np.ndarray, " U"]:
    if query.n_units == 0:
        raise NotApplicable("the text has no unit that could be ranked")
    probabilities = retention(query.scores)
    return probabilities if retained is None else equally_retained(probabilities, retained)


def _ends(query: Query) -> tuple[float, float]:
    """F of the full text, and of the text with all numbers 0."""
    full = float(query.ask(np.ones((1, query.n_units), dtype=bool))[0])
    empty = query.once("zeroed", lambda: float(query.blur(np.zeros(query.n_units), 1)[0]))
    return full, empty


def _scale(full: float, empty: float, floor: float) -> float:
    """The loss of p for the empty text."""
    if full - empty <= floor:
        raise NotApplicable(f"p(x) - p(empty) is not above {floor}")
    return full - empty
