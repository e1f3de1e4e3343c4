"""Metrics that ask the model, against their definitions asked one question at a time, and against Captum."""

from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from evaluation.lookup import arbitrary, query_of
from scipy.stats import kendalltau

from saliency_bench.core import conf as conf_files
from saliency_bench.core.removal_order import beam_search, orders_between
from saliency_bench.evaluation import query as q
from saliency_bench.evaluation.metrics import INFO, METRICS, NotApplicable
from saliency_bench.evaluation.soft import equally_retained, retention
from saliency_bench.evaluation.view import hyperparameters

SEEDS = pytest.mark.parametrize("seed", range(4))
ASKING = sorted(name for name in INFO if METRICS[name].__module__ == q.__name__)


def outputs(seed, n_units):
    """F by the units that stay: arbitrary numbers."""
    probe = arbitrary(seed)
    return lambda stays: probe.logits(0, tuple(stays))[0]


def entry(name):
    given = conf_files.metric_defaults(name)
    return hyperparameters(given, METRICS.hyperparameters(given["metric"]))


@SEEDS
def test_leave_one_out_tau_compares_with_the_change_by_each_unit(seed):
    f, scores = outputs(seed, 6), np.random.default_rng(seed).normal(size=6)
    one, _ = query_of(f, scores)
    everything = list(range(6))
    drops = [f(everything) - f([u for u in everything if u != unit]) for unit in everything]
    assert q.leave_one_out_tau(one) == pytest.approx(kendalltau(scores, drops).statistic)
    assert q.leave_one_out_tau(query_of(f, drops)[0]) == pytest.approx(1)
    assert q.leave_one_out_tau(query_of(f, [-d for d in drops])[0]) == pytest.approx(-1)


def additive(weights):
    return lambda stays: float(sum(weights[unit] for unit in stays))


WEIGHTS = [3.0, -1.0, 0.5, 2.0, -0.25, 1.0]


def test_scores_that_are_the_models_own_weights_are_perfectly_faithful():
    one, _ = query_of(additive(WEIGHTS), WEIGHTS)
    assert q.faithfulness_correlation(one, share=0.4, n_sets=50) == pytest.approx(1)
    # Sums of at most six numbers below 4, squared.
    assert q.infidelity(one, probability=0.5, n_sets=50, normalize=False) < 1e-28
    tripled, _ = query_of(additive(WEIGHTS), [3 * w for w in WEIGHTS])
    assert q.infidelity(tripled, probability=0.5, n_sets=50, normalize=True) < 1e-28
    assert q.infidelity(tripled, probability=0.5, n_sets=50, normalize=False) > 1


def test_random_sets_belong_to_the_text_and_have_the_size_that_is_asked_for():
    sets = {}
    for scores in (WEIGHTS, WEIGHTS[::-1]):
        one, asked = query_of(additive(WEIGHTS), scores)
        q.faithfulness_correlation(one, share=1 / 3, n_sets=20)
        sets[tuple(scores)] = asked
    first, second = sets.values()
    assert first == second  # all methods meet the same questions
    assert {len(kept) for kept in first} == {6, 4}
    other, asked = query_of(additive(WEIGHTS), WEIGHTS, name="another text")
    q.faithfulness_correlation(other, share=1 / 3, n_sets=20)
    assert asked != first


@SEEDS
def test_infidelity_is_its_definition_over_all_sets_in_the_limit(seed):
    f, scores = outputs(seed, 4), np.random.default_rng(seed).normal(size=4)
    everything = list(range(4))
    each = []
    for size in range(5):
        for own in combinations(everything, size):
            drop = f(everything) - f([u for u in everything if u not in own])
            each.append((sum(scores[list(own)]) - drop) ** 2)
    found = q.infidelity(query_of(f, scores)[0], probability=0.5, n_sets=20_000, normalize=False)
    # The mean of 20,000 draws of 16 equally likely values.
    assert found == pytest.approx(np.mean(each), abs=5 * np.std(each) / np.sqrt(20_000))


def test_infidelity_is_captums_for_the_same_sets():
    from captum.metrics import infidelity

    torch.manual_seed(0)
    weights, mixing = torch.randn(5), torch.randn(5, 5)

    def forward(x):
        return (x @ weights) + (x @ mixing * x).sum(-1).tanh()

    x, scores = torch.ones(1, 5), torch.randn(1, 5)
    f = lambda stays: float(forward(torch.tensor([[float(u in stays) for u in range(5)]]))[0])  # noqa: E731
    one, asked = query_of(f, scores[0].tolist())
    ours = q.infidelity(one, probability=0.5, n_sets=30, normalize=False)
    sets = [[u not in kept for u in range(5)] for kept in asked[1:]]
    removed = torch.tensor(sets, dtype=torch.float32)
    for normalize in (False, True):
        theirs = infidelity(
            forward,
            lambda inputs: (removed, inputs - removed),
            x,
            scores,
            n_perturb_samples=30,
            normalize=normalize,
        )
        ours = q.infidelity(one, probability=0.5, n_sets=30, normalize=normalize)
        # Captum computes in float32.
        assert ours == pytest.approx(float(theirs[0]), rel=1e-5)


def aopc(f, order):
    everything = list(range(len(order)))
    full = f(everything)
    return np.mean(
        [full - f([u for u in everything if u not in order[:k]]) for k in range(1, len(order) + 1)]
    )


