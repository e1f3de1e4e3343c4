"""Every causal language model of the installed transformers against an oracle that runs one text at a time, without a cache.

The oracle knows nothing of this package: it calls the plain module on token ids in float64, once for each token that is
replaced and for each token of a continuation, and takes gradients at the table of embeddings.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from architectures import HYBRID, LATENT, build
from finding import (
    NOT_BUILT,
    PASSES,
    REFUSED,
    SAME,
    SAME_IN_FLOAT32,
    Finding,
    difference,
    examined,
    table_gradient,
)
from tiny_heads import VOCABULARY, word_tokenizer
from torch import nn

import saliency_bench as sb
from saliency_bench.api.inputs import encode_all
from saliency_bench.core.errors import InputError
from saliency_bench.core.rows import Setting
from saliency_bench.models.causality import require_causal
from saliency_bench.models.model import Model, frozen
from saliency_bench.models.module_facts import parameters_of
from saliency_bench.models.prefixes import shares
from saliency_bench.models.references import References
from saliency_bench.models.tasks.registry import questions
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
#: Gemma 4 without a table of vectors for each layer, as in its larger sizes.
ONE_TABLE = {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0}
INDEXED = HYBRID | {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 4,
    "indexer_compress_ratio": 2,
}
NEEDS: dict[str, dict[str, Any]] = {
    "falcon_h1": {"mamba_d_ssm": 64} | HEADS,
    "bamba": HEADS | {"attn_layer_indices": [1]},
    "granitemoehybrid": HEADS | {"layer_types": ["mamba", "attention"]},
    **dict.fromkeys(["deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "longcat_flash"], LATENT),
    **dict.fromkeys(["bailing_hybrid", "kimi_linear"], LATENT | HYBRID),
    "qwen3_5_moe_text": HYBRID,
    "qwen4_exp": {"text_config": INDEXED},
    "qwen4_exp_text": INDEXED,
    "qwen3_5_moe": {"text_config": HYBRID},
    "lfm3": {"layer_types": ["conv", "sliding_attention"]},
    "youtu": LATENT,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "dots1": {"n_shared_experts": 1},
    "xlstm": {"hidden_size": 128},
    "zaya": {"num_experts_per_tok": 1},
    "dots3_note_text": LATENT,
    "codegen": {"rotary_dim": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "dbrx": {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8.0}},
    "blt": {
        "encoder_hash_byte_group_vocab": 100,
        "encoder_config": {"hidden_size_global": 32},
        "decoder_config": {"hidden_size_global": 32},
    },
    "dots3_note": {
        "text_config": LATENT,
        "vision_config": {
            "adapter_in_dim": 32,
            "adapter_out_dim": 32,
            "mlp_layer_types": ["dense"] * 2,
        },
        "audio_config": {"adapter_input_size": 32, "adapter_out_dim": 32},
    },
    "gemma4_text": ONE_TABLE,
    "gemma4": {"text_config": ONE_TABLE},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 8},
}
#: Why an architecture has no numbers, in place of the words of an error.
PER_LAYER = "looks each token up in a second table, whose vectors enter every layer, so that replacing one layer's output does not replace the token"
DRAFTS = "drafts tokens for another model, and reads that model's states beside the ids"
SOUNDS = "continues codes of sound, not text"
REASONS = {
    "blt": "looks each byte up in several tables, by hashes of the bytes before it too, so that replacing one layer's output does not replace the byte",
    "cpmant": "puts tokens of its own before the text, so that no layer gets the ids of the text alone",
    "gemma3n": PER_LAYER,
    "gemma3n_text": PER_LAYER,
    "gemma4_assistant": DRAFTS,
    "gemma4_unified_assistant": DRAFTS,
    "hrm_text": "takes most of its steps without recording them, so that its gradients are not those of its outputs",
    "musicgen": SOUNDS,
    "musicgen_melody": SOUNDS,
    "reformer": "has a backward pass in training mode only",
}

#: Compared between a text alone and in a padded block.
ALONE_AND_PADDED = [
    Setting("removal", "leave_one_out", "native", "none", "predicted", "logit", 0, {"removal": "unk"}),
    Setting("gradient", "vanilla", "native", "l2", "predicted", "logit", 0),
]  # fmt: skip
#: What cannot be computed in float64.
FLOAT32 = {"inkling2_text", "xglm"}


@dataclass(frozen=True)
class CausalModel(Finding):
    """The result of one causal language model. Numbers are relative to the largest score."""

    gradient: float | None = None  # at the embeddings, by the table
    removal: float | None = None  # leave-one-out of the next token's logit, by a loop
    continuation: float | None = None  # the same of a continuation's log-probability
    beside: float | None = None  # a text alone, and beside a longer one in a padded block
    pads: str = ""  # whether texts are padded: not where the padding changes an output
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
        dtype = torch.float32 if name in FLOAT32 else torch.float64
        return build(name, auto=AUTO, needs=NEEDS.get(name), dtype=dtype, **TOKENS)

    def measured(module: nn.Module) -> CausalModel:
        return _measured(name, sb.wrap_model(module, tokenizer(), task="text-generation"))

    finding = examined(CausalModel, name, built, measured)
    in_short = name in REASONS and finding.status in {REFUSED, NOT_BUILT}
    return replace(finding, reason=REASONS[name]) if in_short else finding


def _measured(name: str, model: Model) -> CausalModel:
    target = _target(model)
    (next_token,) = sb.attribute(
        model, [PROMPT], "leave_one_out", removal="unk", target=target, output="logit"
    )
    with model.frozen():
        references = References(model)
        block = open_block(references, [next_token.encoded], target, 10_000)
        gradient = block.context("logit", 0).clean_gradient[0]
        shared = shares(references, block.batch)
        beside = _beside(references)
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
        continuation=_of_a_continuation(model),
        beside=beside,
        pads="yes" if model.pads_exactly() else "no",
        shared="yes" if shared else "no",
    )
    limits = {"gradient": SAME if model.dtype == torch.float64 else SAME_IN_FLOAT32}
    compared = ["removal", "continuation"] if finding.continuation is not None else ["removal"]
    compared += ["beside"] if model.pads_exactly() else []
    return finding.within(limits | dict.fromkeys(compared, SAME_IN_FLOAT32))


def _of_a_continuation(model: Model) -> float | None:
    """Leave-one-out of a continuation's log-probability against the loop; None if one pass cannot score it."""
    try:
        require_causal(model)
    except InputError:
        return None
    (whole,) = sb.attribute(
        model, [PROMPT], "leave_one_out", removal="unk", continuation=CONTINUATION, at="sum",
        output="log_probability",
    )  # fmt: skip
    (option,) = whole.encoded.options
    ranked = np.flatnonzero(whole.attributable)
    drops = _drops(
        list(whole.token_ids), ranked, lambda row: _log_probability(model.module, row, option)
    )
    return difference(whole.scores[ranked], drops)


