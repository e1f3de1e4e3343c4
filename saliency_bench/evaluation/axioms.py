"""Violations of axioms by the scores of one example."""

import numpy as np

from saliency_bench.core.maps import AttributionMap
from saliency_bench.evaluation.metrics import NotApplicable, metric

SOURCE = "Sundararajan, Taly & Yan 2017, proposition 1 (completeness)"


@metric(
    "completeness_gap",
    unit="output",
    higher_is_better=False,
    bounds=(0.0, np.inf),
    source=SOURCE,
    reads="attribution",
)
def completeness_gap(attribution: AttributionMap) -> float:
    """|Σ scores - (F(x) - F(x'))|, in units of the explained output."""
    return abs(_gap(attribution))


@metric(
    "completeness_gap_relative",
    unit="1",
    higher_is_better=False,
    bounds=(0.0, np.inf),
    source=f"{SOURCE}, relative to F(x) - F(x')",
    reads="attribution",
)
def completeness_gap_relative(attribution: AttributionMap, *, floor: float) -> float:
    """|Σ scores - (F(x) - F(x'))| / |F(x) - F(x')|, if the denominator is above `floor`."""
    gap, difference = _gap(attribution), attribution.output_difference
    if difference is None:
        raise NotApplicable("F(x) - F(x') is not known")
    if abs(difference) <= floor:
        raise NotApplicable(f"|F(x) - F(x')| is not above {floor}")
    return abs(gap / difference)


def _gap(attribution: AttributionMap) -> float:
    if attribution.completeness_gap is None:
        raise NotApplicable(f"{attribution.setting['method']} does not claim completeness")
    return attribution.completeness_gap
