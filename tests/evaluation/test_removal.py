"""The replacing probe against one forward pass per question, and what it costs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import token_inputs

from saliency_bench.core.errors import InputError
from saliency_bench.evaluation.curves import Explained, evaluate_curves
from saliency_bench.evaluation.grid import FULL
from saliency_bench.evaluation.removal import removal_probe
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import collate, encoded_ids

LENGTHS = (5, 3, 6)


@pytest.fixture
def batch(bert):
    """Three texts of unequal length; the first token of each is special."""
    encoded = [
        encoded_ids(bert, item, str(index), None, "inputs")
        for index, item in enumerate(token_inputs(*LENGTHS))
    ]
    return collate(bert, [replace(item, special=(True, *item.special[1:])) for item in encoded])


@pytest.fixture
def rows_asked(bert, monkeypatch):
    """Rows of each forward pass that the model makes."""
    rows = []
    output = type(bert).output

    def counting(self, input_ids, *rest, **options):
        rows.append(len(input_ids))
        return output(self, input_ids, *rest, **options)

    monkeypatch.setattr(type(bert), "output", counting)
    return rows


def random_questions(n_questions):
    rng = np.random.default_rng(0)
    examples = rng.integers(0, len(LENGTHS), n_questions)
    return examples, [rng.random(LENGTHS[example]) < 0.5 for example in examples]


def slow_answer(bert, batch, example, keep):
    """One text alone, without padding; removed embeddings are zero, the special token stays."""
    ids = torch.tensor([batch.encoded[example].input_ids])
    embeddings = bert.embed(ids).clone()
    for position in range(1, ids.shape[1]):
        if not keep[position]:
            embeddings[0, position] = 0
    return bert.output(ids, None, None, embeddings)[0].detach().numpy()


@pytest.mark.parametrize("token_budget", [1, 13, 1000])
def test_answers_are_those_of_one_text_at_a_time(bert, batch, token_budget):
    probe = removal_probe(References(bert), batch, "zero", token_budget)
    examples, keep = random_questions(20)
    answers = probe(examples, keep)
    assert answers.dtype == np.float64
    for answer, example, kept in zip(answers, examples, keep, strict=True):
        # float64 sums of 16 to 32 terms through two layers, padded or not.
        np.testing.assert_allclose(
            answer, slow_answer(bert, batch, example, kept), rtol=0, atol=1e-12
        )


def test_removing_nothing_changes_nothing(bert, batch):
    probe = removal_probe(References(bert), batch, "zero", 1000)
    answers = probe(np.arange(3), [np.ones(length, bool) for length in LENGTHS])
    clean = bert.output(batch.input_ids, batch.mask, None)
    np.testing.assert_allclose(answers, clean.detach().numpy(), rtol=0, atol=1e-12)


def test_a_special_token_cannot_be_removed(bert, batch):
    probe = removal_probe(References(bert), batch, "zero", 1000)
    keep = np.ones(5, bool)
    with_special = probe(np.array([0]), [keep])
    keep[0] = False
    assert np.array_equal(probe(np.array([0]), [keep]), with_special)
    assert probe.n_distinct == 1


@pytest.mark.parametrize("token_budget", [1, 1000])
def test_each_distinct_question_costs_one_row_whoever_asks(bert, batch, rows_asked, token_budget):
    probe = removal_probe(References(bert), batch, "zero", token_budget)
    examples, keep = random_questions(200)
    distinct = {
        (example, tuple(kept[1:])) for example, kept in zip(examples.tolist(), keep, strict=True)
    }
    rows_asked.clear()
    probe(examples, keep)
    assert sum(rows_asked) == probe.n_distinct == len(distinct) < 200
    probe(examples[::-1], keep[::-1])
    assert sum(rows_asked) == len(distinct)
    assert probe.n_posed == 400


def test_rows_of_a_pass_stay_within_the_token_budget(bert, batch, rows_asked):
    probe = removal_probe(References(bert), batch, "zero", token_budget=13)
    rows_asked.clear()
    probe(*random_questions(50))
    assert max(rows_asked) * max(LENGTHS) <= 13


def curves(probe, rankings, grids):
    units = [np.array([-1, *range(1, length)]) for length in LENGTHS]
    classes = [Explained(target) for target in range(3)]
    return evaluate_curves(probe, rankings, units, classes, [0, 0, 0], grids, "probability")


def test_deletion_and_insertion_of_all_settings_share_their_questions(bert, batch, rows_asked):
    probe = removal_probe(References(bert), batch, "zero", 1000)
    forwards = {("a", i): np.arange(1, length) for i, length in enumerate(LENGTHS)}
    backwards = {("b", i): np.arange(1, length)[::-1] for i, length in enumerate(LENGTHS)}
    rows_asked.clear()
    curves(probe, forwards, [FULL])
    # Of U tokens: U + 1 sets without the top k and as many with them only; both ends are shared.
    expected = sum(2 * (length - 1 + 1) - 2 for length in LENGTHS)
    assert sum(rows_asked) == expected
    curves(probe, forwards | backwards, [FULL])
    assert sum(rows_asked) == expected


def test_a_grid_inside_another_adds_no_question(bert, batch, rows_asked):
    probe = removal_probe(References(bert), batch, "zero", 1000)
    rankings = {("a", i): np.arange(1, length) for i, length in enumerate(LENGTHS)}
    curves(probe, rankings, [FULL])
    before = sum(rows_asked)
    curves(probe, rankings, [FULL, "eraser", "deciles", [0.3]])
    assert sum(rows_asked) == before


def test_an_unknown_operator_is_refused_with_the_nearest_name(bert, batch):
    with pytest.raises(InputError, match="'zero'"):
        removal_probe(References(bert), batch, "zeros", 1000)
