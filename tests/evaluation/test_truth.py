"""Rankings against what is known to matter: definitions written down again, and what chance would give."""

from itertools import permutations

import numpy as np
import pytest

from saliency_bench.evaluation import truth as t
from saliency_bench.evaluation.metrics import INFO, METRICS, NotApplicable

TRUTH = sorted(name for name, info in INFO.items() if info.reads == "truth")
HYPER = {"token_f1": {"share": 0.3}, "token_iou": {"share": 0.3}, "pointing_game": {"k": 1}}
SEEDS = pytest.mark.parametrize("seed", range(6))


def truth(scores, relevant):
    scores = np.array(scores, dtype=float)
    known = None if relevant is None else np.array(relevant, dtype=bool)
    return t.Truth(scores, np.argsort(-scores, kind="stable"), known)


def drawn(seed, n=9):
    """Scores with ties, and which of them matter: some, and not all."""
    rng = np.random.default_rng(seed)
    relevant = np.arange(n) < rng.integers(1, n)
    return rng.integers(0, 6, n).astype(float), rng.permutation(relevant)


def of(name, scores, relevant):
    return METRICS[name](truth(scores, relevant), **HYPER.get(name, {}))


@SEEDS
def test_average_precision_is_the_area_of_steps_over_all_thresholds(seed):
    scores, relevant = drawn(seed)
    area, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = scores >= threshold
        recall = (chosen & relevant).sum() / relevant.sum()
        area += (recall - before) * (chosen & relevant).sum() / chosen.sum()
        before = recall
    assert of("auprc", scores, relevant) == pytest.approx(area, abs=1e-12)


def test_average_precision_of_equal_scores_is_the_share_that_matters():
    assert of("auprc", [1, 1, 1, 1], [1, 0, 0, 0]) == 0.25


@SEEDS
def test_overlaps_are_those_of_sets(seed):
    scores, relevant = drawn(seed)
    scores = scores + np.arange(9) * 1e-3  # no ties: the set of the highest is one set
    order = sorted(range(9), key=lambda unit: -scores[unit])
    wanted = {unit for unit in range(9) if relevant[unit]}
    best = set(order[: len(wanted)])
    assert of("precision_at_k", scores, relevant) == len(best & wanted) / len(best)
    assert of("mean_rank", scores, relevant) == 1 + max(order.index(unit) for unit in wanted)
    top = set(order[:3])  # ⌈0.3 · 9⌉
    precision, recall = len(top & wanted) / 3, len(top & wanted) / len(wanted)
    f1 = 0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)
    assert of("token_f1", scores, relevant) == pytest.approx(f1)
    assert of("token_iou", scores, relevant) == len(top & wanted) / len(top | wanted)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_chance_is_what_the_docstrings_say(k):
    relevant = np.arange(5) < k
    orders = [np.array(order, dtype=float) for order in permutations(range(5))]
    assert np.mean([of("precision_at_k", one, relevant) for one in orders]) == pytest.approx(k / 5)
    assert np.mean([of("mean_rank", one, relevant) for one in orders]) == pytest.approx(
        k * 6 / (k + 1)
    )


@pytest.mark.parametrize("name", TRUTH)
def test_the_right_ranking_reaches_the_best_value_and_its_reverse_is_worse(name):
    relevant = np.array([1, 0, 1, 0, 0, 0, 0, 0, 0, 1], dtype=bool)  # as many as 30 % of them
    right = of(name, relevant * 2.0 - np.arange(10) * 1e-3, relevant)
    wrong = of(name, relevant * -2.0 - np.arange(10) * 1e-3, relevant)
    best = {"mean_rank": 3.0}.get(name, 1.0)
    assert right == pytest.approx(best)
    assert (right > wrong) == INFO[name].higher_is_better


@pytest.mark.parametrize("name", TRUTH)
@pytest.mark.parametrize(
    ("relevant", "words"),
    [
        (None, "nothing is known"),
        ([0, 0, 0], "no unit"),
        ([1, 1, 1], "every unit"),
        ([], "no unit"),
    ],
)
def test_a_text_in_which_no_ranking_is_better_says_nothing(name, relevant, words):
    scores = [3.0, 2.0, 1.0] if relevant is None else np.arange(len(relevant))
    with pytest.raises(NotApplicable, match=words):
        of(name, scores, relevant)
