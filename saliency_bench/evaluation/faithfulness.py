"""Faithfulness metrics of one ranking on one example, computed from its deletion and insertion curves.

p is the output for the explained class, by default its probability; U is the number of ranked units, tokens or words;
"the top k" are the k most relevant units. For a multi-label model p is the sigmoid of the class's logit, and the decision
is whether the class is present, which changes where p crosses one half. If a map explains one class against another, p is
the difference of both, and the decision is the class with the larger logit (see `curves.Explained`).

With one removal operator and the full grid several metrics are functions of each other (`core.labels.SAME_EVIDENCE`):
deletion_auc is p(x) - comprehensiveness + (p(x) - p(empty)) / 2U, and morf is p(x) - comprehensiveness; insertion_auc
is p(x) - sufficiency + (p(x) - p(empty)) / 2U, and lerf is p(x) - sufficiency. The other terms do not depend on the
method, so that these metrics order methods alike on every example and are not independent evidence. abpc equals srg. The
normalised areas are these areas in a unit that depends on the text, and log_odds and log_probability_drop increase with
the same p: they order methods alike on every example, but not necessarily on average.
"""

from functools import partial

import numpy as np
from jaxtyping import Float, Int

from saliency_bench.evaluation.curves import Curve
from saliency_bench.evaluation.grid import FULL, Grid, counts, points
from saliency_bench.evaluation.metrics import NotApplicable, correlation, metric

SAMEK = "Samek et al. 2017, section III"
ERASER = "DeYoung et al. 2020 (ERASER), section 4; the mean over the grid, k = 0 left out, as in its released scorer"
RISE = "Petsiuk et al. 2018 (RISE)"

#: Decorators of metrics with the same unit and bounds.
_difference = partial(metric, unit="probability", bounds=(-1.0, 1.0), reads="curve")
_level = partial(metric, unit="probability", bounds=(0.0, 1.0), reads="curve")
_scaled = partial(metric, unit="1", bounds=(-np.inf, np.inf), reads="curve")
_log_ratio = partial(metric, unit="nats", bounds=(-np.inf, np.inf), reads="curve")
_share = partial(metric, unit="share of units", bounds=(0.0, 1.0), reads="curve")


@_difference("comprehensiveness", higher_is_better=True, source=ERASER)
def comprehensiveness(curve: Curve, *, grid: Grid) -> float:
    """AOPC: the mean over the grid of p(x) - p(x without the top k)."""
    return _mean_drop(curve, curve.deletion, _counts(curve, grid))


@_difference("sufficiency", higher_is_better=False, source=ERASER)
def sufficiency(curve: Curve, *, grid: Grid) -> float:
    """AOPC: the mean over the grid of p(x) - p(only the top k of x); negative if the top k have a larger p than the text.

    On the full grid k is the number of removed units, as in comprehensiveness: p(x) - p(x without the k least relevant),
    k = 1 ... U (LeRF, Samek et al. 2017; Edin et al. 2025). If k were the number of kept units, comprehensiveness would
    include the empty text and sufficiency the full one, so that their difference would favour any ranking, even a random
    one.
    """
    k = _counts(curve, grid)
    kept = curve.n_units - k if grid == FULL else k
    return _mean_drop(curve, curve.insertion, kept)


@_difference(
    "srg", higher_is_better=True, source="Blücher et al. 2024 (TMLR), the symmetric relevance gain"
)
def srg(curve: Curve) -> float:
    """Comprehensiveness minus sufficiency on the full grid, which is insertion minus deletion AUC.

    The reversed ranking has the opposite value, to the last bit, since its curves have the same numbers. A ranking and its
    reverse therefore have the mean 0, and a random ranking has the expectation 0.
    """
    return comprehensiveness(curve, grid=FULL) - sufficiency(curve, grid=FULL)


@_difference(
    "srg_on_grid",
    higher_is_better=True,
    source="Blücher et al. 2024 (TMLR), with trapezoids between the points of a grid",
)
def srg_on_grid(curve: Curve, *, grid: Grid) -> float:
    """Insertion minus deletion AUC on a grid: srg on the full grid, and close to it on a coarse one, at less cost.

    On a coarse grid a random ranking has the expectation 0 up to the error of the trapezoids.
    """
    return insertion_auc(curve, grid=grid) - deletion_auc(curve, grid=grid)


