"""Completeness gaps."""

import numpy as np
import pytest

from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.text import Encoded
from saliency_bench.evaluation.axioms import completeness_gap, completeness_gap_relative
from saliency_bench.evaluation.metrics import NotApplicable


def a_map(gap, difference):
    encoded = Encoded(
        "e",
        (7,),
        None,
        (False,),
        ("a",),
        ((0, 1),),
        (0,),
        (0,),
        text="a",
        text_pair=None,
        gold=None,
    )
    return AttributionMap(
        encoded, {"method": "smoothgrad"}, np.zeros(1), 0, "yes", 0.9,
        completeness_gap=gap, output_difference=difference,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("gap", "difference", "relative"),
    [(0.5, 2.0, 0.25), (-0.5, 2.0, 0.25), (0.5, -2.0, 0.25), (0.0, 1.0, 0.0)],
)
def test_gaps_by_hand(gap, difference, relative):
    assert completeness_gap(a_map(gap, difference)) == abs(gap)
    assert completeness_gap_relative(a_map(gap, difference), floor=0.01) == relative


def test_a_method_that_does_not_claim_completeness_is_not_judged_by_it():
    for metric in (completeness_gap, lambda one: completeness_gap_relative(one, floor=0.01)):
        with pytest.raises(NotApplicable, match="smoothgrad does not claim completeness"):
            metric(a_map(None, None))


@pytest.mark.parametrize(("difference", "floor"), [(0.01, 0.01), (-0.009, 0.01), (0.0, 0.0)])
def test_a_difference_that_is_not_above_the_floor_has_no_relative_gap(difference, floor):
    with pytest.raises(NotApplicable, match="is not above"):
        completeness_gap_relative(a_map(0.5, difference), floor=floor)


def test_scores_that_bring_only_their_gap_have_no_relative_one():
    assert completeness_gap(a_map(0.5, None)) == 0.5
    with pytest.raises(NotApplicable, match="not known"):
        completeness_gap_relative(a_map(0.5, None), floor=0.01)


def test_nan_is_a_failure_and_not_inapplicable():
    assert np.isnan(completeness_gap(a_map(float("nan"), 1.0)))
    assert np.isnan(completeness_gap_relative(a_map(1.0, float("nan")), floor=0.01))
