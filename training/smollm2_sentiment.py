"""Fine-tunes SmolLM2 on the bundled sentences, an adapter per training seed.

    python -m training.smollm2_sentiment [SEED ...]

About half an hour of one core for a seed. The base is the prepared model (`saliency-bench models prepare smollm2`), a
decoder whose last token is read by a new head. The same command goes on with a training that was interrupted.
"""

import sys
from collections.abc import Sequence

from saliency_bench.data import movie_reviews
from saliency_bench.models.encoder import MODELS
from saliency_bench.models.preparing import prepared_folder
from training.fine_tuning import SMOLLM2, Recipe, train_adapter

NAME = "smollm2"
ADAPTERS = MODELS / "smollm2_sentiment"
RECIPE = Recipe(
    rank=8, learning_rate=5e-4, n_epochs=1, targets=("q_proj", "k_proj", "v_proj", "o_proj")
)


def main(seeds: Sequence[int]) -> None:
    """Trains on the training split and measures on the other two."""
    splits = {name: movie_reviews.load(split=name) for name in movie_reviews.SPLITS}
    texts = splits.pop("train")
    for seed in seeds:
        card = train_adapter(
            prepared_folder(NAME),
            texts,
            splits,
            labels=movie_reviews.LABELS,
            seed=seed,
            recipe=RECIPE,
            out=ADAPTERS,
            named=SMOLLM2,
        )
        print(card, flush=True)


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [0, 1, 2])
