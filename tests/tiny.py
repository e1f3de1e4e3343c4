"""Small models and inputs that need no download."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from saliency_bench.models.loading import wrap_model
from saliency_bench.models.model import Model

VOCABULARY = 50
DIMENSIONS = 6


class EmbeddingScore(nn.Module):
    """A module whose two logits are a function of its embeddings [B T D], and its negative."""

    def __init__(self, score: Callable[[Tensor], Tensor], seed: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, DIMENSIONS, dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed)
        self.embedding.weight.data = torch.randn(
            VOCABULARY, DIMENSIONS, generator=generator, dtype=torch.float64
        )
        self.score = score

    def forward(self, input_ids: Tensor, **_: Tensor) -> Tensor:
        """Logits [B 2]."""
        score = self.score(self.embedding(input_ids))
        return torch.stack([score, -score], -1)


def scored_by(score: Callable[[Tensor], Tensor]) -> Model:
    """A model in float64 whose first logit is `score(embeddings)`."""
    return wrap_model(EmbeddingScore(score), labels=("yes", "no"))


def tiny_bert(dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    """A random BERT classifier of two layers, sharp enough that no two tokens are alike."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        num_labels=3,
        initializer_range=0.5,
    )
    return BertForSequenceClassification(config).to(dtype).eval()


def token_inputs(*lengths: int, seed: int = 0) -> list[dict[str, list[int]]]:
    """Tokenised inputs of these lengths, no special tokens."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {"input_ids": torch.randint(5, VOCABULARY, (length,), generator=generator).tolist()}
        for length in lengths
    ]
