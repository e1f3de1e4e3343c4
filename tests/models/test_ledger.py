"""Every row and second has one place."""

import torch
from tiny import token_inputs

from saliency_bench.models.ledger import DENSITY, Asked, Ledger, Place


def clocked(*readings):
    return Ledger(clock=iter(map(float, readings)).__next__)


def test_the_outermost_stage_and_the_innermost_part_hold():
    ledger = Ledger()
    with ledger.under("timing"), ledger.under("maps", "a"), ledger.under("curves", "b"):
        ledger.note(3, 7, gradient=True, short=False)
    assert ledger.rows == {Asked(Place("timing", "b"), True, False, 7): 3}


def test_what_is_learnt_once_has_no_parts():
    ledger = Ledger()
    with ledger.under("maps", DENSITY), ledger.under(part="texts"):
        ledger.note(1, 1, gradient=True, short=True)
    assert [asked.place.part for asked in ledger.rows] == [DENSITY]


def test_seconds_are_a_places_own_and_add_up_to_the_whole():
    # Opened at 0, inside from 1 to 4, closed at 9; what passes outside any place belongs to none.
    ledger = clocked(0, 1, 4, 9, 20, 22)
    with ledger.under("maps"), ledger.under(part="a"):
        pass
    with ledger.under("curves"):
        pass
    assert ledger.seconds == {
        Place("maps", ""): 1 + 5,
        Place("maps", "a"): 3,
        Place("curves", ""): 2,
    }


def test_a_place_is_closed_by_an_error():
    ledger = Ledger()
    try:
        with ledger.under("maps"):
            raise ArithmeticError
    except ArithmeticError:
        pass
    ledger.note(1, 1, gradient=False, short=False)
    assert next(iter(ledger.rows)).place == Place("", "")


def test_since_is_the_difference():
    ledger = Ledger()
    ledger.note(2, 5, gradient=True, short=True)
    before = ledger.copy()
    ledger.note(3, 5, gradient=True, short=True)
    since = ledger.since(before)
    assert list(since.rows.values()) == [3]
    assert (since.calls, before.calls, ledger.calls) == (1, 1, 2)


def test_a_model_tells_gradients_from_answers(bert):
    before = bert.ledger.copy()
    ids = torch.tensor([one["input_ids"] for one in token_inputs(6, 6)])
    with bert.frozen():
        points = bert.embed(ids).requires_grad_()
        bert.output(ids, embeddings=points)
        bert.output(ids, embeddings=points, short=True)
        with torch.inference_mode():
            bert.output(ids, embeddings=bert.embed(ids))
    kinds = {
        (one.gradient, one.short, one.width): n for one, n in bert.ledger.since(before).rows.items()
    }
    # A proof of the short last layer may be among them, on texts of another length.
    assert kinds[True, False, 6] == kinds[True, True, 6] == kinds[False, False, 6] == 2
