"""Others' definitions, against their formulas written down again, and where they part from ours."""

import numpy as np
import pytest
from evaluation.lookup import curve_of, query_of, table

from saliency_bench.evaluation import as_published as a
from saliency_bench.evaluation.faithfulness import comprehensiveness
from saliency_bench.evaluation.metrics import NotApplicable

TENTHS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
SEEDS = pytest.mark.parametrize("seed", range(4))


def table_of(seed, n_units):
    """A model that is a table of probabilities, by the units that stay."""
    values = np.random.default_rng(seed).random(2**n_units)
    return lambda stays: float(values[sum(1 << int(unit) for unit in stays)])


def without(removed, n_units):
    return [unit for unit in range(n_units) if unit not in removed]


@SEEDS
@pytest.mark.parametrize("n_units", [1, 4, 7, 12])
def test_ferrets_sets_are_positive_rounded_down_and_each_there_once(seed, n_units):
    f, scores = table_of(seed, n_units), np.random.default_rng(seed + 9).normal(size=n_units)
    order = sorted(range(n_units), key=lambda unit: -scores[unit])
    sets = []
    for tenth in range(1, 11):
        own = {unit for unit in order[: int(tenth / 10 * n_units)] if scores[unit] > 0}
        if own and own not in sets:
            sets.append(own)
    full = f(range(n_units))
    gone = [full - f(without(own, n_units)) for own in sets]
    alone = [full - f(own) for own in sets]
    one, _ = query_of(f, scores)
    assert a.ferret_comprehensiveness(one, shares=TENTHS) == pytest.approx(
        np.mean(gone) if sets else 0
    )
    assert a.ferret_sufficiency(one, shares=TENTHS) == pytest.approx(np.mean(alone) if sets else 1)


def test_where_no_score_is_positive_ferret_has_the_worst_values():
    one, asked = query_of(table_of(0, 3), [-1.0, -2.0, 0.0])
    assert a.ferret_comprehensiveness(one, shares=TENTHS) == 0
    assert a.ferret_sufficiency(one, shares=TENTHS) == 1
    assert asked == []


@SEEDS
def test_dig_removes_a_fifth_rounded_down(seed):
    n_units = 12
    f, scores = table_of(seed, n_units), np.random.default_rng(seed).normal(size=n_units)
    top = set(sorted(range(n_units), key=lambda unit: -scores[unit])[:2])  # 2.4, rounded down
    one, _ = query_of(f, scores)
    full = f(range(n_units))
    gone = full - f(without(top, n_units))
    assert a.dig_comprehensiveness(one, share=0.2) == pytest.approx(gone)
    assert a.dig_log_odds(one, share=0.2) == pytest.approx(-gone)
    assert a.dig_sufficiency(one, share=0.2) == pytest.approx(full - f(top))


def test_dig_gives_the_best_sufficiency_where_it_removes_nothing():
    one, _ = query_of(table_of(1, 4), [4.0, 3.0, 2.0, 1.0])
    assert a.dig_sufficiency(one, share=0.2) == 0
    assert a.dig_comprehensiveness(one, share=0.2) == 0
    assert a.dig_log_odds(one, share=0.2) == 0


def test_rounding_down_is_where_dig_and_ours_part():
    # Three units: a fifth of them is none for DIG and one for us.
    said = {"012": 0.9, "12": 0.3, "0": 0.5, "": 0.1}
    ours = comprehensiveness(curve_of(table(said), [0, 1, 2], [[0.2]]), grid=[0.2])
    one, _ = query_of(lambda stays: said["".join(map(str, stays))], [3.0, 2.0, 1.0])
    assert ours == pytest.approx(0.6)
    assert a.dig_comprehensiveness(one, share=0.2) == 0


def test_a_share_is_multiplied_in_floats_as_there():
    assert a._floor(0.29, 100) == 28
    assert a._floor(0.7, 10) == 7


def test_a_text_without_units_says_nothing():
    one, _ = query_of(lambda stays: 0.5, [])
    for metric in (a.dig_comprehensiveness, a.dig_sufficiency, a.dig_log_odds):
        with pytest.raises(NotApplicable):
            metric(one, share=0.2)
    assert a.ferret_comprehensiveness(one, shares=TENTHS) == 0
