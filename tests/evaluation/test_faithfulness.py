"""Metrics against numbers worked out by hand, against their definitions asked naively, and their identities."""

from itertools import combinations, pairwise, permutations
from math import ceil

import numpy as np
import pytest
from evaluation.lookup import LookupProbe, arbitrary, curve_of, table
from hypothesis import given
from hypothesis import strategies as st

from saliency_bench.core.errors import InputError
from saliency_bench.core.labels import SAME_EVIDENCE, UNIT_PER_EXAMPLE
from saliency_bench.evaluation import faithfulness as f
from saliency_bench.evaluation.curves import Explained, evaluate_curves
from saliency_bench.evaluation.grid import FULL
from saliency_bench.evaluation.metrics import INFO, METRICS, NotApplicable
from saliency_bench.evaluation.ranking import rank

# At most a hundred additions of numbers below 1, each rounded by 1.1e-16.
ROUNDING = 2e-14

#: Each metric that reads a curve, with hyperparameters.
ENTRIES = [
    ("comprehensiveness", {"grid": "eraser"}),
    ("comprehensiveness", {"grid": FULL}),
    ("sufficiency", {"grid": "eraser"}),
    ("sufficiency", {"grid": FULL}),
    ("srg", {}),
    ("srg_on_grid", {"grid": "deciles"}),
    ("deletion_auc", {"grid": "deciles"}),
    ("deletion_auc", {"grid": FULL}),
    ("insertion_auc", {"grid": "deciles"}),
    ("insertion_auc", {"grid": FULL}),
    ("deletion_auc_normalized", {"grid": FULL, "floor": 0.0}),
    ("insertion_auc_normalized", {"grid": FULL, "floor": 0.0}),
    ("log_odds", {"fraction": 0.2}),
    ("log_probability_drop", {"fraction": 0.2}),
    ("top_k_log_probability_drop", {"k": 1}),
    ("decision_flip_fraction", {}),
    ("decision_flip_most_informative", {}),
    ("fewest_that_keep_the_class", {}),
    ("morf", {}),
    ("lerf", {}),
    ("abpc", {}),
    ("monotonicity", {}),
]
NAMED = pytest.mark.parametrize(("name", "hyper"), ENTRIES)


