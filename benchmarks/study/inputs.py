"""What both studies by hand start from: the numbers of method_comparison, the bundled model and its sentences.

This is all that they take from saliency_bench.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

N_STEPS = 50  # of Integrated Gradients, Gauss-Legendre
N_SAMPLES = 24  # of SmoothGrad
NOISE = 0.1  # σ, in standard deviations of the embedding matrix
N_RANKINGS = 10  # random ones
ERASER = (0.01, 0.05, 0.1, 0.2, 0.5)  # share of tokens removed or kept
TOP = 0.2  # of log-odds
AUC_FLOOR = 0.1  # p(text) - p(empty) that an area may be divided by
GAP_FLOOR = 0.01  # |F(x) - F(x')| that a gap may be divided by


@dataclass(frozen=True)
class Text:
    """A tokenised text; `ranked` are the positions of its tokens that are not special."""

    name: str
    ids: list[int]
    ranked: np.ndarray


@dataclass(frozen=True)
class Draws:
    """Random numbers drawn elsewhere, by place of the text: noise [S T D] and random scores [N T].

    With those of saliency_bench all results are its own; with one's own, SmoothGrad and the random rankings are
    other draws from the same distributions.
    """

    noise: Sequence[torch.Tensor]
    scores: Sequence[np.ndarray]


@dataclass
class Results:
    """`values`: one row per method, text and metric; `scores` and `rankings` by (method, place of the text)."""

    values: pd.DataFrame
    scores: dict[tuple[str, int], np.ndarray]
    rankings: dict[tuple[str, int], list[np.ndarray]]


class Classifier:
    """The model, and what removal and baselines put in a token's place: the embedding of [MASK]."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self.table = model.get_input_embeddings().weight
        self.mask = self.table[tokenizer.mask_token_id]
        self.pad_id = tokenizer.pad_token_id

    def __call__(
        self, embeddings: torch.Tensor, attention: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits."""
        return self.model(inputs_embeds=embeddings, attention_mask=attention).logits

    def padded(self, texts: Sequence[Text]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Embeddings [B T D] and attention mask [B T], padded on the right, and with [MASK] in every ranked place."""
        width = max(len(text.ids) for text in texts)
        rows = [text.ids + [self.pad_id] * (width - len(text.ids)) for text in texts]
        embeddings = self.table[torch.tensor(rows)]
        attention = torch.tensor(
            [[place < len(text.ids) for place in range(width)] for text in texts]
        ).long()
        baseline = embeddings.clone()
        for row, text in enumerate(texts):
            baseline[row, text.ranked] = self.mask
        return embeddings, attention, baseline


def load(n: int) -> tuple[Classifier, list[Text]]:
    """The bundled model, and the first n of its test sentences; their order is that of a hash of the text."""
    from saliency_bench.data import movie_reviews
    from saliency_bench.models.loading import load_default

    model = load_default(device="cpu")
    texts = []
    for example in movie_reviews.load(split="test")[:n]:
        encoded = model.tokenizer(example.text, return_special_tokens_mask=True, truncation=True)
        special = np.array(encoded["special_tokens_mask"], dtype=bool)
        texts.append(Text(example.id, encoded["input_ids"], np.flatnonzero(~special)))
    return Classifier(model.module, model.tokenizer), texts
