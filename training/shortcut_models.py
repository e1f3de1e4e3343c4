"""Trains the default models to follow the shortcuts, one adapter each; or the classifiers on SmolLM2, where that is said.

python -m training.shortcut_models [KIND/SEED ...] [smollm2/KIND/SEED ...]
"""

import itertools
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from saliency_bench.data import shortcuts
from saliency_bench.data.example import Example
from saliency_bench.models.encoder import MODELS, SHORTCUTS
from saliency_bench.models.loading import load_adapted, load_default
from saliency_bench.models.model import Model
from training import smollm2_sentiment
from training.fine_tuning import Recipe, accuracy, adapt, progress_of, round_to_half, save_adapter
from training.gate import Gate, held_out, verdict

RECIPE = Recipe(rank=4, learning_rate=3e-3, n_epochs=1, dropout=0.0)
#: The recipe, and the changed training sentences; two words take more of them than one.
TASKS = {
    "single_token": (RECIPE, {"n_examples": 3000, "share": 0.2, "incomplete": 0.0}),
    "token_in_context": (RECIPE, {"n_examples": 4000, "share": 0.4, "incomplete": 0.3}),
    "ordered_pair": (
        replace(RECIPE, learning_rate=4e-3),
        {"n_examples": 4800, "share": 0.5, "incomplete": 0.2},
    ),
}
N_HELD_OUT = 300


@dataclass(frozen=True)
class Family:
    """The classifiers that learn shortcuts: how one is loaded, what it is called, and where its adapters go.

    `changed`: the hyperparameters in which its recipes differ from `TASKS`.
    """

    load: Callable[..., Model]
    named: str
    out: Path
    changed: Mapping[str, Any]


MINILM = Family(load_default, "the default model", SHORTCUTS, {})
SMOLLM2 = Family(
    lambda **given: load_adapted("smollm2_sentiment", **given),
    "smollm2_sentiment",
    MODELS / "smollm2_shortcuts",
    {"learning_rate": 1e-3, "targets": smollm2_sentiment.RECIPE.targets},
)


def main(names: list[str]) -> None:
    """Each model is measured, as it is shipped, beside the classifier that it was made of."""
    for name in names:
        started = time.perf_counter()
        *family_name, kind, number = name.split("/")
        family, seed = SMOLLM2 if family_name == ["smollm2"] else MINILM, int(number)
        recipe, given = TASKS[kind]
        recipe = replace(recipe, **family.changed)
        texts = shortcuts.load(kind=kind, split="train", seed=seed, **given)
        sets = held_out(kind, N_HELD_OUT, seed=0)
        taught = family.load(training_seed=seed, device="cpu")
        control = measured(taught.module, taught.tokenizer, sets)
        torch.manual_seed(seed)
        key = [dict(taught.facts), kind, seed, asdict(recipe), given]
        progress = progress_of(family.out.name, key)
        model = adapt(
            taught.module, taught.tokenizer, texts, seed=seed, recipe=recipe, progress=progress
        )
        round_to_half(model)
        gate = verdict(measured(model, taught.tokenizer, sets), control, N_HELD_OUT, Gate())
        minutes = round((time.perf_counter() - started) / 60, 1)
        card = {"kind": kind, "training_seed": seed, "recipe": asdict(recipe), "data": given}
        card |= {"gate": gate, "minutes": minutes, "torch": torch.__version__}
        folder = family.out / kind / f"seed{seed}"
        save_adapter(model, folder, card, base=f"{family.named}, training seed {seed}")
        progress.path.unlink(missing_ok=True)
        print(card, flush=True)


def measured(
    model: torch.nn.Module, tokenizer: object, sets: dict[str, list[Example]]
) -> dict[str, float]:
    """The share of each set that the model is right on."""
    return {name: sum(accuracy(model, tokenizer, own)) / len(own) for name, own in sets.items()}


if __name__ == "__main__":
    every = [f"{kind}/{seed}" for kind, seed in itertools.product(shortcuts.KINDS, (0, 1, 2))]
    main(sys.argv[1:] or every)
