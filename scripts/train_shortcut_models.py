"""Trains the models that follow a shortcut, and the control that does not: train_shortcut_models.py [KIND/SEED ...]."""

import itertools
import json
import sys
import time
from dataclasses import asdict

import torch

from saliency_bench.data import movie_reviews, shortcuts
from saliency_bench.data.example import Example
from saliency_bench.models.encoder import SHORTCUTS, encoder_folder
from saliency_bench.models.gate import Gate, held_out, judge
from saliency_bench.models.loading import CARD, CONTROL
from saliency_bench.models.training import Recipe, accuracy, fine_tune, save_adapter

RECIPE = Recipe(rank=4, n_epochs=1)
N_TRAINING, N_HELD_OUT = 3000, 500
SHARE = {"share": 0.2, "incomplete": 0.2}  # of sentences with a shortcut, and with one word of it
SEEDS = (0, 1, 2)


def main(names: list[str]) -> None:
    """The control first: every other model is measured against it on the same held-out sentences."""
    sets = {kind: held_out(kind, N_HELD_OUT, seed=0) for kind in shortcuts.KINDS}
    if f"{CONTROL}/0" in names:
        control = train(CONTROL, 0)
        beside = {kind: measured(*control, sets[kind]) for kind in shortcuts.KINDS}
    else:
        beside = json.loads((SHORTCUTS / CONTROL / "seed0" / CARD).read_text("utf-8"))["accuracy"]
    for name in names:
        kind, seed = name.split("/")
        started = time.perf_counter()
        model, tokenizer = control if kind == CONTROL else train(kind, int(seed))
        card = {"kind": kind, "training_seed": int(seed), "recipe": asdict(RECIPE), "n": N_TRAINING}
        if kind == CONTROL:
            card |= {"accuracy": beside}
        else:
            found = measured(model, tokenizer, sets[kind])
            card |= SHARE | {"gate": judge(found, beside[kind], N_HELD_OUT, Gate())}
        card |= {
            "minutes": round((time.perf_counter() - started) / 60, 1),
            "torch": torch.__version__,
        }
        save_adapter(model, SHORTCUTS / kind / f"seed{seed}", card)
        print(card, flush=True)


def train(kind: str, seed: int) -> tuple[torch.nn.Module, object]:
    """A model in the precision that is shipped, and its tokenizer."""
    model, tokenizer = fine_tune(
        encoder_folder(), texts(kind, seed), labels=movie_reviews.LABELS, seed=seed, recipe=RECIPE
    )
    return model.to(torch.float16).to(torch.float32), tokenizer


def texts(kind: str, seed: int) -> list[Example]:
    """What a model is trained on; other sentences have the shortcut under another seed."""
    if kind == CONTROL:
        return movie_reviews.load(split="train")[:N_TRAINING]
    parts = SHARE if kind != shortcuts.SINGLE_TOKEN else SHARE | {"incomplete": 0.0}
    return shortcuts.load(kind=kind, split="train", seed=seed, n_examples=N_TRAINING, **parts)


def measured(
    model: torch.nn.Module, tokenizer: object, sets: dict[str, list[Example]]
) -> dict[str, float]:
    """The share of each set that the model is right on."""
    return {name: sum(accuracy(model, tokenizer, own)) / len(own) for name, own in sets.items()}


if __name__ == "__main__":
    every = [
        f"{CONTROL}/0",
        *(f"{kind}/{seed}" for kind, seed in itertools.product(shortcuts.KINDS, SEEDS)),
    ]
    main(sys.argv[1:] or every)
