"""What vanilla gradients cost beside a loop by hand: all contestants compute the same."""

import pytest

from benchmarks import rounds, vanilla_cost
from saliency_bench.data import movie_reviews

N_TEXTS = 5


@pytest.fixture(scope="module")
def texts():
    return [example.text for example in movie_reviews.load(split="test")[:N_TEXTS]]


def test_every_contestant_has_the_same_scores_in_the_order_of_the_texts(default_model, texts):
    with default_model.frozen():
        calls = vanilla_cost.contestants(default_model, texts, 2)
        alone = [vanilla_cost.by_hand(default_model, [text], 1)[0] for text in texts]
        for name, call in calls.items():
            assert vanilla_cost.largest_difference(call(), alone) <= vanilla_cost.SAME, name
    wrong = [*alone[:-1], [0.0, *alone[-1][1:]]]
    assert vanilla_cost.largest_difference(wrong, alone) > vanilla_cost.SAME


def test_every_contestant_is_held_against_the_loop_by_hand_of_its_own_round(
    default_model, texts, monkeypatch
):
    seconds = iter(range(1, 100))
    monkeypatch.setattr(rounds, "process_seconds", lambda run: float(next(seconds)))
    size, table = vanilla_cost.ratios(default_model, texts[:2], 2)
    first = 2 * len(vanilla_cost.BATCH_SIZES) + 1
    assert size == vanilla_cost.BATCH_SIZES[0]
    assert list(table[vanilla_cost.PUBLIC]) == [(first + 3) / first, (first + 6) / (first + 7)]
    assert list(table[vanilla_cost.HAND]) == [1, 1]