class Naive:
    """The definitions, each asking the model for every number it needs, one question at a time."""

    def __init__(self, probe, ranking, n_tokens, target, predicted):
        self.probe, self.ranking, self.n_tokens = probe, ranking, n_tokens
        self.target, self.predicted, self.U = target, predicted, len(ranking)

    def logits(self, removed):
        return self.probe.logits(0, tuple(t for t in range(self.n_tokens) if t not in removed))

    def p(self, removed):
        exponentials = np.exp(self.logits(removed))
        return exponentials[self.target] / exponentials.sum()

    def without(self, k):
        return self.p(self.ranking[:k])

    def only(self, k):
        return self.p(self.ranking[k:])

    def ks(self, grid):
        percent = {"eraser": [1, 5, 10, 20, 50], "deciles": range(10, 101, 10)}
        if grid == FULL:
            return list(range(1, self.U + 1))
        return [max(1, ceil(q * self.U / 100)) for q in percent[grid]]

    def comprehensiveness(self, grid):
        return np.mean([self.p([]) - self.without(k) for k in self.ks(grid)])

    def sufficiency(self, grid):
        if grid == FULL:  # the least relevant are removed: 1, 2, ... of them
            least_first = self.ranking[::-1]
            return np.mean([self.p([]) - self.p(least_first[:k]) for k in range(1, self.U + 1)])
        return np.mean([self.p([]) - self.only(k) for k in self.ks(grid)])

    def srg(self):
        most_first, least_first = self.ranking, self.ranking[::-1]
        steps = range(1, self.U + 1)
        return np.mean([self.p(least_first[:k]) - self.p(most_first[:k]) for k in steps])

    def area(self, height, grid):
        ends = pairwise(sorted({0, *self.ks(grid), self.U}))
        return sum((b - a) / self.U * (height(a) + height(b)) / 2 for a, b in ends)

    def deletion_auc(self, grid):
        return self.area(self.without, grid)

    def insertion_auc(self, grid):
        return self.area(self.only, grid)

    def normalized(self, area):
        empty = self.p(self.ranking)
        return (area - empty) / (self.p([]) - empty)

    def deletion_auc_normalized(self, grid, floor):
        return self.normalized(self.deletion_auc(grid))

    def insertion_auc_normalized(self, grid, floor):
        return self.normalized(self.insertion_auc(grid))

    def log_odds(self, fraction):
        removed = self.ranking[: max(1, ceil(fraction * self.U))]
        before, after = self.p([]), self.p(removed)
        return np.log(after / (1 - after)) - np.log(before / (1 - before))

    def decision_flip_fraction(self):
        for k in range(1, self.U + 1):
            if int(np.argmax(self.logits(self.ranking[:k]))) != self.predicted:
                return k / self.U
        return 1.0

    def log_probability_drop(self, fraction):
        removed = self.ranking[: max(1, ceil(fraction * self.U))]
        return np.log(self.p(removed)) - np.log(self.p([]))

    def top_k_log_probability_drop(self, k):
        return np.log(self.p([])) - np.log(self.without(k))

    def decision_flip_most_informative(self):
        return float(np.argmax(self.logits(self.ranking[:1])) != self.predicted)

    def fewest_that_keep_the_class(self):
        for k in range(self.U + 1):
            if int(np.argmax(self.logits(self.ranking[k:]))) == self.predicted:
                return k / self.U
        raise AssertionError("the full text has its own class")

    def morf(self):
        return np.mean([self.without(k) for k in range(1, self.U + 1)])

    def lerf(self):
        return np.mean([self.only(k) for k in range(self.U)])

    def srg_on_grid(self, grid):
        return self.insertion_auc(grid) - self.deletion_auc(grid)

    def abpc(self):
        return self.insertion_auc(FULL) - self.deletion_auc(FULL)

    def monotonicity(self):
        present, added = list(self.ranking), []
        for unit in self.ranking[::-1]:  # the least relevant first, into the empty text
            before = self.p(present)
            present.remove(unit)
            added.append(self.p(present) - before)
        # Spearman (1904): without ties one minus the squared differences of ranks.
        ranks = np.argsort(np.argsort(added))
        n = len(added)
        return 1 - 6 * np.sum((ranks - np.arange(n)) ** 2) / (n * (n**2 - 1))


def predicted_on_all(probe, n_tokens):
    return int(np.argmax(probe.logits(0, tuple(range(n_tokens)))))


def probability(probe, stays, target):
    exponentials = np.exp(probe.logits(0, stays))
    return exponentials[target] / exponentials.sum()


@NAMED
@pytest.mark.parametrize("n_units", [1, 2, 7])
def test_each_metric_is_its_definition_asked_naively(name, hyper, n_units):
    compared = 0
    for seed in range(12):
        probe = arbitrary(seed)
        n_tokens = n_units + 2  # the first and the last are special
        ranking = (1 + np.random.default_rng(seed).permutation(n_units)).tolist()
        target, predicted = seed % 3, predicted_on_all(probe, n_tokens)
        empty = probability(probe, (0, n_tokens - 1), target)
        if "floor" in hyper and probability(probe, tuple(range(n_tokens)), target) <= empty + 0.01:
            continue
        if name == "monotonicity" and n_units == 1:
            pytest.skip("one unit has no order")
        curve = curve_of(probe, ranking, [FULL], n_tokens, target, predicted)
        expected = getattr(Naive(probe, ranking, n_tokens, target, predicted), name)(**hyper)
        # The normalised areas divide by more than 0.01, which magnifies rounding a hundredfold.
        tolerance = 100 * ROUNDING if "floor" in hyper else ROUNDING
        # 1 - p loses up to a factor 1/(1 - p) in the naive log-odds; logits here stay below 12.
        tolerance = 1e-9 if name == "log_odds" else tolerance
        assert METRICS[name](curve, **hyper) == pytest.approx(expected, abs=tolerance)
        compared += 1
    assert compared >= 3


def test_the_list_above_has_every_metric_that_reads_a_curve():
    assert {name for name, _ in ENTRIES} == {n for n, info in INFO.items() if info.reads == "curve"}


