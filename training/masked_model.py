"""Fine-tunes the default model's adapter on masked texts too (Madsen et al. 2024).

python -m training.masked_model [SEED ...]
"""

import sys
import time

import torch

from saliency_bench.data import movie_reviews
from saliency_bench.models.encoder import MASKED, encoder_folder
from saliency_bench.models.loading import load_default
from training.fine_tuning import Recipe, accuracy, fine_tune, save_adapter

SHARES = (0.0, 0.5)  # of the tokens that are masked when accuracy is measured


def main(seeds: list[int]) -> None:
    """Trains with the default model's recipe but for the masks, and measures both models on the test split."""
    texts = {name: movie_reviews.load(split=name) for name in ("train", "test")}
    for seed in seeds:
        started = time.perf_counter()
        model, tokenizer = fine_tune(
            encoder_folder(),
            texts["train"],
            labels=movie_reviews.LABELS,
            seed=seed,
            recipe=Recipe(masked=True),
        )
        minutes = (time.perf_counter() - started) / 60
        model = model.to(torch.float16).to(torch.float32)  # measure what is shipped
        card = {"training_seed": seed, "minutes": round(minutes, 1), "torch": torch.__version__}
        plain = load_default(training_seed=seed, device="cpu").module
        for name, one in (("test_accuracy", model), ("plain_test_accuracy", plain)):
            card[name] = {
                f"{share:.0%} masked": sum(right := accuracy(one, tokenizer, texts["test"], share))
                / len(right)
                for share in SHARES
            }
        save_adapter(model, MASKED / f"seed{seed}", card)
        print(card, flush=True)


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [0])
