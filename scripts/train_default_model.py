"""Fine-tunes the adapters of the default model, one per training seed: train_default_model.py [SEED ...]."""

import json
import sys
import time
from pathlib import Path

import torch

from saliency_bench.data import movie_reviews
from saliency_bench.models.encoder import ADAPTERS, encoder_folder
from saliency_bench.models.training import Recipe, accuracy, fine_tune


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
        folder = ADAPTERS / f"seed{seed}"
        model.to(torch.float16).save_pretrained(folder)
        tidy(folder)
        (folder / "training.json").write_text(json.dumps(card, indent=1) + "\n")
        print(card, flush=True)


def tidy(folder: Path) -> None:
    """Names the base model by what it is instead of where it lay, and drops the empty model card."""
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "sentence-transformers/all-MiniLM-L6-v2"
    config["target_modules"].sort()
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    (folder / "README.md").unlink()


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [0, 1, 2])
