"""Numbers of embeddings that stay by chance: the right ones, in the right share, whatever else is asked."""

import numpy as np
import pytest
import torch
from tiny import scored_by, token_inputs

from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import encoded_ids
from saliency_bench.studies.block import open_block

N_DRAWS = 400
DIMENSIONS = 6


@pytest.fixture(scope="module")
def opened():
    """A block of one text and a model whose logit is the sum of all numbers of its embeddings, with their values."""
    model = scored_by(lambda embeddings: embeddings.sum((1, 2)), dimensions=DIMENSIONS)
    (ids,) = token_inputs(5)
    embeddings = model.embed(torch.as_tensor(ids["input_ids"])[None])[0].numpy()
    return model, encoded_ids(model, ids, "0", None, ""), embeddings


def blur(opened, stays, n_draws=N_DRAWS, token_budget=2048, name="text"):
    model, item, _ = opened
    with model.frozen():
        block = open_block(References(model), [item], "predicted", token_budget)
        return block.blurring(0, np.asarray(stays, dtype=float), n_draws, name)[:, 0]


def test_each_number_stays_with_its_token_s_probability(opened):
    embeddings = opened[2]
    stays = np.linspace(0.1, 0.9, len(embeddings))
    answers = blur(opened, stays)
    expected = (stays[:, None] * embeddings).sum()
    # The variance of a sum of independent numbers that stay with probability p is Σ p (1 - p) e².
    spread = np.sqrt((stays * (1 - stays) @ embeddings**2).sum())
    assert abs(answers.mean() - expected) < 4 * spread / np.sqrt(N_DRAWS)
    # 4 standard errors of the variance of nearly normal numbers.
    assert answers.var() == pytest.approx(spread**2, rel=4 * np.sqrt(2 / N_DRAWS))


def test_certain_numbers_stay_and_impossible_ones_go_in_every_draw(opened):
    embeddings = opened[2]
    stays = np.arange(len(embeddings)) % 2
    expected = (stays[:, None] * embeddings).sum()
    np.testing.assert_allclose(blur(opened, stays, 8), expected, rtol=1e-12)


def test_draws_belong_to_the_text_and_not_to_the_passes_that_they_fit_in(opened):
    stays = np.full(len(opened[2]), 0.5)
    whole = blur(opened, stays, 16)
    np.testing.assert_allclose(blur(opened, stays, 16, token_budget=1), whole, rtol=1e-12)
    np.testing.assert_allclose(blur(opened, stays, 4), whole[:4], rtol=1e-12)
    assert not np.allclose(blur(opened, stays, 16, name="another"), whole)


def test_what_stays_at_a_probability_stays_at_every_larger_one(opened):
    model = scored_by(lambda embeddings: (embeddings != 0).double().sum((1, 2)))
    counting = (model, *opened[1:])
    less, more = (blur(counting, np.full(len(opened[2]), p), 32) for p in (0.3, 0.6))
    assert (less <= more).all()
    assert less.sum() < more.sum()
