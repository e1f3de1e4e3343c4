"""Tiny random classifiers of the families of transformers that people ask about, each with weights of every kind."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from tiny import VOCABULARY
from torch import nn

#: Sizes that every configuration takes.
COMMON: Mapping[str, Any] = {"vocab_size": VOCABULARY, "num_labels": 3, "pad_token_id": 0}
_SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
_ENCODER = COMMON | _SIZES | {"hidden_size": 16, "max_position_embeddings": 64}
_DECODER = _ENCODER | {
    "num_key_value_heads": 1,
    "head_dim": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_ODD: Mapping[str, Mapping[str, Any]] = {
    "distilbert": COMMON | {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
    "electra": _ENCODER | {"embedding_size": 16},
    "deberta-v2": _ENCODER
    | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0},
    "gpt2": COMMON | {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "t5": COMMON | {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2},
    "modernbert": _ENCODER
    | {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
}
FAMILIES = (
    "bert", "roberta", "distilbert", "electra", "deberta-v2", "gpt2", "llama", "qwen2", "gemma", "modernbert",
)  # fmt: skip
_DECODERS = ("llama", "qwen2", "gemma")


def build(name: str, attention: str = "sdpa", seed: int = 0, **sizes: Any) -> nn.Module:
    """The family's sequence classifier in float64, in which no weight is 0 or 1."""
    from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification

    own = _ODD.get(name, _DECODER if name in _DECODERS else _ENCODER)
    config = CONFIG_MAPPING[name](**{**own, **sizes})
    if name.startswith("deberta"):
        attention = "eager"  # its own
    module = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention)
    return scrambled(module.double().eval(), seed)


def scrambled(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with weights as large as its outputs are curved, biases too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            spread = 0.5 if weight.ndim > 1 else 0.3
            drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            weight.copy_(spread * drawn + (weight.ndim == 1) * weight)
    return module


class EncoderOnly(nn.Module):
    """T5's encoder with a linear layer on the mean of its last states."""

    def __init__(self, build_encoder: Callable[[], nn.Module], width: int = 16) -> None:
        super().__init__()
        self.encoder = build_encoder()
        self.head = nn.Linear(width, 3, dtype=torch.float64)

    def forward(self, input_ids: torch.Tensor, attention_mask: Any = None) -> torch.Tensor:
        """Logits [B 3]."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        return self.head(states.last_hidden_state.mean(1))


def t5_encoder(seed: int = 0) -> nn.Module:
    """With gated GELU, as T5 1.1 has it."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(**_ODD["t5"], feed_forward_proj="gated-gelu")
    return scrambled(EncoderOnly(lambda: T5EncoderModel(config).double()).eval(), seed)