@_level("deletion_auc", higher_is_better=False, source=RISE)
def deletion_auc(curve: Curve, *, grid: Grid) -> float:
    """The trapezoidal area under p(x without the top k) over k/U, from the full to the empty text."""
    return _area(curve, curve.deletion, grid)


@_level(
    "insertion_auc",
    higher_is_better=True,
    source=f"{RISE}, inserting into the text with every token removed",
)
def insertion_auc(curve: Curve, *, grid: Grid) -> float:
    """The trapezoidal area under p(only the top k of x) over k/U, from the empty to the full text."""
    return _area(curve, curve.insertion, grid)


@_scaled(
    "deletion_auc_normalized",
    higher_is_better=False,
    source=f"{RISE}, with 0 at the empty and 1 at the full text",
)
def deletion_auc_normalized(curve: Curve, *, grid: Grid, floor: float) -> float:
    """(deletion_auc - p(empty)) / (p(x) - p(empty)), if p(x) - p(empty) is above `floor`."""
    return _normalized(curve, deletion_auc(curve, grid=grid), floor)


@_scaled(
    "insertion_auc_normalized",
    higher_is_better=True,
    source=f"{RISE}, with 0 at the empty and 1 at the full text",
)
def insertion_auc_normalized(curve: Curve, *, grid: Grid, floor: float) -> float:
    """(insertion_auc - p(empty)) / (p(x) - p(empty)), if p(x) - p(empty) is above `floor`."""
    return _normalized(curve, insertion_auc(curve, grid=grid), floor)


@_log_ratio(
    "log_odds",
    higher_is_better=False,
    source="Shrikumar et al. 2017 (DeepLIFT), section 4.1; not the log-probability drop of the same name",
)
def log_odds(curve: Curve, *, fraction: float) -> float:
    """The change of log p/(1 - p) when the top fraction is removed; smaller is better."""
    return _change(curve, curve.log_odds, fraction)


@_log_ratio(
    "log_probability_drop",
    higher_is_better=False,
    source="Sanyal & Ren 2021 (DIG), section 4.2, where it is called log-odds",
)
def log_probability_drop(curve: Curve, *, fraction: float) -> float:
    """The change of log p when the top fraction is removed; smaller is better.

    It is not bounded, so that a few examples can dominate its mean.
    """
    return _change(curve, curve.read_without("log_probability"), fraction)


@_log_ratio(
    "top_k_log_probability_drop",
    higher_is_better=True,
    source="Cohen-Wang et al. 2024 (ContextCite), section 2",
)
def top_k_log_probability_drop(curve: Curve, *, k: int) -> float:
    """Log p(x) - log p(x without the k units of the highest scores)."""
    if len(_counts(curve, FULL)) < k:
        raise NotApplicable(f"the text has {curve.n_units} units, and {k} are to be removed")
    logs = curve.read_without("log_probability")
    return float(logs[0] - _at(curve, logs, np.array([k]))[0])


@_level("morf", higher_is_better=False, source=f"{SAMEK}, most relevant first")
def morf(curve: Curve) -> float:
    """The mean of p(x without the k most relevant) over k = 1 ... U."""
    return float(np.mean(_at(curve, curve.deletion, _counts(curve, FULL))))


@_level("lerf", higher_is_better=True, source=f"{SAMEK}, least relevant first")
def lerf(curve: Curve) -> float:
    """The mean of p(x without the k least relevant) over k = 1 ... U."""
    return float(np.mean(_at(curve, curve.insertion, curve.n_units - _counts(curve, FULL))))


@_difference(
    "abpc",
    higher_is_better=True,
    source="Schulz et al. 2020 (IBA), section 4.3, the integral between the two degradation curves",
)
def abpc(curve: Curve) -> float:
    """The trapezoidal area between the LeRF and the MoRF curve, which equals srg, since the curves share their ends."""
    return insertion_auc(curve, grid=FULL) - deletion_auc(curve, grid=FULL)


@_share(
    "decision_flip_fraction",
    higher_is_better=False,
    source="Serrano & Smith 2019; Chrysostomou & Aletras 2021",
)
def decision_flip_fraction(curve: Curve) -> float:
    """The share of units removed, most relevant first and one by one, when the class changes; 1 if it never does.

    Only the first change counts. NaN if a probability is NaN, since then there is no class.
    """
    _at(curve, curve.deletion, _counts(curve, FULL))
    if np.isnan(curve.deletion).any():
        return float("nan")
    flips = curve.k[curve.flipped & (curve.k > 0)]
    return float(flips[0] / curve.n_units) if len(flips) else 1.0


