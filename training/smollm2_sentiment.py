"""Fine-tunes SmolLM2 on the bundled sentences, an adapter per training seed.

    python -m training.smollm2_sentiment [SEED ...]

About 16 minutes of two cores for a seed. The base is the prepared model (`saliency-bench models prepare smollm2`), a
decoder whose last token is read by a new head.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from saliency_bench.data import movie_reviews
from saliency_bench.data.example import Example
from saliency_bench.models.encoder import MODELS
from saliency_bench.models.preparing import prepared_folder
from training.fine_tuning import Recipe, accuracy, fine_tune, round_to_half, save_adapter

NAME = "smollm2"
ADAPTERS = MODELS / "smollm2_sentiment"
RECIPE = Recipe(
    rank=8, learning_rate=5e-4, n_epochs=1, targets=("q_proj", "k_proj", "v_proj", "o_proj")
)


def train(
    base: Path,
    texts: Sequence[Example],
    held_out: Mapping[str, Sequence[Example]],
    *,
    seed: int,
    recipe: Recipe = RECIPE,
    out: Path = ADAPTERS,
) -> dict[str, Any]:
    """Trains on texts and writes the adapter with a card, which has the accuracy on the texts that are held out.

    Args:
        base: the folder of the causal language model.
        texts: sentences with a class 0 or 1.
        held_out: the sets that accuracy is measured on, by name.
        seed: of the new weights, of dropout and of the order of texts.
        recipe: how it is trained.
        out: where the folder `seedN` is made.
    """
    started = time.perf_counter()
    model, tokenizer = fine_tune(base, texts, labels=movie_reviews.LABELS, seed=seed, recipe=recipe)
    minutes = round((time.perf_counter() - started) / 60, 1)
    round_to_half(model)
    card = {"training_seed": seed, "recipe": asdict(recipe), "n_sentences": len(texts)}
    for name, examples in held_out.items():
        card[f"{name}_accuracy"] = sum(accuracy(model, tokenizer, examples)) / len(examples)
    card |= {"minutes": minutes, "threads": torch.get_num_threads(), "torch": torch.__version__}
    save_adapter(model, out / f"seed{seed}", card, base="SmolLM2-135M-Instruct, Q4_1")
    return card


def main(seeds: Sequence[int]) -> None:
    """Trains on the training split and measures on the other two."""
    splits = {name: movie_reviews.load(split=name) for name in movie_reviews.SPLITS}
    texts = splits.pop("train")
    for seed in seeds:
        print(train(prepared_folder(NAME), texts, splits, seed=seed), flush=True)


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [0, 1, 2])