def _beside(references: References) -> float:
    """The largest difference between a text's scores alone, and beside a longer text in a padded block."""
    texts = encode_all(references.model, [PROMPT, LONGER], None)
    questions_of_texts = [question for _, question in questions(references.model, texts)]
    alone, padded = (
        open_block(references, block, "predicted", 10_000)
        for block in (questions_of_texts[:1], questions_of_texts)
    )
    assert padded.batch.padded
    assert not alone.batch.padded
    expected, scores = (block.explain(ALONE_AND_PADDED) for block in (alone, padded))
    return max(difference(scores[key][0].scores, expected[key][0].scores) for key in expected)


def _at_the_table(
    model: Model, ids: list[int], target: int, gradient: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of a next token's logit at the table's rows, by a pass without hooks, and by ours at the layer's output.

    What the layer does to a row, as scaling or a norm, is differentiated by itself. Each id occurs once in the text.
    """
    text = torch.tensor([ids])
    whole = table_gradient(
        model, lambda: model.module(input_ids=text, **_no_cache(model.module)).logits[0, -1, target]
    )
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
        text = torch.tensor([list(ids)])
        return module(input_ids=text, **_no_cache(module)).logits[0, -1].double()


def _no_cache(module: nn.Module) -> dict[str, bool]:
    """Turns off the cache of a module that has one."""
    return {"use_cache": False} if "use_cache" in parameters_of(module) else {}


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
