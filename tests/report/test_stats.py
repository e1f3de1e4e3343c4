"""Statistics against definitions, enumeration and scipy."""

from itertools import product
from math import comb

import numpy as np
import pandas as pd
import pytest
from loading import ROOT, loaded
from scipy import stats as scipy_stats

from saliency_bench.core.averages import median_interval
from saliency_bench.core.errors import InputError
from saliency_bench.core.texts import with_texts
from saliency_bench.report.stats import (
    Resampling,
    compare,
    crossed_interval,
    detectable_difference,
    holm,
    intervals,
    rank_biserial,
    signed_rank_p,
    summarize,
    summarize_by_correctness,
)
from saliency_bench.report.stats import _bca as bca
from saliency_bench.store.run import Run
from saliency_bench.studies.choose import best_settings

QUICK = Resampling(confidence=0.95, n_resamples=999, seed=0)


def rows_of(values, metric="srg", higher=True):
    """Rows from {setting: [value or None per example]}."""
    return pd.DataFrame(
        [
            {
                "cell_id": "c",
                "setting_id": setting,
                "example_id": f"e{i}",
                "metric": metric,
                "removal": "mask",
                "value": value,
                "unit": "probability",
                "higher_is_better": higher,
                "status": "not_applicable" if value is None else "ok",
                "reason": "why" if value is None else None,
            }
            for setting, of_setting in values.items()
            for i, value in enumerate(of_setting)
        ]
    )


# --- intervals


@pytest.mark.parametrize("n", [12, 40])
def test_an_interval_has_the_farther_ends_of_scipys_t_and_bca_at_the_level_of_t(n):
    values = np.random.default_rng(1).gamma(2.0, size=(n, 3))
    low, high = intervals(values, QUICK)
    t = scipy_stats.t(n - 1)
    # Hesterberg 2015: the level whose normal quantile is t's, times the root of n / (n - 1); at most what 999 can tell.
    level = 1 - 2 * scipy_stats.norm.cdf(-t.ppf(0.975) * np.sqrt(n / (n - 1)))
    for column in values.T:
        expected = scipy_stats.bootstrap(
            (column,),
            np.mean,
            n_resamples=999,
            confidence_level=min(level, 1 - 2 / 1000),
            rng=np.random.default_rng(0),
        ).confidence_interval
        half = t.ppf(0.975) * scipy_stats.sem(column)
        ends = min(expected.low, column.mean() - half), max(expected.high, column.mean() + half)
        place = list(values.T[:, 0]).index(column[0])
        # The same resamples; only the order of the sums differs, so a few units in the last place.
        assert (low[place], high[place]) == pytest.approx(ends, rel=1e-12)


@pytest.mark.parametrize("n", [5, 2500, 9_001])
def test_the_jackknife_in_closed_form_gives_the_interval_of_one_that_leaves_each_value_out(n):
    # Whole numbers: their sums are exact in any order, so that resamples equal to the sample are so here and there.
    values = np.random.default_rng(n).poisson(3.0, size=n).astype(float)
    few = Resampling(confidence=0.95, n_resamples=199, seed=0)
    (low,), (high,) = bca(values[:, None], few)
    stream = np.random.default_rng(0)
    means = np.array([values[stream.integers(0, n, n)].mean() for _ in range(few.n_resamples)])
    left_out = np.array([(values.sum() - one) / (n - 1) for one in values])
    if n == 5:  # as the definition has it
        assert left_out == pytest.approx([np.delete(values, i).mean() for i in range(n)])
    away = left_out.mean() - left_out
    acceleration = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
    below = ((means < values.mean()).mean() + (means <= values.mean()).mean()) / 2
    for end, level in ((low, 0.025), (high, 0.975)):
        shifted = scipy_stats.norm.ppf(below) + scipy_stats.norm.ppf(level)
        at = scipy_stats.norm.cdf(
            scipy_stats.norm.ppf(below) + shifted / (1 - acceleration * shifted)
        )
        # Sums of 9,000 numbers are off by some 1e-12 of themselves, and quantiles hardly change with the level.
        assert end == pytest.approx(np.quantile(means, at), rel=1e-9)


