"""NanoGuard, a classifier of prompts, as a module of its own: its package (metatronnanoguard, MIT) is not needed to run it.

Four bidirectional layers with rotary positions, RMS normalisation without weights, squared ReLU and a mean over the text.
Every layer adds a multiple of the first normalised embeddings again. The package pads each text to 512 tokens and lets words
attend to the pads; here pads are hidden, so that a text has the same logits alone and beside a longer one. Without pads both
compute the same function.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Sizes:
    """The sizes of a checkpoint, by the names that its config.json has."""

    vocab_size: int
    n_embd: int
    n_layer: int
    n_head: int
    sequence_len: int
    id2label: dict[str, str]

    @property
    def max_position_embeddings(self) -> int:
        """The longest text, in tokens."""
        return self.sequence_len


class NanoGuard(nn.Module):
    """Token ids to logits of `safe` and `injection`. Its tensors are named as in the package's checkpoint."""

    def __init__(self, config: Sizes) -> None:
        super().__init__()
        self.config = config
        layers: Iterable[nn.Module] = (_Layer(config) for _ in range(config.n_layer))
        table = nn.Embedding(config.vocab_size, config.n_embd)
        self.transformer = nn.ModuleDict({"wte": table, "h": nn.ModuleList(layers)})
        self.cls_norm = nn.LayerNorm(config.n_embd)
        self.cls_head = nn.Linear(config.n_embd, len(config.id2label))
        self.resid_lambdas = nn.Parameter(torch.ones(config.n_layer))
        self.x0_lambdas = nn.Parameter(torch.zeros(config.n_layer))
        cosines, sines = rotations(config.sequence_len, config.n_embd // config.n_head)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)

    def forward(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B C"]:
        """The logits; positions whose mask is 0 are neither attended nor averaged over."""
        length = input_ids.shape[1]
        turn = self.get_buffer("cosines")[:length], self.get_buffer("sines")[:length]
        seen = None if attention_mask is None else attention_mask.bool()
        first = x = _normalised(self.transformer["wte"](input_ids))
        for index, layer in enumerate(self.transformer["h"].children()):
            x = layer(self.resid_lambdas[index] * x + self.x0_lambdas[index] * first, turn, seen)
        x = _normalised(x)
        if seen is None:
            pooled = x.mean(1)
        else:
            weights = seen[..., None].to(x.dtype)
            pooled = (x * weights).sum(1) / weights.sum(1).clamp(min=1)
        logits: Tensor = self.cls_head(self.cls_norm(pooled))
        return logits


class _Layer(nn.Module):
    """Attention, then two linear layers, each with its input normalised and its output added."""

    def __init__(self, config: Sizes) -> None:
        super().__init__()
        width = config.n_embd
        names = ("c_q", "c_k", "c_v", "c_proj")
        self.attn = nn.ModuleDict({name: nn.Linear(width, width, bias=False) for name in names})
        self.mlp = nn.ModuleDict(
            {
                "c_fc": nn.Linear(width, 4 * width, bias=False),
                "c_proj": nn.Linear(4 * width, width, bias=False),
            }
        )
        self.n_heads = config.n_head

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        turn: tuple[Tensor, Tensor],
        seen: Bool[Tensor, "B T"] | None,
    ) -> Float[Tensor, "B T D"]:
        """The states after this layer."""
        x = x + self._attended(_normalised(x), turn, seen)
        inner = functional.relu(self.mlp["c_fc"](_normalised(x))).square()
        out: Tensor = x + self.mlp["c_proj"](inner)
        return out

    def _attended(
        self,
        x: Float[Tensor, "B T D"],
        turn: tuple[Tensor, Tensor],
        seen: Bool[Tensor, "B T"] | None,
    ) -> Float[Tensor, "B T D"]:
        query, key, value = (
            self.attn[name](x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for name in ("c_q", "c_k", "c_v")
        )
        query, key = (_normalised(_turned(part, turn)) for part in (query, key))
        mask = None if seen is None else seen[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out: Tensor = self.attn["c_proj"](mixed.transpose(1, 2).flatten(2))
        return out


def rotations(length: int, size: int) -> tuple[Float[Tensor, "T H"], Float[Tensor, "T H"]]:
    """Cosine and sine of each position's angles, rounded to bfloat16 as the package does."""
    frequencies = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
    cosines, sines = (part.bfloat16().float() for part in (angles.cos(), angles.sin()))
    return cosines, sines


def load(folder: Path, dtype: torch.dtype) -> NanoGuard:
    """The module of a converted folder, in eval mode."""
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text("utf-8"))
    module = NanoGuard(Sizes(**{field.name: config[field.name] for field in fields(Sizes)}))
    module.load_state_dict(load_file(folder / "model.safetensors"))
    return module.to(dtype).eval()


def _normalised(x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
    return functional.rms_norm(x, (x.shape[-1],))


def _turned(x: Float[Tensor, "B N T H"], turn: tuple[Tensor, Tensor]) -> Float[Tensor, "B N T H"]:
    cosines, sines = turn
    left, right = x.chunk(2, -1)
    return torch.cat([left * cosines + right * sines, right * cosines - left * sines], -1)
