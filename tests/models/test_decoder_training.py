"""The recipe of the decoder's sentiment adapter, on a tiny decoder: what is learnt, what is written, and that it loads."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_heads import tiny_head, word_tokenizer

from saliency_bench.data.example import Example
from saliency_bench.models.loading import load_model
from training.smollm2_sentiment import RECIPE, train

# peft asks transformers 5 by a deprecated name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

#: The class is told by one word of three.
TEXTS = [
    Example(str(n), f"w{n % 7} {'w10' if n % 2 else 'w20'} w{n % 5}", label=n % 2)
    for n in range(64)
]
QUICK = replace(RECIPE, learning_rate=3e-2, n_epochs=12, batch_size=16, dropout=0.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The base, the folder of adapters, and the card of one that was trained."""
    path = tmp_path_factory.mktemp("base")
    base = tiny_head("text-generation", "llama").float()
    base.config.tie_word_embeddings = (
        True  # as SmolLM2's are: a classifier on it leaves no layer unused
    )
    base.tie_weights()
    base.save_pretrained(path)
    word_tokenizer(path).save_pretrained(path)
    out = tmp_path_factory.mktemp("adapters")
    card = train(path, TEXTS, {"test": TEXTS[:20]}, seed=0, recipe=QUICK, out=out)
    return path, out / "seed0", card


def test_a_decoder_learns_the_word_that_tells_the_class(made):
    _, folder, card = made
    assert card["test_accuracy"] == 1.0
    assert json.loads((folder / "training.json").read_text()) == json.loads(json.dumps(card))


def test_the_adapter_loads_onto_the_base_with_the_accuracy_of_its_card(made):
    base, folder, card = made
    model = load_model(base, adapter=str(folder), labels=["negative", "positive"])
    ids = [model.tokenizer(one.text)["input_ids"] for one in TEXTS[:20]]
    with torch.no_grad():
        found = [int(model.module(torch.tensor([one])).logits.argmax()) for one in ids]
    right = [one == text.label for one, text in zip(found, TEXTS, strict=False)]
    assert sum(right) / 20 == card["test_accuracy"]
    assert model.labels == ("negative", "positive")


def test_only_the_layers_of_the_recipe_and_the_head_are_in_the_adapter(made):
    from safetensors import safe_open

    with safe_open(made[1] / "adapter_model.safetensors", "pt") as held:
        names = set(held.keys())
    layers = {name.split(".")[-3] for name in names if "lora" in name}
    assert layers == {*RECIPE.targets}
    assert [name for name in names if "lora" not in name] == ["base_model.model.score.weight"]


def test_the_same_seed_trains_the_same_adapter_and_another_seed_another(made, tmp_path):
    base, folder, _ = made
    for seed in (0, 1):
        train(base, TEXTS, {}, seed=seed, recipe=QUICK, out=tmp_path)
    first = (folder / "adapter_model.safetensors").read_bytes()
    assert (tmp_path / "seed0" / "adapter_model.safetensors").read_bytes() == first
    assert (tmp_path / "seed1" / "adapter_model.safetensors").read_bytes() != first