def test_beyond_ten_thousand_texts_the_interval_is_that_of_all_resamples():
    values = np.random.default_rng(0).gamma(0.5, size=20_000)  # a skewness of 2.8
    confidence, n_resamples = 0.95, 2000
    (low,), (high,) = bca(values[:, None], Resampling(confidence, n_resamples, 0))
    found = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=n_resamples, batch=50, method="percentile", rng=0
    )
    means, error = found.bootstrap_distribution, values.std() / np.sqrt(len(values))
    acceleration = scipy_stats.skew(values) / 6 / np.sqrt(len(values))
    for end, z in ((low, -1.959964), (high, 1.959964)):
        # The bias of a mean's bootstrap is its acceleration, to 1 / n (Efron 1987, section 4).
        shifted = acceleration + z
        level = scipy_stats.norm.cdf(acceleration + shifted / (1 - acceleration * shifted))
        # A quantile at 2.5 % of 2,000 draws has a standard error of sqrt(0.025 * 0.975 / 2000) / 0.058 = 0.06 errors
        # of the mean, and three of these are 0.18; the skew moves both ends by 2.8 / 141 / 6 * 8.7 = 0.03.
        assert end == pytest.approx(np.quantile(means, level), abs=0.18 * error)
    # Both ends move by the same, which is what skew does; drawn, they would not do so to more than two digits.
    shift = (low + high) / 2 - values.mean()
    assert shift == pytest.approx(error * acceleration * (2 * 1.959964**2 + 1), rel=1e-6)


