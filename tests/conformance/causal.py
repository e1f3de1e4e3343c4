"""Every causal language model of the installed transformers against an oracle that runs one text at a time, without a cache.

The oracle knows nothing of this package: it calls the plain module on token ids in float64, once for each token that is
replaced and for each token of a continuation, and takes gradients at the table of embeddings.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from architectures import HYBRID, LATENT, build
from finding import PASSES, SAME, SAME_IN_FLOAT32, Finding, difference, examined, table_gradient
from tiny_heads import VOCABULARY, word_tokenizer
from torch import nn

import saliency_bench as sb
from saliency_bench.models.model import Model, frozen
from saliency_bench.models.prefixes import shares
from saliency_bench.models.references import References
from saliency_bench.studies.block import open_block

AUTO = "AutoModelForCausalLM"
PROMPT, CONTINUATION, LONGER = (
    "the capital of france is",
    " paris .",
    "what is the capital of w1 w2 w3",
)
#: The tokens of `word_tokenizer`. Encoders with a causal head are decoders here.
TOKENS = {
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "cls_token_id": 2,
    "eos_token_id": 3,
    "sep_token_id": 3,
    "mask_token_id": 4,
    "is_decoder": True,
    # Windows that are shorter than the text.
    "sliding_window": 3,
    "use_sliding_window": True,
    "max_window_layers": 0,
    "window_size": 3,
}
UNKNOWN = 1

#: What an architecture needs besides: states of a recurrent layer that are small, too.
STATES = {"mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
HEADS = {"mamba_n_heads": 8, "mamba_d_head": 8} | STATES
NEEDS: dict[str, dict[str, Any]] = {
    "falcon_h1": {"mamba_d_ssm": 64} | HEADS,
    "bamba": HEADS | {"attn_layer_indices": [1]},
    "granitemoehybrid": HEADS | {"layer_types": ["mamba", "attention"]},
    **dict.fromkeys(["deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "longcat_flash"], LATENT),
    **dict.fromkeys(["bailing_hybrid", "kimi_linear", "lfm3"], HYBRID),
    "dots3_note_text": LATENT,
    "codegen": {"rotary_dim": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_assistant": {"hidden_size_per_layer_input": 0},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 8},
}


@dataclass(frozen=True)
class CausalModel(Finding):
    """The result of one causal language model. Numbers are relative to the largest score."""

    gradient: float | None = None  # at the embeddings, by the table
    removal: float | None = None  # leave-one-out of the next token's logit, by a loop
    continuation: float | None = None  # the same of a continuation's log-probability
    beside: float | None = None  # a text alone, and in a study beside a longer one
    shared: str = ""  # whether texts that begin alike share keys and values


def causal_names() -> list[str]:
    """The model types that `AutoModelForCausalLM` knows."""
    from transformers.models.auto import modeling_auto

    return list(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


@cache
def tokenizer() -> Any:
    """Words, without token types, which GPT-2 would look up among words."""
    with TemporaryDirectory() as folder:
        words = copy(word_tokenizer(Path(folder)))
    words.model_input_names = ["input_ids", "attention_mask"]
    return words


def examine_causal(name: str) -> CausalModel:
    """All checks of an architecture."""

    def built() -> nn.Module:
        return build(name, auto=AUTO, needs=NEEDS.get(name), **TOKENS)

    def measured(module: nn.Module) -> CausalModel:
        return _measured(name, sb.wrap_model(module, tokenizer(), task="text-generation"))

    return examined(CausalModel, name, built, measured)


def _measured(name: str, model: Model) -> CausalModel:
    def explain(*texts: str, **asked: Any) -> Any:
        return sb.attribute(model, [*texts], "leave_one_out", removal="unk", **asked)

    target = _target(model)
    (next_token,) = explain(PROMPT, target=target, output="logit")
    (whole,) = explain(PROMPT, continuation=CONTINUATION, at="sum", output="log_probability")
    alone, beside = explain(PROMPT)[0], explain(PROMPT, LONGER)[0]
    (option,) = whole.encoded.options
    with model.frozen():
        references = References(model)
        block = open_block(references, [next_token.encoded], target, 10_000)
        gradient = block.context("logit", 0).clean_gradient[0]
        shared = shares(references, block.batch)
    ids, ranked = list(next_token.token_ids), np.flatnonzero(next_token.attributable)
    by_table, by_ours = _at_the_table(model, ids, target, gradient)
    finding = CausalModel(
        name,
        PASSES,
        gradient=difference(by_ours[ranked], by_table[ranked]),
        removal=difference(
            next_token.scores[ranked],
            _drops(ids, ranked, lambda row: float(_logits(model.module, row)[target])),
        ),
        continuation=difference(
            whole.scores[ranked],
            _drops(ids, ranked, lambda row: _log_probability(model.module, row, option)),
        ),
        beside=difference(beside.scores, alone.scores),
        shared="yes" if shared else "no",
    )
    exact = dict.fromkeys(["removal", "continuation", "beside"], SAME_IN_FLOAT32)
    return finding.within({"gradient": SAME} | exact)


def _at_the_table(
    model: Model, ids: list[int], target: int, gradient: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of a next token's logit at the table's rows, by a pass without hooks, and by ours at the layer's output.

    What the layer does to a row, as scaling or a norm, is differentiated by itself. Each id occurs once in the text.
    """
    text = torch.tensor([ids])
    whole = table_gradient(model, lambda: model.module(input_ids=text).logits[0, -1, target])
    through = table_gradient(model, lambda: model.embedding(text), gradient[None])
    return whole[ids], through[ids]


def _target(model: Model) -> int:
    """The likeliest next token that is not in the text: the gradient of a tied table is of its input alone then."""
    ids = tokenizer()(PROMPT)["input_ids"][:-1]
    logits = _logits(model.module, ids)
    logits[[*set(ids)]] = -torch.inf
    return int(logits.argmax())


@torch.no_grad()
def _logits(module: nn.Module, ids: Sequence[int]) -> torch.Tensor:
    """Of the token after a text: one text, one pass, nothing kept of passes before."""
    with frozen(module):
        return module(input_ids=torch.tensor([list(ids)])).logits[0, -1].double()


def _log_probability(module: nn.Module, ids: Sequence[int], continuation: Sequence[int]) -> float:
    """Of a continuation: a pass for each of its tokens."""
    total = 0.0
    for place, token in enumerate(continuation):
        total += float(_logits(module, [*ids, *continuation[:place]]).log_softmax(-1)[token])
    return total


def _drops(
    ids: list[int], ranked: Sequence[int], score: Callable[[list[int]], float]
) -> np.ndarray:
    """What a score loses with each token in its turn, which the unknown word's id replaces."""
    whole = score(ids)
    return np.array([whole - score([*ids[:place], UNKNOWN, *ids[place + 1 :]]) for place in ranked])