#: Tokens 0, 1, 2, ranked 1, 0, 2.
BY_HAND = {"012": 0.9, "02": 0.5, "2": 0.3, "": 0.1, "1": 0.6, "01": 0.8}


@pytest.mark.parametrize(
    ("name", "hyper", "expected"),
    [
        ("comprehensiveness", {"grid": FULL}, (0.4 + 0.6 + 0.8) / 3),
        ("comprehensiveness", {"grid": "eraser"}, (4 * 0.4 + 0.6) / 5),  # k = 1, 1, 1, 1, 2
        ("comprehensiveness", {"grid": [1]}, 0.8),
        ("sufficiency", {"grid": FULL}, (0.1 + 0.3 + 0.8) / 3),  # 01, 1 and nothing stay
        ("sufficiency", {"grid": "eraser"}, (4 * 0.3 + 0.1) / 5),
        ("sufficiency", {"grid": [1]}, 0.0),
        ("srg", {}, (1.8 - 1.2) / 3),
        ("srg_on_grid", {"grid": FULL}, (1.8 - 1.2) / 3),  # as srg
        ("srg_on_grid", {"grid": [1]}, 0.0),  # only the ends, which both curves share
        ("deletion_auc", {"grid": FULL}, (0.9 / 2 + 0.5 + 0.3 + 0.1 / 2) / 3),
        ("insertion_auc", {"grid": FULL}, (0.1 / 2 + 0.6 + 0.8 + 0.9 / 2) / 3),
        ("deletion_auc", {"grid": [1]}, 0.5),  # only the ends
        ("deletion_auc_normalized", {"grid": FULL, "floor": 0.1}, (1.3 / 3 - 0.1) / 0.8),
        ("insertion_auc_normalized", {"grid": FULL, "floor": 0.1}, (1.9 / 3 - 0.1) / 0.8),
        ("log_odds", {"fraction": 0.2}, -np.log(9)),  # from 0.9 to 0.5
        ("log_odds", {"fraction": 0.5}, np.log(0.3 / 0.7) - np.log(9)),
        ("log_probability_drop", {"fraction": 0.5}, np.log(0.3 / 0.9)),
        ("decision_flip_fraction", {}, 2 / 3),  # at 0.5 the first class still stands
        ("decision_flip_most_informative", {}, 0.0),
        ("fewest_that_keep_the_class", {}, 1 / 3),
        ("morf", {}, (0.5 + 0.3 + 0.1) / 3),
        ("lerf", {}, (0.8 + 0.6 + 0.1) / 3),
        ("abpc", {}, (1.8 - 1.2) / 3),
        (
            "monotonicity",
            {},
            0.5,
        ),  # 2 adds 0.2, then 0 adds 0.2, then 1 adds 0.4: ranks 1.5, 1.5, 3
    ],
)
def test_metrics_by_hand(name, hyper, expected):
    curve = curve_of(table(BY_HAND), [1, 0, 2], [FULL])
    assert METRICS[name](curve, **hyper) == pytest.approx(expected, abs=ROUNDING)


def random_case(seed, n_units=6):
    ranking = np.random.default_rng(seed).permutation(n_units).tolist()
    return arbitrary(seed), ranking


SEEDS = pytest.mark.parametrize("seed", range(5))


@SEEDS
def test_deletion_auc_and_comprehensiveness_are_one_number(seed):
    curve = curve_of(*random_case(seed), [FULL])
    full, empty = curve.deletion[0], curve.deletion[-1]
    expected = full - f.comprehensiveness(curve, grid=FULL) + (full - empty) / (2 * 6)
    assert f.deletion_auc(curve, grid=FULL) == pytest.approx(expected, abs=ROUNDING)


@SEEDS
def test_insertion_auc_and_sufficiency_are_one_number(seed):
    curve = curve_of(*random_case(seed), [FULL])
    full, empty = curve.deletion[0], curve.deletion[-1]
    expected = full - f.sufficiency(curve, grid=FULL) + (full - empty) / (2 * 6)
    assert f.insertion_auc(curve, grid=FULL) == pytest.approx(expected, abs=ROUNDING)


@SEEDS
def test_srg_is_insertion_minus_deletion_auc(seed):
    curve = curve_of(*random_case(seed), [FULL])
    difference = f.insertion_auc(curve, grid=FULL) - f.deletion_auc(curve, grid=FULL)
    assert f.srg(curve) == pytest.approx(difference, abs=ROUNDING)