def test_the_memory_of_an_interval_does_not_grow_with_the_square_of_the_texts():
    import tracemalloc

    values = np.random.default_rng(0).normal(size=(10_000, 2))
    tracemalloc.start()
    intervals(values, Resampling(0.95, 500, 0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # 500 resamples at once are 40 MB for each of four arrays, and so is a jackknife by samples; 2^21 draws are 17 MB.
    assert peak < 110e6


def test_an_interval_does_not_depend_on_the_columns_beside_it():
    values = np.random.default_rng(2).normal(size=(30, 4))
    values[::5, 1] = np.nan
    low, high = intervals(values, QUICK)
    for column in range(4):
        alone = intervals(values[:, [column]], QUICK)
        assert (low[column], high[column]) == pytest.approx((alone[0][0], alone[1][0]), rel=1e-12)


def test_missing_values_are_left_out():
    values = np.random.default_rng(3).normal(size=(30, 1))
    with_gaps = np.vstack([values[:10], [[np.nan]] * 4, values[10:]])
    expected = np.array(intervals(values, QUICK))
    np.testing.assert_allclose(intervals(with_gaps, QUICK), expected, rtol=1e-12)


def test_the_interval_of_a_constant_has_no_width():
    values = np.array([[0.1, 0.1], [0.1, np.nan], [0.1, 0.1]])
    low, high = intervals(values, QUICK)
    assert low.tolist() == high.tolist() == [0.1, 0.1]


def test_numbers_that_differ_by_rounding_are_a_constant():
    values = np.array([[1.0], [np.nextafter(1.0, 2.0)], [1.0], [np.nextafter(1.0, 0.0)]])
    low, high = intervals(values, QUICK)
    assert low == high == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_values_have_no_interval(n):
    low, high = intervals(np.full((n, 2), 0.5), QUICK)
    assert np.isnan(low).all() and np.isnan(high).all()


def test_one_seed_gives_one_interval_and_two_seeds_two():
    values = np.random.default_rng(4).gamma(
        0.5, size=(20, 1)
    )  # skewed: the upper end is the bootstrap's
    again = Resampling(0.95, 999, 0)
    assert intervals(values, QUICK)[1] == intervals(values, again)[1]
    assert intervals(values, QUICK)[1] != intervals(values, Resampling(0.95, 999, 1))[1]


def test_more_confidence_is_a_wider_interval():
    values = np.random.default_rng(5).normal(size=(30, 1))
    low, high = intervals(values, QUICK)
    wider_low, wider_high = intervals(values, Resampling(0.99, 999, 0))
    assert wider_low < low < high < wider_high


def test_an_interval_covers_the_mean_as_often_as_it_says():
    # 400 samples of 40 from a skewed distribution with mean 2, as columns: they share no example.
    samples = np.random.default_rng(6).gamma(2.0, size=(40, 400))
    low, high = intervals(samples, QUICK)
    covered = np.mean((low <= 2.0) & (high >= 2.0))
    # Three binomial standard errors of 400 trials are 0.033.
    assert covered >= 0.95 - 0.033


def test_intervals_cover_on_the_metrics_own_distributions():
    """Samples out of the texts of results/, which stand for all texts: see docs/coverage.py."""
    found = loaded(ROOT / "docs" / "coverage.py").table(n_trials=200)
    page = (ROOT / "docs" / "evaluation.md").read_text("utf-8")
    assert all(f"| `{metric}`" in page for metric, _ in found.index)
    # Almost always 0, and seldom large: the page says that its intervals cover less.
    rare = found.index.get_level_values("metric") == "fewest_that_keep_the_class"
    # The share of 200 trials is within 0.046 of 0.95 (three standard errors) where an interval covers as it says.
    assert found[~rare].min().min() >= 0.95 - 0.046
    # Over all others, some 60 distributions: 12,000 trials, three standard errors of which are 0.006.
    assert found[~rare].mean().min() >= 0.95 - 0.006


def test_the_interval_of_a_median_has_the_ends_that_counting_gives():
    stream = np.random.default_rng(7)
    for n in (2, 5, 6, 10, 31):
        values = stream.normal(size=n)
        middle, low, high = median_interval(np.append(values, np.nan), 0.95)
        assert middle == np.median(values)
        ordered = sorted(values)
        # r values on each side are left out while the median lies below them with at most 2.5 %.
        below = [sum(comb(n, k) for k in range(r + 1)) / 2**n for r in range(n)]
        left_out = sum(one <= 0.025 for one in below)
        left_out = max(left_out - 1, 0)
        assert (low, high) == (ordered[left_out], ordered[-1 - left_out])
    assert np.isnan(median_interval(np.array([1.0]), 0.95)[1:]).all()


def test_a_metric_with_heavy_tails_is_summed_up_by_its_median():
    values = np.random.default_rng(8).standard_cauchy(size=(2, 25))
    rows = rows_of({"a": values[0], "b": values[1]}, metric="completeness_gap_relative (pad)")
    table = summarize(rows, QUICK).set_index("setting_id")
    assert table["mean"].tolist() == pytest.approx(np.median(values, axis=1).tolist())
    (apart,) = compare(rows, "a", QUICK).to_dict("records")
    assert apart["difference"] == pytest.approx(np.median(values[1] - values[0]))
    assert apart["low"] <= apart["difference"] <= apart["high"]
    assert np.isnan(apart["detectable"])
    other = rows_of({"a": values[0]})
    assert summarize(other, QUICK)["mean"][0] == pytest.approx(values[0].mean())


def crossed(stream, n_texts, n_draws, of_text, of_draw, rest):
    """Values of texts under draws of something that moves all texts alike, around 0."""
    texts = of_text * stream.normal(size=(n_texts, 1))
    return (
        texts
        + of_draw * stream.normal(size=n_draws)
        + rest * stream.normal(size=(n_texts, n_draws))
    )


@pytest.mark.parametrize("spread", [(1, 0, 0.1), (0, 1, 0.1), (1, 1, 1), (0, 0, 1)])
def test_an_interval_over_draws_and_texts_covers_whichever_of_them_varies(spread):
    stream = np.random.default_rng(9)
    ends = np.array([crossed_interval(crossed(stream, 30, 20, *spread), 0.95) for _ in range(400)])
    covered = np.mean((ends[:, 0] <= 0) & (ends[:, 1] >= 0))
    # Three binomial standard errors of 400 trials are 0.033. It may cover more where nothing but noise varies.
    assert covered >= 0.95 - 0.033


def test_an_interval_over_texts_alone_does_not_cover_what_draws_change():
    stream = np.random.default_rng(10)
    made = [crossed(stream, 30, 20, 0.2, 1, 0.1) for _ in range(100)]
    over_texts = [intervals(one.mean(1, keepdims=True), QUICK) for one in made]
    assert np.mean([low <= 0 <= high for (low,), (high,) in over_texts]) < 0.6
    both = [crossed_interval(one, 0.95) for one in made]
    assert np.mean([low <= 0 <= high for low, high in both]) > 0.88


def test_an_interval_over_draws_and_texts_leaves_out_what_is_missing():
    values = crossed(np.random.default_rng(11), 6, 4, 1, 1, 1)
    gaps = np.full((7, 5), np.nan)
    gaps[:6, :4] = values
    assert crossed_interval(gaps, 0.95) == pytest.approx(crossed_interval(values, 0.95))
    assert np.isnan(crossed_interval(values[:, :1], 0.95)).all()


# --- tests


def exact_pratt(differences):
    """P of a rank sum at least as far from its middle, over all 2^n signs; zeros keep their ranks but no sign."""
    ranks = scipy_stats.rankdata(np.abs(differences))[differences != 0]
    signs = np.array(list(product([0, 1], repeat=len(ranks))))
    sums = signs @ ranks
    observed = ranks[differences[differences != 0] > 0].sum()
    middle = ranks.sum() / 2
    return np.mean(np.abs(sums - middle) >= abs(observed - middle) - 1e-12)


@pytest.mark.parametrize(
    "differences",
    [
        [0.3, -0.1, 0.4, 0.2, 0.7, -0.6, 0.5],
        [0.0, 0.1, 0.1, -0.2, 0.3, 0.0, 0.5, 0.5],
        [1.0, 1.0, 1.0, 1.0, 1.0],
    ],
)
def test_the_signed_rank_test_of_few_examples_is_the_enumeration_of_all_signs(differences):
    differences = np.array(differences)
    assert signed_rank_p(differences) == pytest.approx(exact_pratt(differences), abs=1e-12)


def test_the_signed_rank_test_does_not_ask_which_side_is_which():
    differences = np.random.default_rng(7).normal(0.2, size=60)
    assert signed_rank_p(differences) == pytest.approx(signed_rank_p(-differences), rel=1e-9)


def test_no_difference_at_all_is_no_evidence():
    assert signed_rank_p(np.zeros(9)) == 1.0
    assert rank_biserial(np.zeros(9)) == 0.0
    assert np.isnan(signed_rank_p(np.array([])))


def holm_by_steps(p):
    """Holm 1979: reject the smallest while p <= alpha / remaining; the corrected p is the least alpha that does."""
    order, corrected, worst = sorted(range(len(p)), key=lambda i: p[i]), [0.0] * len(p), 0.0
    for step, index in enumerate(order):
        worst = max(worst, p[index] * (len(p) - step))
        corrected[index] = min(worst, 1.0)
    return corrected


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])


