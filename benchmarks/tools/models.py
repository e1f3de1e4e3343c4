"""Small models with the same weights under every version of transformers, and their tokenizer."""

import copy
from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

SEED = 0
TARGET = 1  # the class that is explained
TOKEN = 9  # the next token that is explained, of a language model
#: Two texts of the same number of tokens, and a longer one.
PAIR = ("the plot was dull", "a warm clever film")
LONG = "the film was long but the story was never dull for a moment"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[BOS]")
WORDS = tuple(dict.fromkeys(" ".join((*PAIR, LONG, "and so it ends")).split()))
VOCABULARY = (*SPECIAL, *WORDS)
MODELS = ("bert", "llama", "llama_lm", "gpt2")

_SMALL = {"vocab_size": len(VOCABULARY), "pad_token_id": 0}
_WIDTH = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}


def build(name: str, attention: str = "sdpa", *, biases: bool = True) -> Any:
    """A model in evaluation mode, of two layers with random weights where it is not the trained one.

    Args:
        name: `bert` and `llama` classify a text, `llama_lm` and `gpt2` predict the next token; `default` is the
            trained classifier of this package, which needs its version of transformers.
        attention: the implementation, `sdpa` or `eager`.
        biases: whether additive parameters differ from 0.
    """
    import transformers

    if name == "default":
        return copy.deepcopy(_default(attention)[0])
    given = {**_SMALL, "attn_implementation": attention}
    kinds = {
        "bert": (
            transformers.BertConfig,
            "bert.modeling_bert.BertForSequenceClassification",
            _WIDTH,
        ),
        "llama": (
            transformers.LlamaConfig,
            "llama.modeling_llama.LlamaForSequenceClassification",
            _WIDTH,
        ),
        "llama_lm": (transformers.LlamaConfig, "llama.modeling_llama.LlamaForCausalLM", _WIDTH),
        "gpt2": (
            transformers.GPT2Config,
            "gpt2.modeling_gpt2.GPT2LMHeadModel",
            {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 64},
        ),
    }
    config, path, width = kinds[name]
    module = _class(path)(config(**width, **given, bos_token_id=5, eos_token_id=3))
    fill(module, biases=biases)
    return module.eval()


@cache
def _default(attention: str) -> tuple[Any, Any]:
    from saliency_bench.models.loading import load_default

    model = load_default(device="cpu", attention=attention)
    return model.module, model.tokenizer


def _class(path: str) -> Any:
    """A class by its file, looked up each time: a tool may have put another one there."""
    from importlib import import_module

    file, name = path.rsplit(".", 1)
    return getattr(import_module(f"transformers.models.{file}"), name)


def fill(module: torch.nn.Module, *, biases: bool = True) -> None:
    """Weights from one seed by the order of their names, so that no version's own start matters.

    Matrices keep the scale of what they multiply, embeddings have a standard deviation of 1, scales of norms are near
    1, and biases are far enough from 0 to show.
    """
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                parameter.copy_(0.2 * noise if biases else torch.zeros_like(noise))
            elif parameter.ndim == 1:
                parameter.copy_(1 + 0.2 * noise)
            elif "embed" in name or ".wte." in name or ".wpe." in name:
                parameter.copy_(noise)
            else:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)


def tokenizer(name: str) -> Any:
    """A tokenizer of whole words: BERT's frame of [CLS] and [SEP], or one token at the start."""
    from transformers import PreTrainedTokenizerFast

    if name == "default":
        return copy.deepcopy(_default("sdpa")[1])
    vocabulary = {word: index for index, word in enumerate(VOCABULARY)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    frame = "[CLS] $A [SEP]" if name == "bert" else "[BOS] $A"
    used = [(word, vocabulary[word]) for word in SPECIAL if word in frame]
    inner.post_processor = processors.TemplateProcessing(single=frame, special_tokens=used)
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    if name == "bert":
        return PreTrainedTokenizerFast(
            tokenizer_object=inner, **named, cls_token="[CLS]", sep_token="[SEP]"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        **named,
        bos_token="[BOS]",
        eos_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],
        padding_side="right" if name == "llama" else "left",
    )


def output_of(logits: Tensor) -> Tensor:
    """The number of each text that is explained [B], from logits [B C] or [B T V], padded on the left if at all."""
    return logits[:, TARGET] if logits.ndim == 2 else logits[:, -1, TOKEN]
