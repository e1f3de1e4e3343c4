"""The training of adapters on a tiny decoder: what is learnt, what is written, that it loads, and that it goes on."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from tiny_heads import tiny_head, word_tokenizer

from saliency_bench.cli import config
from saliency_bench.core.errors import InputError
from saliency_bench.data import toxic_spans
from saliency_bench.data.example import Example
from saliency_bench.models import encoder, preparing
from saliency_bench.models.loading import load_model
from saliency_bench.studies.prepare import load_configured_model
from training import interruptions, toxicity
from training.fine_tuning import train_adapter
from training.smollm2_sentiment import RECIPE

# peft asks transformers 5 by a deprecated name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

#: The class is told by one word of three.
TEXTS = [
    Example(str(n), f"w{n % 7} {'w10' if n % 2 else 'w20'} w{n % 5}", label=n % 2)
    for n in range(64)
]
QUICK = replace(RECIPE, learning_rate=3e-2, n_epochs=12, batch_size=16, dropout=0.0)
LABELS = ("negative", "positive")


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """A cache folder of its own, where trainings keep what they have learnt so far."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("SALIENCY_BENCH_CACHE", str(folder))
        yield folder / "training"


def train(base, texts, held_out, **given):
    return train_adapter(base, texts, held_out, labels=LABELS, **({"recipe": QUICK} | given))


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
    card = train(path, TEXTS, {"test": TEXTS[:20]}, seed=0, out=out)
    return path, out / "seed0", card


def test_a_decoder_learns_the_word_that_tells_the_class(made):
    _, folder, card = made
    assert card["test_accuracy"] == 1.0
    assert json.loads((folder / "training.json").read_text()) == json.loads(json.dumps(card))


def test_the_adapter_loads_onto_the_base_with_the_accuracy_of_its_card(made):
    base, folder, card = made
    model = load_model(base, adapter=str(folder), labels=LABELS)
    ids = [model.tokenizer(one.text)["input_ids"] for one in TEXTS[:20]]
    with torch.no_grad():
        found = [int(model.module(torch.tensor([one])).logits.argmax()) for one in ids]
    right = [one == text.label for one, text in zip(found, TEXTS, strict=False)]
    assert sum(right) / 20 == card["test_accuracy"]
    assert model.labels == LABELS


def test_the_classifier_is_loaded_by_name_with_its_base_and_adapter_among_its_facts(
    made, tmp_path, monkeypatch
):
    base, folder, _ = made
    monkeypatch.setattr(preparing, "prepared_folder", lambda name: base)
    monkeypatch.setattr(encoder, "MODELS", tmp_path)
    for name in ("smollm2_sentiment", "smollm2_toxicity"):
        with pytest.raises(InputError, match=f"model={name}: .* has no adapter of it"):
            load_model(name)
        (tmp_path / name).symlink_to(folder.parent)
    model = load_model("smollm2_sentiment")
    assert model.labels == LABELS
    assert model.facts["adapter_sha256"] == encoder.sha256_of(folder / "adapter_model.safetensors")
    assert model.facts["weights_sha256"] == preparing.MODELS["smollm2"].weights
    cfg = config.load(["model=smollm2_toxicity", "runtime.device=cpu"])
    toxic = load_configured_model(cfg)
    assert (toxic.name, toxic.labels) == ("smollm2-toxicity-seed0", toxic_spans.LABELS)
    with pytest.raises(
        InputError, match=r"training_seed=1: the package ships the training seeds \[0\]"
    ):
        load_configured_model(config.load(["model=smollm2_sentiment", "model.training_seed=1"]))


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
        train(base, TEXTS, {}, seed=seed, out=tmp_path)
    first = (folder / "adapter_model.safetensors").read_bytes()
    assert (tmp_path / "seed0" / "adapter_model.safetensors").read_bytes() == first
    assert (tmp_path / "seed1" / "adapter_model.safetensors").read_bytes() != first