def test_holm_is_the_step_down_procedure():
    p = np.random.default_rng(8).uniform(size=12) ** 3
    assert holm(p).tolist() == pytest.approx(holm_by_steps(p.tolist()))


def test_holm_counts_only_tests_that_were_made():
    assert holm(np.array([0.01, np.nan, 0.04]))[[0, 2]].tolist() == pytest.approx([0.02, 0.04])
    assert np.isnan(holm(np.array([0.01, np.nan, 0.04]))[1])


def test_rank_biserial_by_hand():
    # Ranks of |d|: 1, 2, 3, 4; the second is negative: (1 + 3 + 4 - 2) / 10.
    assert rank_biserial(np.array([0.1, -0.2, 0.3, 0.4])) == pytest.approx(0.6)


def test_rank_biserial_is_one_where_all_agree_and_turns_with_the_sign():
    assert rank_biserial(np.array([0.1, 0.5, 2.0])) == 1.0
    differences = np.random.default_rng(9).normal(size=30)
    assert rank_biserial(-differences) == pytest.approx(-rank_biserial(differences))


# --- power


@pytest.mark.parametrize("n", [5, 30])
def test_a_detectable_difference_is_found_four_times_in_five(n):
    sample = np.random.default_rng(10).normal(size=n)
    sample = (sample - sample.mean()) / sample.std(ddof=1)  # a standard deviation of exactly 1
    size = detectable_difference(sample, alpha=0.05)
    drawn = np.random.default_rng(11).normal(size, 1.0, size=(4000, n))
    found = scipy_stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05
    # Four standard errors of a share of 0.8 in 4000 trials.
    assert found.mean() == pytest.approx(0.8, abs=4 * (0.8 * 0.2 / 4000) ** 0.5)