@SEEDS
@pytest.mark.parametrize("n_units", [1, 2, 5])
def test_exact_bounds_are_those_of_all_orders(seed, n_units):
    f = outputs(seed, n_units)
    one, _ = query_of(f, np.zeros(n_units))
    values = [aopc(f, order) for order in permutations(range(n_units))]
    lowest, highest = orders_between(one.drops, n_units, beam_size=1, exact_up_to=n_units)
    assert (lowest, highest) == pytest.approx((min(values), max(values)), abs=1e-13)


@SEEDS
def test_a_beam_of_all_sets_is_exact_and_a_narrow_one_never_better(seed):
    f = outputs(seed, 5)
    one, _ = query_of(f, np.zeros(5))
    exact = orders_between(one.drops, 5, 1, exact_up_to=5)
    assert orders_between(one.drops, 5, 100, exact_up_to=0) == pytest.approx(exact, abs=1e-13)
    narrow = orders_between(one.drops, 5, 1, exact_up_to=0)
    assert exact[0] <= narrow[0] + 1e-13
    assert narrow[1] <= exact[1] + 1e-13
    value, order = beam_search(one.drops, 5, 3)
    assert sorted(order) == list(range(5))
    assert value == pytest.approx(aopc(f, order.tolist()), abs=1e-13)


@SEEDS
def test_normalised_numbers_are_0_for_the_worst_order_and_1_for_the_best(seed):
    f = outputs(seed, 4)
    orders = sorted(permutations(range(4)), key=lambda order: aopc(f, order))
    hyper = {"beam_size": 5, "exact_up_to": 4, "floor": 0.0}
    for order, expected in ((orders[0], 0), (orders[-1], 1)):
        scores = np.empty(4)
        scores[list(order)] = [4, 3, 2, 1]
        one, _ = query_of(f, scores)
        assert q.normalized_comprehensiveness(one, **hyper) == pytest.approx(expected, abs=1e-12)
        reverse, _ = query_of(f, -scores)
        assert q.normalized_sufficiency(reverse, **hyper) == pytest.approx(expected, abs=1e-12)


def test_bounds_are_found_once_for_all_rankings_of_a_text():
    f = outputs(0, 4)
    one, asked = query_of(f, [1, 2, 3, 4])
    hyper = {"beam_size": 2, "exact_up_to": 0, "floor": 0.0}
    q.normalized_comprehensiveness(one, **hyper)
    first = len(asked)
    q.normalized_comprehensiveness(one, **hyper)
    assert len(asked) - first == 1 + 4  # the full text, and the ranking's own four sets


@SEEDS
def test_soft_metrics_of_a_model_that_is_linear_in_what_stays(seed):
    """F is what stays of the weights, so its mean over draws is that of the probabilities."""
    weights = np.abs(np.random.default_rng(seed).normal(size=5)) + 0.1

    def blur(stays, n):
        return np.full(n, weights @ stays)

    scores = np.random.default_rng(seed + 9).normal(size=5)
    one, _ = query_of(additive(weights), scores, blur)
    stays = retention(scores)
    hyper = {"n_draws": 3, "retained": None, "floor": 0.0}
    share = weights @ stays / weights.sum()
    assert q.soft_sufficiency(one, **hyper) == pytest.approx(share)
    assert q.soft_comprehensiveness(one, **hyper) == pytest.approx(share)
    assert q.soft_retention(one) == pytest.approx(stays.mean())


@SEEDS
@pytest.mark.parametrize("mean", [0.3, 0.5, 0.7])
def test_evened_retention_has_the_mean_asked_for_and_keeps_the_order(seed, mean):
    stays = retention(np.random.default_rng(seed).normal(size=12))
    evened = equally_retained(stays, mean)
    assert np.mean(evened) == pytest.approx(mean, abs=1e-9)
    assert np.array_equal(np.argsort(evened), np.argsort(stays))
    assert (evened.min(), evened.max()) == (0, 1)


def test_what_cannot_be_evened_goes_as_near_as_it_can():
    assert equally_retained(np.array([0.0, 1.0]), 0.7).tolist() == [0, 1]
    assert equally_retained(np.ones(3), 0.5).tolist() == [1, 1, 1]
    assert retention(np.full(3, 7.0)).tolist() == [0.5] * 3


@pytest.mark.parametrize("name", ASKING)
def test_a_text_without_units_is_not_applicable(name):
    one, _ = query_of(lambda stays: 1.0, [], lambda stays, n: np.ones(n))
    with pytest.raises(NotApplicable):
        METRICS[name](one, **entry(name))


@pytest.mark.parametrize("name", sorted({*ASKING} - {"soft_retention"}))
def test_a_model_that_never_changes_is_not_judged_or_judged_as_nothing(name):
    one, _ = query_of(lambda stays: 0.5, WEIGHTS, lambda stays, n: np.full(n, 0.5))
    if name == "infidelity":
        assert METRICS[name](one, **entry(name)) == 0
        return
    with pytest.raises(NotApplicable):
        METRICS[name](one, **entry(name))


@pytest.mark.parametrize("name", sorted({*ASKING} - {"soft_retention"}))
def test_a_model_that_answers_nan_gives_nan(name):
    def f(stays):
        return 1.0 if len(stays) == len(WEIGHTS) else np.nan

    one, _ = query_of(f, WEIGHTS, lambda stays, n: np.full(n, np.nan))
    try:
        assert np.isnan(METRICS[name](one, **entry(name)))
    except NotApplicable:
        pytest.fail("NaN is a failure, not an inapplicable metric")
