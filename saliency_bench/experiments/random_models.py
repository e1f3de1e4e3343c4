"""Small models with random weights and texts for them, on which backends are compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from saliency_bench.core.errors import unknown
from saliency_bench.core.text import Encoded
from saliency_bench.models import loading
from saliency_bench.models.model import Model
from saliency_bench.models.tasks.encoding import encoded_ids

#: Random classifiers by architecture: absolute positions, positions counted from the ids, and a decoder that reads
#: its answer off the last token and has no pad token. Sharp enough that no two tokens are alike.
VOCABULARY = 50


_SIZES = {"vocab_size": VOCABULARY, "num_labels": 3, "initializer_range": 0.2}


_BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
}


ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "pad_token_id": 1},
    "gpt2": {
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 64,
        "bos_token_id": 0,
        "eos_token_id": 2,
    },
}


@dataclass(frozen=True)
class IdTokenizer:
    """The part of a tokenizer that is needed where texts are token ids already."""

    pad_token_id: int | None
    mask_token_id: int | None
    cls_token_id: int = 0
    sep_token_id: int = 2
    unk_token_id: int = 3
    all_special_ids: tuple[int, ...] = (0, 1, 2, 3, 4)
    model_max_length: int = 64

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """A name for each id."""
        return [f"#{token}" for token in ids]


def random_model(architecture: str, dtype: str, seed: int = 0) -> Model:
    """A small classifier with random weights. Neither its weights nor the global generator depend on each other."""
    if architecture not in ARCHITECTURES:
        raise unknown("random_models", architecture, list(ARCHITECTURES))
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model(architecture, **_SIZES, **ARCHITECTURES[architecture])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    decoder = architecture == "gpt2"
    tokenizer = IdTokenizer(None if decoder else 1, None if decoder else 4)
    return loading.wrap_model(module.to(loading.DTYPES[dtype]).eval(), tokenizer)


def random_texts(model: Model, n: int, n_tokens: int, seed: int = 0) -> list[Encoded]:
    """Texts of ordinary ids between a first and a last special token."""
    stream = torch.Generator().manual_seed(seed)
    tokenizer = model.tokenizer
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    ordinary = len(tokenizer.all_special_ids)
    rows = torch.randint(ordinary, VOCABULARY, (n, n_tokens), generator=stream).tolist()
    inputs = [{"input_ids": [first, *row, last]} for row in rows]
    return [
        encoded_ids(model, item, f"random-{index}", None, f"text {index}")
        for index, item in enumerate(inputs)
    ]