def test_a_detectable_difference_tends_to_the_normal_formula():
    sample = np.random.default_rng(12).normal(size=5000)
    normal = (scipy_stats.norm.ppf(0.975) + scipy_stats.norm.ppf(0.8)) * sample.std(ddof=1)
    # t differs from normal by O(1/n) = 2e-4 at 5000.
    assert detectable_difference(sample, alpha=0.05) == pytest.approx(normal / 5000**0.5, rel=1e-3)


def test_two_examples_detect_nothing():
    assert np.isnan(detectable_difference(np.array([0.1, 0.2]), alpha=0.05))


# --- rows


def test_a_summary_counts_what_has_no_value_and_leaves_it_out_of_the_mean():
    found = summarize(rows_of({"a": [1.0, 2.0, None, 6.0]}), QUICK).iloc[0]
    assert (found["n"], found["n_not_ok"], found["mean"]) == (3, 1, 3.0)
    assert found["sd"] == pytest.approx(7**0.5)
    assert found["low"] <= found["mean"] <= found["high"]


def test_a_metric_without_any_value_keeps_its_line():
    found = summarize(rows_of({"a": [None, None], "b": [1.0, 2.0]}), QUICK).set_index("setting_id")
    assert (found.loc["a", "n"], found.loc["a", "n_not_ok"]) == (0, 2)
    assert np.isnan(found.loc["a", "mean"]) and np.isnan(found.loc["a", "low"])


def test_a_comparison_is_paired_over_the_examples_that_both_have():
    rows = rows_of({"a": [1.0, 2.0, 3.0, None], "b": [1.5, 2.5, None, 9.0]})
    found = compare(rows, "a", QUICK).iloc[0]
    assert (found["setting_id"], found["n"]) == ("b", 2)
    assert found["difference"] == found["low"] == found["high"] == 0.5


def test_a_setting_that_only_adds_noise_common_to_both_has_a_narrow_difference():
    common = np.random.default_rng(13).normal(size=50)
    own = 0.01 * np.random.default_rng(14).normal(size=50)
    rows = rows_of({"a": common.tolist(), "b": (common + 0.1 + own).tolist()})
    found = compare(rows, "a", QUICK).iloc[0]
    summary = summarize(rows, QUICK).iloc[0]
    assert found["high"] - found["low"] < 0.1 * (summary["high"] - summary["low"])
    assert found["p_holm"] < 1e-6 and found["effect"] == 1.0


def test_the_family_of_holm_is_the_settings_of_one_metric():
    draw = np.random.default_rng(15)
    values = {name: draw.normal(i / 5, size=30).tolist() for i, name in enumerate("abcd")}
    rows = pd.concat([rows_of(values), rows_of(values, metric="other")])
    found = compare(rows, "a", QUICK)
    for _, own in found.groupby("metric"):
        assert own["p_holm"].tolist() == pytest.approx(holm_by_steps(own["p"].tolist()))
        assert len(own) == 3


def test_a_setting_held_against_its_own_is_what_it_is_against_a_reference_of_that_name():
    draw = np.random.default_rng(16)
    values = {name: draw.normal(i / 5, size=30).tolist() for i, name in enumerate("abcd")}
    rows = rows_of(values)
    found = compare(rows, {"b": "a", "d": "c"}, QUICK).set_index("setting_id")
    for setting, against in (("b", "a"), ("d", "c")):
        alone = compare(rows, against, QUICK).set_index("setting_id").loc[setting]
        columns = ["n", "difference", "low", "high", "p", "effect", "detectable"]
        assert found.loc[setting, columns].tolist() == alone[columns].tolist()
    assert found["p_holm"].tolist() == pytest.approx(holm_by_steps(found["p"].tolist()))
    assert [*found.index] == ["b", "d"]


