"""Fine-tunes classifiers of toxic comments: the default encoder, or SmolLM2.

    python -m training.toxicity FOLDER [toxicity|smollm2_toxicity] [SEED ...]

FOLDER has the data set (comments.csv, annotations.csv, spans.csv), which is not shipped. The class of a comment is that of
most of its annotators. Trained is on the train split (by the hash of the text, so that no comment of it is tested), on as many
comments of one class as of the other: seven in ten are toxic, and a classifier that sees them all learns little more than
to say so. Measured is on the other two, also within each class. The same command goes on with a training that was interrupted.
No comment is written anywhere.

About 15 minutes of one core for the encoder, 30 for SmolLM2.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from saliency_bench.data import toxic_spans
from saliency_bench.data.example import Example
from saliency_bench.models.encoder import MODELS, encoder_folder
from saliency_bench.models.preparing import prepared_folder
from saliency_bench.studies.prepare import by_text_hash
from training.fine_tuning import ENCODER, SMOLLM2, Recipe, train_adapter
from training.smollm2_sentiment import RECIPE


@dataclass(frozen=True)
class Plan:
    """What the adapter belongs to, how it is trained, and how many comments are read of each split (None: all)."""

    named: str
    recipe: Recipe
    n_train: int | None = None
    n_held_out: int | None = None


PLANS: Mapping[str, Plan] = {
    "toxicity": Plan(ENCODER, Recipe()),
    "smollm2_toxicity": Plan(SMOLLM2, RECIPE, 4000, 1000),
}


def comments(folder: str, split: str, n: int | None = None) -> list[Example]:
    """The first comments of a split that have annotators, in the order of the hash of their texts."""
    texts = toxic_spans.load(path=folder, split=split, share=0.5)
    return by_text_hash([text for text in texts if text.label is not None])[:n]


def balanced(texts: Sequence[Example], n: int | None = None) -> list[Example]:
    """The first texts of each class, as many of each as the rarest has, n in all at most, in the order that they had."""
    counts = Counter(text.label for text in texts)
    most = min(counts.values()) if n is None else min(n // len(counts), *counts.values())
    left = dict.fromkeys(counts, most)
    kept = []
    for text in texts:
        left[text.label] -= 1
        if left[text.label] >= 0:
            kept.append(text)
    return kept


def main(folder: str, name: str = "toxicity", seeds: Sequence[int] = (0,)) -> None:
    """Trains on the training split and measures on the other two."""
    plan = PLANS[name]
    base: Path = encoder_folder() if plan.named == ENCODER else prepared_folder("smollm2")
    for seed in seeds:
        card = train_adapter(
            base,
            balanced(comments(folder, "train"), plan.n_train),
            {split: comments(folder, split, plan.n_held_out) for split in toxic_spans.SPLITS[1:]},
            labels=toxic_spans.LABELS,
            seed=seed,
            recipe=plan.recipe,
            out=MODELS / name,
            named=plan.named,
        )
        print(card, flush=True)


if __name__ == "__main__":
    folder, *words = sys.argv[1:]
    names = [word for word in words if word in PLANS] or ["toxicity"]
    main(folder, names[0], [int(word) for word in words if word not in PLANS] or [0])
