"""Fine-tunes the adapters of the default model, one per training seed.

python -m training.default_model [SEED ...]
"""

import sys
import time

import torch

from saliency_bench.data import movie_reviews
from saliency_bench.models.encoder import ADAPTERS, encoder_folder
from training.fine_tuning import Recipe, accuracy, fine_tune, save_adapter


def main(seeds: list[int]) -> None:
    """Trains, writes the adapter in half precision with its measured accuracy beside it."""
    splits = {name: movie_reviews.load(split=name) for name in movie_reviews.SPLITS}
    for seed in seeds:
        started = time.perf_counter()
        model, tokenizer = fine_tune(
            encoder_folder(),
            splits["train"],
            labels=movie_reviews.LABELS,
            seed=seed,
            recipe=Recipe(),
        )
        minutes = (time.perf_counter() - started) / 60
        model = model.to(torch.float16).to(torch.float32)  # measure what is shipped
        card = {"training_seed": seed, "minutes": round(minutes, 1), "torch": torch.__version__}
        for name in ("validation", "test"):
            right = accuracy(model, tokenizer, splits[name])
            clear = [
                ok
                for ok, example in zip(right, splits[name], strict=True)
                if abs(example.extra["rating"]) >= 0.5
            ]
            card |= {
                f"{name}_accuracy": sum(right) / len(right),
                f"{name}_accuracy_clear": sum(clear) / len(clear),
            }
        save_adapter(model, ADAPTERS / f"seed{seed}", card)
        print(card, flush=True)


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [0, 1, 2])