def test_a_reference_without_rows_compares_nothing():
    assert compare(rows_of({"a": [1.0, 2.0]}), "z", QUICK).empty
    assert compare(rows_of({"a": [1.0, 2.0]}), "a", QUICK).empty
    assert compare(rows_of({"a": [1.0, 2.0]}), {}, QUICK).empty


def test_right_and_wrong_predictions_are_apart_and_unlabelled_ones_in_neither():
    examples = pd.DataFrame(
        {
            "cell_id": "c",
            "example_id": [f"e{i}" for i in range(5)],
            "correct": pd.array([True, False, True, None, False], dtype="boolean"),
        }
    )
    rows = rows_of({"a": [1.0, 10.0, 3.0, 100.0, 30.0]})
    found = summarize_by_correctness(rows, examples, QUICK).set_index("prediction")
    assert found["mean"].to_dict() == {"right": 2.0, "wrong": 20.0}
    unlabelled = examples.assign(correct=pd.array([None] * 5, dtype="boolean"))
    assert summarize_by_correctness(rows, unlabelled, QUICK).empty


def run_of(rows, tmp_path):
    settings = [
        {"setting_id": key, "name": "sg" if key != "r" else "random"} for key in ("a", "b", "r")
    ]
    examples = pd.DataFrame(columns=["cell_id", "example_id", "text", "text_pair"])
    return Run(tmp_path, {}, settings, {"rows": rows, "examples": examples})


def test_the_best_setting_of_an_entry_follows_the_direction_of_the_metric(tmp_path):
    values = {"a": [1.0, 3.0], "b": [2.0, 4.0], "r": [9.0, 9.0]}
    for higher, expected in ((True, "b"), (False, "a")):
        best = best_settings(run_of(rows_of(values, higher=higher), tmp_path), "srg")
        assert best["sg"]["setting_id"] == expected
        assert best["random"] == {"setting_id": "r", "mean": 9.0, "n": 2}


def test_the_first_of_equal_settings_is_best_and_one_without_values_is_none(tmp_path):
    best = best_settings(run_of(rows_of({"a": [1.0], "b": [1.0], "r": [None]}), tmp_path), "srg")
    assert best == {"sg": {"setting_id": "a", "mean": 1.0, "n": 1}}


def test_a_metric_to_choose_by_must_be_there_and_have_a_direction(tmp_path):
    with pytest.raises(InputError, match=r"choose\.metric 'sgr'; did you mean 'srg'"):
        best_settings(run_of(rows_of({"a": [1.0]}), tmp_path), "sgr")
    with pytest.raises(InputError, match="neither more nor less"):
        best_settings(run_of(rows_of({"a": [1.0]}, higher=None), tmp_path), "srg")


# --- several questions about a text

MANY = {"config": {"model": {"task": "token-classification"}}}


def asked(values, times, places=str):
    """Rows as of a task of many questions: each text's value `times` times, for questions at other places."""
    rows = rows_of(values)
    return pd.concat(
        [
            rows.assign(example_id=rows["example_id"] + "@" + places(place))
            for place in range(times)
        ],
        ignore_index=True,
    )


def gamma(seed, n=12):
    return np.random.default_rng(seed).gamma(2.0, size=n).tolist()


@pytest.mark.parametrize("places", [str, ["start", "end", "7"].__getitem__])
def test_a_question_asked_again_is_no_new_evidence(places):
    """Each question of a text twice or more often: the numbers are those of the texts alone."""
    values = {"a": gamma(1), "b": gamma(2), "c": [*gamma(3)[:-2], None, None]}
    plain = rows_of(values)
    again = with_texts(asked(values, 3, places), MANY)
    pd.testing.assert_frame_equal(summarize(again, QUICK), summarize(plain, QUICK), rtol=1e-12)
    for test in ("wilcoxon", "sign_flip"):
        how = Resampling(0.95, 999, 0, test)
        pd.testing.assert_frame_equal(
            compare(again, "a", how), compare(plain, "a", how), rtol=1e-12
        )