@metric(
    "decision_flip_most_informative",
    unit="1",
    higher_is_better=True,
    bounds=(0.0, 1.0),
    source="Chrysostomou & Aletras 2021, section 4",
    reads="curve",
)
def decision_flip_most_informative(curve: Curve) -> float:
    """1 if removing the most relevant unit alone changes the class, else 0."""
    if np.isnan(_at(curve, curve.deletion, _counts(curve, FULL)[:1])).any():
        return float("nan")
    return float(curve.flipped[1])


@_share(
    "fewest_that_keep_the_class",
    higher_is_better=False,
    source="Feng et al. 2018 (input reduction), along the ranking instead of by gradients taken anew",
)
def fewest_that_keep_the_class(curve: Curve) -> float:
    """The share of units kept, most relevant first and one by one, when the class first equals that of the full text.

    It is 0 if the empty text has this class already.
    """
    _at(curve, curve.insertion, _counts(curve, FULL))
    if np.isnan(curve.insertion).any():
        return float("nan")
    # The full text has its class by definition, even if rounding breaks a tie of two classes otherwise.
    first = np.flatnonzero(np.append(curve.kept[:-1], True))[0]
    return float(curve.k[first] / curve.n_units)


@metric(
    "monotonicity",
    unit="1",
    higher_is_better=True,
    bounds=(-1.0, 1.0),
    source="Luss et al. 2019 and Arya et al. 2019, as a rank correlation in place of a yes or no",
    reads="curve",
)
def monotonicity(curve: Curve) -> float:
    """Spearman's correlation of relevance with the change of p by each unit, when the least relevant are added first.

    Units are added to the empty text one by one, so that the last is the most relevant. The original metric is whether p
    never decreases, which almost never holds for texts of more than ten tokens.
    """
    k = _counts(curve, FULL)
    if len(k) < 2:
        raise NotApplicable("fewer than two units can be ranked, so there is no order to compare")
    if not curve.ordered:
        raise NotApplicable("all scores are equal, so there is no order to compare")
    added = -np.diff(_at(curve, curve.deletion, np.arange(len(k) + 1)))
    from scipy.stats import spearmanr

    reason = "every unit adds the same, so there is no order to compare"
    return correlation(lambda a, b: spearmanr(a, b).statistic, -k, added, reason)


def _change(curve: Curve, values: Float[np.ndarray, " K"], fraction: float) -> float:
    """The change of a curve's values when the top fraction is removed."""
    return float(_at(curve, values, _counts(curve, (fraction,)))[0] - values[0])


def _counts(curve: Curve, grid: Grid) -> Int[np.ndarray, " K"]:
    if curve.n_units == 0:
        raise NotApplicable("the text has no unit that could be ranked")
    return counts(grid, curve.n_units)


def _at(
    curve: Curve, values: Float[np.ndarray, " K"], k: Int[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """The values of a curve at these k, which must be among its own."""
    if curve.n_units + 1 == len(curve.k):  # the curve has every number of units
        return np.asarray(values[k])
    place = curve.k.searchsorted(k)
    missing = k[curve.k.take(place, mode="clip") != k]
    if len(missing):
        raise ValueError(f"the curve was not evaluated at k = {np.unique(missing).tolist()}")
    return values[place]


def _mean_drop(curve: Curve, values: Float[np.ndarray, " K"], k: Int[np.ndarray, " N"]) -> float:
    drops = curve.deletion[0] - _at(curve, values, k)
    return float(np.add.reduce(drops) / len(drops))


def _area(curve: Curve, values: Float[np.ndarray, " K"], grid: Grid) -> float:
    """The trapezoidal area over k/U at the grid's k and at both ends."""
    _counts(curve, grid)  # raises NotApplicable without units
    k = points([grid], curve.n_units)
    place, height = k / curve.n_units, _at(curve, values, k)
    areas = (place[1:] - place[:-1]) * (height[1:] + height[:-1]) / 2.0
    return float(np.add.reduce(areas))


def _normalized(curve: Curve, area: float, floor: float) -> float:
    """The area scaled to 0 at the empty and 1 at the full text.

    It is not applicable if the difference of both is small, where it has no scale, or negative, where it would reverse
    the direction.
    """
    full, empty = curve.deletion[0], curve.insertion[0]
    if full - empty <= floor:
        raise NotApplicable(f"p(x) - p(empty) is not above {floor}")
    return float((area - empty) / (full - empty))