@SEEDS
def test_removing_the_least_relevant_first_is_the_reversed_ranking(seed):
    probe, ranking = random_case(seed)
    curve = curve_of(probe, ranking, [FULL])
    backwards = curve_of(probe, ranking[::-1], [FULL])
    assert np.array_equal(curve.insertion, backwards.deletion[::-1])
    assert f.sufficiency(curve, grid=FULL) == pytest.approx(
        f.comprehensiveness(backwards, grid=FULL), abs=ROUNDING
    )
    assert f.srg(backwards) == pytest.approx(-f.srg(curve), abs=ROUNDING)


#: Seeds of models that are surer of the full text than of the empty one: between them there is a scale.
UPWARDS = (0, 2, 3, 5, 6)


def order(values):
    """Of every two values whether the first is larger, smaller or, up to rounding, the same."""
    return np.sign(np.round(values[:, None] - values, 12))


@SEEDS
def test_metrics_of_one_group_order_rankings_alike_and_others_need_not(seed):
    probe = arbitrary(UPWARDS[seed])
    curves = [curve_of(probe, list(order), [FULL]) for order in permutations(range(4))]
    full = {
        "aopc_comprehensiveness_full": "comprehensiveness",
        "aopc_sufficiency_full": "sufficiency",
    }

    def values(entry):
        metric = full.get(entry, entry)
        hyper = dict(ENTRIES)[metric] | ({"grid": FULL} if "grid" in dict(ENTRIES)[metric] else {})
        better = 1 if INFO[metric].higher_is_better else -1
        return better * np.array([METRICS[metric](curve, **hyper) for curve in curves])

    for group in SAME_EVIDENCE:
        for a, b in combinations(group, 2):
            first, second = values(a), values(b)
            if a in UNIT_PER_EXAMPLE or b in UNIT_PER_EXAMPLE:
                assert np.array_equal(order(first), order(second)), (a, b)
                assert np.ptp(first - second) > ROUNDING, (a, b)
            else:
                # The same numbers but for what no ranking changes.
                assert np.ptp(first - second) < ROUNDING, (a, b)
    first = [values(group[0]) for group in SAME_EVIDENCE]
    for a, b in combinations(first, 2):
        assert (np.argsort(a) != np.argsort(b)).any()


@SEEDS
def test_over_all_rankings_srg_is_zero(seed):
    probe = arbitrary(seed)
    rankings = {(order, 0): np.array(order) for order in permutations(range(4))}
    curves = evaluate_curves(
        probe, rankings, [np.arange(4)], [Explained(0)], [0], [FULL], "probability"
    )
    values = [f.srg(curve) for curve in curves.values()]
    assert np.ptp(values) > 0.1
    assert np.mean(values) == pytest.approx(0, abs=ROUNDING)


def test_the_mean_srg_of_random_scores_is_zero_within_its_error():
    probe, n_draws, n_units = arbitrary(7), 400, 12
    scores = np.random.default_rng(0).random((n_draws, n_units))
    attributable = np.ones(n_units, bool)
    rankings = {
        (draw, 0): rank(own, attributable, signed=True, tie_seed="text")
        for draw, own in enumerate(scores)
    }
    units = [np.arange(n_units)]
    curves = evaluate_curves(probe, rankings, units, [Explained(0)], [0], [FULL], "probability")
    values = [f.srg(curve) for curve in curves.values()]
    assert abs(np.mean(values)) < 4 * np.std(values, ddof=1) / np.sqrt(n_draws)


@SEEDS
def test_with_everything_removed_the_ranking_does_not_matter(seed):
    probe = arbitrary(seed)
    curves = [curve_of(probe, list(order), [[1.0]]) for order in permutations(range(3))]
    for metric in (f.comprehensiveness, f.sufficiency):
        assert len({metric(curve, grid=[1.0]) for curve in curves}) == 1
    assert {f.sufficiency(curve, grid=[1.0]) for curve in curves} == {0.0}


def additive(weights, bias):
    """Evidence for class 0 adds up over the tokens that stay: the best ranking is known."""
    return LookupProbe(lambda example, stays: [bias + sum(weights[t] for t in stays), 0.0])


