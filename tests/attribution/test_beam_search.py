"""The upper bound: no order of removal is better than the one that a wide beam finds."""

from itertools import permutations

import numpy as np
import pytest
from tiny import token_inputs

import saliency_bench as sb

WIDE = 100  # as many sets as five tokens have, so that nothing is left out
METRICS = {"srg": "srg", "comprehensiveness": "aopc_comprehensiveness_full"}


def judged(model, maps, goal="srg", **options):
    return sb.evaluate(model, maps, [METRICS[goal]], removal="zero", **options).value.to_numpy()


def of_order(template, order):
    scores = np.zeros(len(template.scores))
    places = np.flatnonzero(template.attributable)
    scores[places[list(order)]] = np.arange(len(places), 0, -1)
    return sb.AttributionMap.from_scores(scores, template)


@pytest.mark.parametrize("goal", METRICS)
@pytest.mark.parametrize("objective", ["probability", "logit"])
def test_a_wide_beam_finds_the_best_of_all_orders(bert, objective, goal):
    options = {"removal": "zero", "objective": objective, "goal": goal, "beam_size": WIDE}
    (found,) = sb.attribute(bert, token_inputs(5), "beam_search", **options)
    places = np.flatnonzero(found.attributable)
    every = [of_order(found, order) for order in permutations(range(len(places)))]
    best = judged(bert, every, goal, output=objective).max()
    (ours,) = judged(bert, [found], goal, output=objective)
    # Orders that differ in rounding alone may change places.
    assert ours == pytest.approx(best, abs=1e-12)


def test_a_narrow_beam_is_at_least_as_good_as_leave_one_out_on_average(bert):
    inputs = token_inputs(7, 5, 9, 8)
    narrow = sb.attribute(bert, inputs, "beam_search", removal="zero", beam_size=2)
    alone = sb.attribute(bert, inputs, "leave_one_out", removal="zero")
    assert judged(bert, narrow).mean() >= judged(bert, alone).mean()


def test_scores_are_ranks_and_special_tokens_have_none(bert):
    for one in sb.attribute(bert, token_inputs(4, 6), "beam_search", removal="zero", beam_size=2):
        own = one.scores[np.array(one.attributable)]
        assert sorted(own) == list(range(1, len(own) + 1))
        assert (one.scores[~np.array(one.attributable)] == 0).all()
        assert one.n_gradients == 0