def test_a_text_counts_once_however_many_questions_it_has():
    """By hand: text e0 is asked twice (0.2 and 0.4), e1 four times (1.0 each)."""
    few, many = asked({"a": [0.2]}, 2), asked({"a": [0.0, 1.0]}, 4)
    few["value"] = [0.2, 0.4]
    rows = pd.concat([few, many[many["example_id"].str.startswith("e1")]], ignore_index=True)
    found = summarize(with_texts(rows, MANY), QUICK).iloc[0]
    assert (found["n"], found["n_not_ok"]) == (2, 0)
    assert found["mean"] == pytest.approx((0.3 + 1.0) / 2)
    assert found["sd"] == pytest.approx(0.7 / np.sqrt(2))


def test_questions_are_paired_before_they_are_averaged():
    """Where one setting lacks a value of a text's question, the other's does not count in the difference."""
    rows = asked({"a": [1.0, 2.0], "b": [2.0, 4.0]}, 2)
    lacking = (rows["setting_id"] == "b") & (rows["example_id"] == "e0@1")
    rows.loc[(rows["setting_id"] == "a") & (rows["example_id"] == "e0@1"), "value"] = 100.0
    rows.loc[lacking, ["value", "status"]] = [None, "failed"]
    found = compare(with_texts(rows, MANY), "a", QUICK).iloc[0]
    assert (found["n"], found["difference"]) == (2, pytest.approx((1.0 + 2.0) / 2))
    of_b = summarize(with_texts(rows, MANY), QUICK).set_index("setting_id").loc["b"]
    assert (of_b["n"], of_b["n_not_ok"]) == (2, 0)


@pytest.mark.parametrize("manifest", [{}, MANY])
def test_a_text_that_the_data_repeats_is_no_new_evidence(manifest):
    """Each text three times under ids of their own: the numbers are those of the texts alone."""
    values = {"a": gamma(1), "b": gamma(2), "c": [*gamma(3)[:-2], None, None]}
    plain = rows_of(values)
    copies = [plain.assign(example_id=plain["example_id"] + f"-{copy}") for copy in (2, 3)]
    rows = pd.concat([plain, *copies], ignore_index=True)
    names = plain["example_id"].unique()
    repeated = {plain["cell_id"][0]: {f"{name}-{copy}": name for name in names for copy in (2, 3)}}
    again = with_texts(rows, manifest, repeated)
    pd.testing.assert_frame_equal(summarize(again, QUICK), summarize(plain, QUICK), rtol=1e-12)
    pd.testing.assert_frame_equal(
        compare(again, "a", QUICK), compare(plain, "a", QUICK), rtol=1e-12
    )


def test_a_classifiers_ids_may_look_like_questions():
    rows = asked({"a": gamma(4)}, 2)
    for manifest in ({}, {"config": {"model": {"task": "sequence-classification"}}}):
        assert summarize(with_texts(rows, manifest), QUICK)["n"].item() == 24


def test_the_best_setting_is_the_best_by_text(tmp_path):
    """Setting x wins on the text with many questions, y on the three others."""
    of = {"x": [1.0, 0.0, 0.0, 0.0], "y": [0.0, 0.5, 0.5, 0.5]}
    rows = asked(of, 9)
    kept = rows["example_id"].str.startswith("e0") | rows["example_id"].str.endswith("@0")
    settings = [{"setting_id": key, "name": "ig"} for key in of]
    for manifest, best in ((MANY, "y"), ({}, "x")):
        examples = pd.DataFrame(columns=["cell_id", "example_id", "text", "text_pair"])
        run = Run(tmp_path, manifest, settings, {"rows": rows[kept], "examples": examples})
        assert best_settings(run, "srg")["ig"]["setting_id"] == best
