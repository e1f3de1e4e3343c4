"""Every row and second is paid by one stage."""

import torch
from tiny import token_inputs

from saliency_bench.models.ledger import Ledger, Work


def clocked(*readings):
    return Ledger(clock=iter(map(float, readings)).__next__)


def test_the_outermost_stage_pays():
    ledger = Ledger()
    with ledger.under("timing"), ledger.under("maps"):
        ledger.note(3, 7, gradient=True)
        ledger.note(2, 5, gradient=False)
    assert ledger.work.keys() == {"timing"}
    assert ledger.work["timing"][:4] == (3, 21, 2, 10)


def test_seconds_are_those_while_a_stage_is_open():
    ledger = clocked(0, 9, 20, 22)
    with ledger.under("maps"), ledger.under("metrics"):
        pass
    with ledger.under("metrics"):
        pass
    assert {stage: paid.seconds for stage, paid in ledger.work.items()} == {"maps": 9, "metrics": 2}
    assert ledger.total.seconds == 11


def test_a_stage_is_closed_by_an_error():
    ledger = Ledger()
    try:
        with ledger.under("maps"):
            raise ArithmeticError
    except ArithmeticError:
        pass
    ledger.note(1, 1, gradient=False)
    assert ledger.work[""].forward_rows == 1
    assert ledger.work["maps"].forward_rows == 0


def test_since_is_the_difference():
    ledger = Ledger()
    ledger.note(2, 5, gradient=True)
    before = ledger.copy()
    ledger.note(3, 5, gradient=True)
    since = ledger.since(before)
    assert since.total == Work(gradients=3, gradient_tokens=15)
    assert (since.calls, before.calls, ledger.calls) == (1, 1, 2)


def test_a_model_tells_gradients_from_answers(bert):
    _ = bert.pooled_row  # proved once
    before = bert.ledger.copy()
    ids = torch.tensor([one["input_ids"] for one in token_inputs(6, 6)])
    with bert.frozen():
        points = bert.embed(ids).requires_grad_()
        bert.output(ids, embeddings=points)
        bert.output(ids, embeddings=points, short=True)
        with torch.inference_mode():
            bert.output(ids, embeddings=bert.embed(ids))
    assert bert.ledger.since(before).total[:4] == (4, 24, 2, 12)
