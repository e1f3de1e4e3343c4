"""Whether two ways to do one study give the same numbers, text by text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from saliency_bench.attribution.parity import REORDERING
from saliency_bench.core.errors import ValidationError
from saliency_bench.core.rows import NOT_APPLICABLE, OK
from saliency_bench.core.seeding import token_hash
from saliency_bench.evaluation.ranking import rank
from saliency_bench.store.run import Run

if TYPE_CHECKING:
    import pandas as pd

#: Shares of units are exact; their mean over ten random rankings is so but for the order of the sum: 10 ε, and some.
ROUNDED_MEAN = 1e-14


@dataclass(frozen=True)
class Outcome:
    """What a contestant found: `values` has method, text, metric, value; `scores` are by method and text id."""

    values: "pd.DataFrame"
    scores: Mapping[tuple[str, str], Float[np.ndarray, " _"]]
    rankings: Mapping[tuple[str, str], Int[np.ndarray, " _"]]


def outcome_of_run(run: Run) -> Outcome:
    """What a study of ours gave."""
    names = {one["setting_id"]: one["name"] for one in run.settings}
    rows = run.tables["rows"].assign(method=lambda table: table.setting_id.map(names))
    scores, rankings = {}, {}
    for one in run.tables["maps"].itertuples():
        key = names[one.setting_id], one.example_id
        scores[key] = np.asarray(one.scores)
        rankings[key] = _ranking(scores[key], np.asarray(one.attributable), one.token_ids.tolist())
    return Outcome(_values(rows), scores, rankings)


def _ranking(
    scores: Float[np.ndarray, " T"], attributable: Bool[np.ndarray, " T"], ids: Sequence[int]
) -> Int[np.ndarray, " U"]:
    return rank(scores, attributable, signed=True, tie_seed=token_hash(ids))


def _values(rows: "pd.DataFrame") -> "pd.DataFrame":
    """The rows that have a value, or say that there is none; a failed one is an error."""
    failed = rows[~rows.status.isin([OK, NOT_APPLICABLE])]
    if len(failed):
        one = failed.iloc[0]
        raise ValidationError(f"{one.method} has no {one.metric} on {one.example_id}: {one.reason}")
    kept = rows[rows.status == OK]
    return kept.rename(columns={"example_id": "text"})[["method", "text", "metric", "value"]]


def outcome_by_hand(texts: Sequence[Any], results: Any) -> Outcome:
    """What a script gave; of random rankings the first."""
    names = [text.name for text in texts]
    scores = {
        (method, names[place]): np.atleast_2d(own)[0]
        for (method, place), own in results.scores.items()
    }
    rankings = {
        (method, names[place]): draws[0] for (method, place), draws in results.rankings.items()
    }
    return Outcome(results.values.dropna(), scores, rankings)


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


def check_summaries(
    ours: "pd.DataFrame", theirs: "pd.DataFrame", settings: Sequence[Mapping[str, Any]]
) -> None:
    """Ours over the same values: middle and ends of every interval, but for rounding.

    Raises:
        ValidationError: an interval that is not ours.
    """
    names = {setting["setting_id"]: setting["name"] for setting in settings}
    keyed = ours.assign(method=ours.setting_id.map(names)).set_index(["method", "metric"])
    for row in theirs.itertuples():
        expected = keyed.loc[(row.method, row.metric), ["mean", "low", "high"]].to_numpy(float)
        values = np.array([row.middle, row.low, row.high])
        if not np.allclose(values, expected, rtol=1e-9, atol=1e-9, equal_nan=True):
            raise ValidationError(
                f"the interval of {row.metric} of {row.method} is {values}, expected {expected}"
            )
