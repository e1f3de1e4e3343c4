"""A tiny random classifier of every architecture of the installed transformers that can classify a sequence."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

VOCABULARY = 60
FIRST, PAD, LAST, MASK = range(4)  # MPNet's pad is 1, whatever its configuration says
N_LABELS = 3

#: What configurations call their sizes, and the sizes here. A key that a configuration lacks is left out.
SIZES: Mapping[str, Any] = {
    **dict.fromkeys(["vocab_size"], VOCABULARY),
    **dict.fromkeys(["hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embed_dim"], 32),
    **dict.fromkeys(["embedding_size", "word_embed_proj_dim", "input_embedding_size"], 32),
    **dict.fromkeys(["pooler_hidden_size", "output_embedding_size"], 32),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "n_layers", "num_layers"], 2),
    **dict.fromkeys(["encoder_layers", "decoder_layers", "num_decoder_layers"], 2),
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "num_heads"], 4),
    **dict.fromkeys(["encoder_attention_heads", "decoder_attention_heads"], 4),
    **dict.fromkeys(["num_key_value_heads", "num_kv_heads"], 2),
    **dict.fromkeys(["intermediate_size", "n_inner", "d_inner", "ffn_dim", "d_ff", "dff"], 24),
    **dict.fromkeys(["encoder_ffn_dim", "decoder_ffn_dim", "hidden_dim", "ffn_hidden_size"], 24),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size"], 16),
    **dict.fromkeys(["num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"], 4),
    # All experts: with fewer, outputs jump where a token changes from one to another, and no path adds up.
    **dict.fromkeys(["num_experts_per_tok", "moe_topk", "moe_k"], 4),
    **dict.fromkeys(["n_group", "topk_group"], 1),
    **dict.fromkeys(["kv_lora_rank", "q_lora_rank", "v_head_dim"], 8),
    **dict.fromkeys(["qk_rope_head_dim", "qk_nope_head_dim"], 8),
    **dict.fromkeys(["head_dim", "d_head", "d_kv", "attention_head_size"], 8),
    **dict.fromkeys(["max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"], 64),
    **dict.fromkeys(["initializer_range", "init_std"], 0.2),
    "num_labels": N_LABELS,
    "pad_token_id": PAD,
    "bos_token_id": FIRST,
    "cls_token_id": FIRST,
    "eos_token_id": LAST,
    "sep_token_id": LAST,
    "mask_token_id": MASK,
}

#: What an architecture needs besides, by its model type.
LATENT = {"num_key_value_heads": 4}
HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
NEEDS: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(["axk1", "axk2", "deepseek_v2", "deepseek_v3", "minicpm3"], LATENT),
    "mistral4": LATENT
    | {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.5,
            "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 64,
        }
    },
    **dict.fromkeys(["qwen3_5_text", "qwen3_next"], HYBRID),
    "qwen3_5": {"text_config": HYBRID},
    "longformer": {"attention_window": 4},
    "layoutlmv3": {"coordinate_size": 5, "shape_size": 6, "visual_embed": False},
    "lilt": {"hidden_size": 48, "intermediate_size": 96},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "mra": {"block_per_row": 1},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "phimoe": {"num_local_experts": 2},
    # Without normalisation, larger weights make its gradient 0; smaller ones make softmax flat, so that no rule changes it.
    "mobilebert": {"initializer_range": 0.1},
    # The states of a model of this size are small: a limit that cuts some of them off.
    "gpt_oss": {"swiglu_limit": 0.1},
    "t5": {"decoder_start_token_id": PAD},
    "gptj": {"rotary_dim": 4},
    "xmod": {"default_language": "en_XX"},
    "perceiver": {"d_latents": 32, "num_latents": 8, "num_self_attends_per_block": 2},
    "esmc": {"num_key_value_heads": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "reformer": {
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [16, 16],
        "attn_layers": ["local", "lsh"],
    },
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"], "tie_word_embeddings": False},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"]},
}


def names() -> list[str]:
    """The model types that `AutoModelForSequenceClassification` knows."""
    from transformers.models.auto import modeling_auto

    return list(modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)


def build(
    name: str,
    seed: int = 0,
    auto: str = "AutoModelForSequenceClassification",
    needs: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float64,
    **sizes: Any,
) -> nn.Module:
    """The architecture with a head of transformers, its weights random; `sizes` take the place of `SIZES`."""
    import transformers

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        kind = transformers.CONFIG_MAPPING[name]
        config = _tiny(kind, {**NEEDS.get(name, {}), **(needs or {})}, {**SIZES, **sizes})
        module = getattr(transformers, auto).from_config(config, experts_implementation="eager")
    return module.to(dtype).eval()


def _tiny(kind: Any, needs: Mapping[str, Any], all_sizes: Mapping[str, Any]) -> Any:
    """A configuration of small sizes, its parts likewise."""
    like = kind()
    known = like.to_dict().keys() | like.attribute_map.keys()
    sizes = {key: value for key, value in all_sizes.items() if key in known or key == "num_labels"}
    parts = {key for key in kind.sub_configs if getattr(like, key, None) is not None}
    for key in parts:
        sizes[key] = _tiny(type(getattr(like, key)), needs.get(key, {}), all_sizes)
    return kind(**sizes | {key: value for key, value in needs.items() if key not in parts})