@pytest.mark.parametrize("step", [7, 48])
def test_a_training_that_is_interrupted_goes_on_to_the_same_adapter(
    made, cache, tmp_path, monkeypatch, step
):
    """In the middle of an epoch, and after the last step, before the accuracy is measured; with dropout, which is drawn."""
    base, recipe = made[0], replace(QUICK, dropout=0.3)
    monkeypatch.setattr(interruptions, "EVERY", 7)
    train(base, TEXTS, {}, seed=0, recipe=recipe, out=tmp_path / "whole")
    keep, steps = interruptions.Progress.keep, []

    def killed(progress, number, *state):
        keep(progress, number, *state)
        steps.append(number)
        if len(steps) == step + 2 * (step < 48):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(interruptions.Progress, "keep", killed)
        with pytest.raises(KeyboardInterrupt):
            train(base, TEXTS, {}, seed=0, recipe=recipe, out=tmp_path / "torn")
        assert not (tmp_path / "torn").exists()
        assert len([*cache.iterdir()]) == 1
        n_before = len(steps)
        train(base, TEXTS, {}, seed=0, recipe=recipe, out=tmp_path / "torn")
    assert len(steps) - n_before == 48 - step  # what was kept is not done again
    files = [tmp_path / name / "seed0" / "adapter_model.safetensors" for name in ("whole", "torn")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not [*cache.iterdir()]


def test_another_text_or_recipe_does_not_go_on_with_what_was_kept(
    made, cache, tmp_path, monkeypatch
):
    def stopped(progress, *state):
        raise KeyboardInterrupt

    monkeypatch.setattr(interruptions, "EVERY", 1)
    keep = interruptions.Progress.keep
    monkeypatch.setattr(
        interruptions.Progress, "keep", lambda *given: (keep(*given), stopped(*given))
    )
    for changed in ({}, {"seed": 1}, {"recipe": replace(QUICK, rank=4)}, {"texts": TEXTS[:32]}):
        given = {"texts": TEXTS, "seed": 0} | changed
        with pytest.raises(KeyboardInterrupt):
            train(made[0], given.pop("texts"), {}, out=tmp_path, **given)
    assert len([*cache.iterdir()]) == 4


def test_toxic_comments_are_learnt_from_the_train_split_alone(tmp_path, monkeypatch):
    """Labelled comments of each split, in the order of their hashes; the numbers of a plan cut them. Classes are balanced."""
    header = "annotation,comment_id,not toxic\n"
    lines = [
        f"{n},{n // 3},{n % 9 < 3}\n" for n in range(3 * 59)
    ]  # every third comment is not toxic
    (tmp_path / "comments.csv").write_text(
        "comment_id,comment_text\n" + "".join(f"{n},comment {n}\n" for n in range(60))
    )
    (tmp_path / "annotations.csv").write_text(header + "".join(lines))
    (tmp_path / "spans.csv").write_text("annotation,start,end\n")
    calls = []
    monkeypatch.setattr(
        toxicity, "train_adapter", lambda *given, **named: calls.append((given, named))
    )
    monkeypatch.setattr(toxicity, "encoder_folder", lambda: tmp_path)
    plan = replace(toxicity.PLANS["toxicity"], n_train=20, n_held_out=3)
    for plans in (toxicity.PLANS, {"toxicity": plan}):
        monkeypatch.setattr(toxicity, "PLANS", plans)
        toxicity.main(str(tmp_path))
    ((_, train_texts, held_out), named), ((_, fewer, cut), _) = calls
    assert named["labels"] == toxic_spans.LABELS
    assert {toxic_spans.split_of(text.text) for text in train_texts} == {"train"}
    assert set(held_out) == {"validation", "test"}
    every = toxicity.comments(str(tmp_path), "train")
    assert len(every) + sum(map(len, held_out.values())) == 59  # one has no annotator
    rarest = min(Counter(text.label for text in every).values())
    assert rarest < len(every) / 2
    for chosen, most in ((train_texts, rarest), (fewer, min(rarest, 10))):
        assert Counter(text.label for text in chosen) == {0: most, 1: most}
        for label in (0, 1):
            of_class = [text for text in chosen if text.label == label]
            assert of_class == [text for text in every if text.label == label][:most]
    assert {name: len(texts) for name, texts in cut.items()} == {"validation": 3, "test": 3}