@NAMED
def test_the_right_ranking_is_better_than_its_reverse_in_the_declared_direction(name, hyper):
    probe = additive([3.0, -1.0, 2.0, 0.5, -0.5], bias=-1.5)
    right = [0, 2, 3, 4, 1]
    best, worst = (curve_of(probe, order, [FULL]) for order in (right, right[::-1]))
    gain = METRICS[name](best, **hyper) - METRICS[name](worst, **hyper)
    assert gain > 0 if INFO[name].higher_is_better else gain < 0


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_values_stay_within_the_declared_bounds(seed, n_units):
    curve = curve_of(arbitrary(seed), range(n_units), [FULL])
    for name, hyper in ENTRIES:
        low, high = INFO[name].bounds
        try:
            assert low <= METRICS[name](curve, **hyper) <= high
        except NotApplicable:
            assert "floor" in hyper or name == "monotonicity"


@pytest.mark.parametrize("class_0", [0.0, 1.0])
def test_a_model_that_is_always_certain_reaches_the_bounds_and_passes_none(class_0):
    probe = LookupProbe(
        lambda example, stays: [800.0, 0.0] if bool(stays) == class_0 else [0.0, 800.0]
    )
    curve = curve_of(probe, [0, 1], [FULL])
    assert set(curve.deletion) <= {0.0, 1.0}
    assert f.comprehensiveness(curve, grid=[1.0]) == (1.0 if class_0 else -1.0)
    assert abs(f.log_odds(curve, fraction=1.0)) == 1600


@NAMED
def test_a_text_without_a_token_to_rank_is_not_applicable(name, hyper):
    curve = curve_of(table({"01": 0.7}), [], [FULL], n_tokens=2)
    with pytest.raises(NotApplicable, match="no unit"):
        METRICS[name](curve, **hyper)


@pytest.mark.parametrize("empty", [0.7, 0.69, 0.9])
@pytest.mark.parametrize("metric", [f.deletion_auc_normalized, f.insertion_auc_normalized])
def test_a_curve_that_does_not_fall_cannot_be_normalized(metric, empty):
    curve = curve_of(table({"0": 0.7, "": empty}), [0], [FULL])
    with pytest.raises(NotApplicable, match=r"not above 0\.02"):
        metric(curve, grid=FULL, floor=0.02)


def test_a_class_that_never_changes_needs_more_than_all_tokens():
    curve = curve_of(table(dict.fromkeys(["01", "1", "0", ""], 0.9)), [0, 1], [FULL])
    assert f.decision_flip_fraction(curve) == 1.0


def test_only_the_first_flip_counts():
    flips_back = {"012": 0.9, "12": 0.2, "2": 0.8, "": 0.1, "0": 0.5, "01": 0.5}
    curve = curve_of(table(flips_back), [0, 1, 2], [FULL])
    assert f.decision_flip_fraction(curve) == pytest.approx(1 / 3)


@NAMED
def test_a_model_that_answers_nan_gives_nan(name, hyper):
    probe = LookupProbe(lambda example, stays: [0.0, 1.0] if len(stays) == 3 else [np.nan, np.nan])
    try:
        assert np.isnan(METRICS[name](curve_of(probe, [0, 1, 2], [FULL]), **hyper))
    except NotApplicable:
        pytest.fail("NaN is a failure, not an inapplicable metric")


@NAMED
def test_a_curve_without_the_points_that_a_metric_needs_is_refused(name, hyper):
    curve = curve_of(arbitrary(0), range(30), [[0.77]])
    with pytest.raises(ValueError, match="not evaluated at k"):
        METRICS[name](curve, **hyper)


def test_a_fraction_that_is_none_is_refused():
    curve = curve_of(arbitrary(0), range(3), [FULL])
    with pytest.raises(InputError, match="above 0 and up to 1"):
        f.log_odds(curve, fraction=0.0)


def test_nothing_flips_before_something_is_removed():
    # The clean pass said 1; rounding in another batch may say 0 for the same text.
    curve = curve_of(table({"01": 0.51, "1": 0.6, "": 0.6, "0": 0.6}), [0, 1], [FULL], predicted=1)
    assert f.decision_flip_fraction(curve) == 0.5
