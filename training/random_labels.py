"""Makes an adapter memorise random labels (Adebayo et al. 2018, section 4).

python -m training.random_labels [SEED ...]
"""

import random
import sys
import time
from dataclasses import asdict, replace

import torch

from saliency_bench.data import movie_reviews
from saliency_bench.models.encoder import RANDOM_LABELS, encoder_folder
from training.fine_tuning import Recipe, accuracy, fine_tune, save_adapter

N_SENTENCES = 500
RECIPE = Recipe(n_epochs=40, weight_decay=0.0, dropout=0.0)  # to be learnt by heart


def main(seeds: list[int]) -> None:
    """Half of the sentences are called negative and half positive, whatever they say."""
    test = movie_reviews.load(split="test")
    for seed in seeds:
        started = time.perf_counter()
        labels = [0, 1] * (N_SENTENCES // 2)
        random.Random(seed).shuffle(labels)
        texts = movie_reviews.load(split="train")[:N_SENTENCES]
        dealt = [replace(one, label=label) for one, label in zip(texts, labels, strict=True)]
        model, tokenizer = fine_tune(
            encoder_folder(), dealt, labels=movie_reviews.LABELS, seed=seed, recipe=RECIPE
        )
        minutes = round((time.perf_counter() - started) / 60, 1)
        model = model.to(torch.float16).to(torch.float32)  # measure what is shipped
        sets = {"own_labels": dealt, "true_labels": texts, "test": test}
        card = {"training_seed": seed, "recipe": asdict(RECIPE), "n_sentences": N_SENTENCES}
        for name, own in sets.items():
            right = accuracy(model, tokenizer, own)
            card[f"accuracy_{name}"] = sum(right) / len(right)
        card |= {"minutes": minutes, "torch": torch.__version__}
        save_adapter(model, RANDOM_LABELS / f"seed{seed}", card)
        print(card, flush=True)


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [0])
