"""Small models and inputs that need no download."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saliency_bench.attribution.methods import KINDS
from saliency_bench.attribution.settings import expand, has_backends
from saliency_bench.core.rows import Setting, Target
from saliency_bench.models.loading import wrap_model
from saliency_bench.models.model import Model

VOCABULARY = 50
DIMENSIONS = 6


class EmbeddingScore(nn.Module):
    """A module whose two logits are a function of its embeddings [B T D], and its negative."""

    def __init__(
        self,
        score: Callable[[Tensor], Tensor],
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        dimensions: int = DIMENSIONS,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, dimensions, dtype=dtype)
        generator = torch.Generator().manual_seed(seed)
        self.embedding.weight.data = torch.randn(
            VOCABULARY, dimensions, generator=generator, dtype=torch.float64
        ).to(dtype)
        self.score = score

    def forward(self, input_ids: Tensor, **_: Tensor) -> Tensor:
        """Logits [B 2]."""
        score = self.score(self.embedding(input_ids))
        return torch.stack([score, -score], -1)


def scored_by(
    score: Callable[[Tensor], Tensor],
    dtype: torch.dtype = torch.float64,
    dimensions: int = DIMENSIONS,
    tokenizer: Any = None,
) -> Model:
    """A model whose first logit is `score(embeddings)`; the score may want texts of one length."""
    module = EmbeddingScore(score, dtype=dtype, dimensions=dimensions)
    return wrap_model(module, tokenizer, embeddings="embedding", labels=("yes", "no"))


class FrameTokenizer:
    """A tokenizer with a word for every id, which frames a text by [CLS] and [SEP] and reads others by their length."""

    pad_token_id, cls_token_id, sep_token_id, mask_token_id = range(4)
    all_special_ids = tuple(range(4))
    is_fast = False

    def __call__(self, text: str | list[str], **options: Any) -> Any:
        """Ids of words by their number of letters, as a tokenizer of transformers returns them."""
        from transformers import BatchEncoding

        if isinstance(text, list):
            return BatchEncoding({"input_ids": [self(one, **options)["input_ids"] for one in text]})
        words = [5 + 7 * len(word) % (VOCABULARY - 5) for word in text.split()]
        frame = options.get("add_special_tokens", True)
        ids = [self.cls_token_id, *words, self.sep_token_id] if frame else words
        special = [int(token in self.all_special_ids) for token in ids]
        return BatchEncoding({"input_ids": ids, "special_tokens_mask": special})

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """A name for each id."""
        return [f"t{token}" for token in ids]


def framed(*inputs: dict[str, list[int]]) -> list[dict[str, list[int]]]:
    """The inputs between [CLS] and [SEP] of `FrameTokenizer`."""
    first, last = FrameTokenizer.cls_token_id, FrameTokenizer.sep_token_id
    return [{"input_ids": [first, *one["input_ids"], last]} for one in inputs]


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


def setting_of(
    method: str, reduction: str, target: Target, backend: str = "native", **hyper: Any
) -> Setting:
    """The setting of a method with these hyperparameters, for the logit and seed 0.

    The reduction and the backend are left out where the method has none.
    """
    entry = {"method": method} | hyper
    if KINDS[method] != "token":
        entry["reduction"] = reduction
    if has_backends(method):
        entry["backend"] = backend
    (setting,) = expand({method: entry}, target=target)
    return setting
