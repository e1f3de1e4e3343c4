"""Embedding vectors that stand for "nothing here": baselines of attribution and replacements of removal."""

from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saliency_bench.errors import InputError, unknown
from saliency_bench.models.model import Model

TOKENS = {"mask": "mask_token_id", "pad": "pad_token_id", "unk": "unk_token_id"}
VECTORS = ("zero", "mean")
NAMES = (*TOKENS, *VECTORS)

#: What is tried where the tokenizer lacks the token that was asked for.
FALLBACK = ("mask", "pad", "zero")


def available(model: Model, name: str, key: str = "baseline") -> bool:
    """Whether the model can give this vector; `key` names the configuration key in the error."""
    if name not in NAMES:
        raise unknown(key, name, list(NAMES))
    return name in VECTORS or getattr(model.tokenizer, TOKENS[name], None) is not None


def resolve(model: Model, name: str, key: str = "baseline") -> str:
    """`name` where the model has it, else the first of mask, pad, zero that it has."""
    return next(choice for choice in (name, *FALLBACK) if available(model, choice, key))


class References:
    """The reference vectors of one model, each computed once for as long as this object lives."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._vectors: dict[str, Float[Tensor, " D"]] = {}

    def vector(self, name: str) -> Float[Tensor, " D"]:
        """The embedding layer's output for the named token, or zeros, or the mean over the vocabulary.

        Raises:
            InputError: the tokenizer has no such token.
        """
        if name not in self._vectors:
            self._vectors[name] = self._compute(name)
        return self._vectors[name]

    @cached_property
    def embedding_std(self) -> float:
        """The standard deviation of all numbers of the embedding matrix: the unit of `noise_std`."""
        return float(self._matrix().double().std(correction=0))

    @cached_property
    def ordinary_tokens(self) -> Int[Tensor, " V"]:
        """The ids of the vocabulary that are no special tokens, on the host."""
        special = set(getattr(self.model.tokenizer, "all_special_ids", ()))
        ids = [token for token in range(len(self._matrix())) if token not in special]
        return torch.tensor(ids)

    def _compute(self, name: str) -> Float[Tensor, " D"]:
        model = self.model
        if not available(model, name):
            raise InputError(
                f"the tokenizer of {model.name} has no {name} token. Use "
                f"{' or '.join(one for one in NAMES if available(model, one))}."
            )
        if name in TOKENS:
            token = getattr(model.tokenizer, TOKENS[name])
            return model.embed(torch.tensor([[token]], device=model.device))[0, 0]
        if name == "mean":
            return self._matrix().mean(0)
        return torch.zeros_like(
            model.embed(torch.zeros(1, 1, dtype=torch.long, device=model.device))[0, 0]
        )

    def _matrix(self) -> Float[Tensor, "V D"]:
        layer = self.model.embedding
        if not isinstance(layer, nn.Embedding):
            raise InputError(
                "the embedding layer is no nn.Embedding, so it has no matrix whose mean and standard deviation "
                "could be taken: use another baseline, or a method without noise"
            )
        # Through the layer, not its weight: some layers scale their output.
        return self.model.embed(torch.arange(layer.num_embeddings, device=self.model.device)[None])[
            0
        ]
