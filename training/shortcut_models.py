"""Trains the default models to follow the shortcuts, one adapter each.

python -m training.shortcut_models [KIND/SEED ...]
"""

import itertools
import sys
import time
from dataclasses import asdict, replace

import torch

from saliency_bench.data import shortcuts
from saliency_bench.data.example import Example
from saliency_bench.models.encoder import SHORTCUTS
from saliency_bench.models.loading import load_default
from training.fine_tuning import Recipe, accuracy, adapt, round_to_half, save_adapter
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


def main(names: list[str]) -> None:
    """Each model is measured, as it is shipped, beside the default model that it was made of."""
    for name in names:
        started = time.perf_counter()
        kind, seed = name.split("/")[0], int(name.split("/")[1])
        recipe, given = TASKS[kind]
        texts = shortcuts.load(kind=kind, split="train", seed=seed, **given)
        sets = held_out(kind, N_HELD_OUT, seed=0)
        default = load_default(training_seed=seed, device="cpu")
        control = measured(default.module, default.tokenizer, sets)
        torch.manual_seed(seed)
        model = adapt(default.module, default.tokenizer, texts, seed=seed, recipe=recipe)
        round_to_half(model)
        gate = verdict(measured(model, default.tokenizer, sets), control, N_HELD_OUT, Gate())
        minutes = round((time.perf_counter() - started) / 60, 1)
        card = {"kind": kind, "training_seed": seed, "recipe": asdict(recipe), "data": given}
        card |= {"gate": gate, "minutes": minutes, "torch": torch.__version__}
        folder = SHORTCUTS / kind / f"seed{seed}"
        save_adapter(model, folder, card, base=f"the default model, training seed {seed}")
        print(card, flush=True)


def measured(
    model: torch.nn.Module, tokenizer: object, sets: dict[str, list[Example]]
) -> dict[str, float]:
    """The share of each set that the model is right on."""
    return {name: sum(accuracy(model, tokenizer, own)) / len(own) for name, own in sets.items()}


if __name__ == "__main__":
    every = [f"{kind}/{seed}" for kind, seed in itertools.product(shortcuts.KINDS, (0, 1, 2))]
    main(sys.argv[1:] or every)
