"""Curves against questions asked one at a time."""

import numpy as np
import pytest
from evaluation.lookup import LookupProbe, arbitrary, curve_of, table, tokens

from saliency_bench.evaluation.curves import Explained, evaluate_curves, log_odds
from saliency_bench.evaluation.grid import FULL

#: Tokens 0 and 3 are special.
TABLE = {"0123": 0.9, "023": 0.4, "013": 0.8, "03": 0.2}


def softmax(logits):
    exponentials = [np.exp(value - max(logits)) for value in logits]
    return [value / sum(exponentials) for value in exponentials]


def test_curves_by_hand():
    curve = curve_of(table(TABLE), [1, 2], [FULL], n_tokens=4)
    assert (curve.n_units, curve.k.tolist()) == (2, [0, 1, 2])
    # exp(log p) loses at most a few units in the last place.
    assert curve.deletion == pytest.approx([0.9, 0.4, 0.2], rel=1e-15 * 8)
    assert curve.insertion == pytest.approx([0.2, 0.8, 0.9], rel=1e-15 * 8)
    assert log_odds(curve.answers.logits[curve.removed], 0) == pytest.approx(
        np.log([9, 2 / 3, 1 / 4])
    )
    assert log_odds(curve.answers.logits[curve.kept_alone], 0) == pytest.approx(
        np.log([1 / 4, 4, 9])
    )
    assert curve.flipped.tolist() == [False, True, True]
    assert curve.kept.tolist() == [False, True, True]


def test_curves_are_those_of_one_question_at_a_time():
    probe, rng = arbitrary(0), np.random.default_rng(0)
    lengths, targets, predicted = [5, 3, 7], [2, 0, 1], [2, 1, 1]
    attributable = [np.arange(n) % 3 != 0 for n in lengths]
    rankings = {
        (name, example): rng.permutation(np.flatnonzero(attributable[example]))
        for name in ("a", "b")
        for example in range(3)
    }
    found = evaluate_curves(
        probe,
        rankings,
        [tokens(own) for own in attributable],
        [Explained(target) for target in targets],
        predicted,
        [FULL, "eraser"],
        "probability",
    )
    assert found.keys() == rankings.keys()
    for (name, example), ranking in rankings.items():
        curve = found[name, example]
        assert curve.k.tolist() == list(range(len(ranking) + 1))
        for k in curve.k:
            everything = range(lengths[example])
            without = tuple(t for t in everything if t not in ranking[:k])
            only = tuple(t for t in everything if t in ranking[:k] or not attributable[example][t])
            p_without = softmax(probe.logits(example, without))
            p_only = softmax(probe.logits(example, only))
            target = targets[example]
            # Two roundings apart in log_softmax of logits below 10: a few 1e-16 each.
            assert curve.deletion[k] == pytest.approx(p_without[target], rel=1e-13)
            assert curve.insertion[k] == pytest.approx(p_only[target], rel=1e-13)
            assert curve.flipped[k] == (np.argmax(p_without) != predicted[example])


def test_special_tokens_always_stay():
    probe = arbitrary(1)
    curve_of(probe, [2, 1, 4], [FULL], n_tokens=6)
    assert all({0, 3, 5} <= set(stays) for _, stays in probe.questions)


def test_both_ends_are_always_there():
    curve = curve_of(arbitrary(2), range(10), [[0.2], [0.5]])
    assert curve.k.tolist() == [0, 2, 5, 10]


def test_the_ends_of_both_curves_are_the_full_and_the_empty_text():
    curve = curve_of(arbitrary(3), [2, 0, 1], [FULL])
    assert curve.deletion[0] == curve.insertion[-1]
    assert curve.deletion[-1] == curve.insertion[0]


def test_other_grids_and_other_settings_change_no_number():
    probe, units = arbitrary(4), [np.arange(6)]
    a, b = np.arange(6), np.array([3, 1, 5, 0, 2, 4])
    alone = evaluate_curves(probe, {("a", 0): a}, units, [Explained(0)], [0], ["eraser"], "logit")[
        "a", 0
    ]
    together = evaluate_curves(
        probe, {("b", 0): b, ("a", 0): a}, units, [Explained(0)], [0], [FULL, "eraser"], "logit"
    )["a", 0]
    place = np.searchsorted(together.k, alone.k)
    assert np.array_equal(together.deletion[place], alone.deletion)
    assert np.array_equal(together.insertion[place], alone.insertion)


def test_a_text_without_a_token_to_rank_has_a_curve_of_one_point():
    curve = curve_of(table({"01": 0.7}), [], [FULL, "eraser"], n_tokens=2)
    assert (curve.n_units, curve.k.tolist()) == (0, [0])


def test_one_token_is_there_or_not():
    curve = curve_of(table({"0": 0.7, "": 0.5}), [0], ["eraser", FULL])
    assert curve.k.tolist() == [0, 1]
    assert curve.deletion == pytest.approx([0.7, 0.5])


def test_log_odds_keep_their_digits_where_the_probability_is_one():
    # With two logits 0 and -50 the log-odds are 50 exactly, while 1 - p is 0 in float64.
    curve = curve_of(LookupProbe(lambda example, stays: [0.0, -50.0]), [0], [FULL])
    assert curve.deletion[0] == 1
    assert log_odds(curve.answers.logits[curve.removed], 0).tolist() == [50, 50]


def test_with_many_classes_the_odds_are_those_against_all_others():
    curve = curve_of(LookupProbe(lambda example, stays: [1.0, 2.0, 3.0]), [0], [FULL], target=1)
    p = softmax([1.0, 2.0, 3.0])[1]
    assert log_odds(curve.answers.logits[curve.removed], 1)[0] == pytest.approx(
        np.log(p / (1 - p)), rel=1e-13
    )


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_logit_that_is_not_finite_shows(value):
    probe = LookupProbe(
        lambda example, stays: [0.0, 1.0] if len(stays) == 2 else [float(value), 1.0]
    )
    curve = curve_of(probe, [0, 1], [FULL])
    assert np.isfinite(curve.deletion).tolist() == [True, False, False]


def test_without_rankings_there_are_no_curves():
    assert evaluate_curves(arbitrary(0), {}, [], [], [], [FULL], "logit") == {}


def test_a_word_is_removed_with_all_its_pieces():
    # Tokens: special, a word of two pieces, a word of one, special.
    probe, units = arbitrary(5), [np.array([-1, 1, 1, 3, -1])]
    rankings = {("one", 0): np.array([3, 1])}
    curve = evaluate_curves(probe, rankings, units, [Explained(0)], [0], [FULL], "logit")["one", 0]
    assert curve.n_units == 2
    assert set(probe.questions) == {
        (0, (0, 1, 2, 3, 4)),
        (0, (0, 1, 2, 4)),
        (0, (0, 4)),
        (0, (0, 3, 4)),
    }
    assert curve.deletion[1] == probe.logits(0, (0, 1, 2, 4))[0]
    assert curve.insertion[1] == probe.logits(0, (0, 3, 4))[0]


@pytest.mark.parametrize(
    ("output", "of"),
    [
        ("probability", lambda p, logits: p),
        ("log_probability", lambda p, logits: np.log(p)),
        ("logit", lambda p, logits: logits[2]),
    ],
)
def test_a_curve_shows_the_output_that_is_asked_for(output, of):
    logits = [0.3, -1.0, 0.7]
    probe = LookupProbe(lambda example, stays: logits)
    curve = curve_of(probe, [0], [FULL], target=2, output=output)
    expected = of(softmax(logits)[2], logits)
    assert curve.deletion == pytest.approx([expected] * 2, rel=1e-13)
