"""A tiny random causal language model with a byte-level tokenizer that has a chat template."""

from typing import Any

import torch

from saliency_bench.models.loading import wrap_model
from saliency_bench.models.model import Model

#: ChatML, with a system message of its own where none is given, as SmolLM2's and Qwen's; contents are trimmed.
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = [
    "The capital of France is Paris. The capital of Italy is Rome.",
    "user: what is the capital of Norway? assistant: it is Oslo, and the king lives there.",
    "Bergen is a city by the sea, and it rains there. A user asks; the system answers.",
]


def bpe_tokenizer(vocabulary: int = 340, template: str | None = TEMPLATE) -> Any:
    """Byte-level BPE with merges of a few English words, ChatML's marks, and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=template,
    )


#: How far two ways to compute the same may be apart, relative to the largest number, in models of float64. Llama's
#: norms and rotations are computed in float32 (epsilon 1.2e-7) whatever its weights are, GPT-2's are not.
ROUNDING = {"gpt2": 1e-11, "llama": 1e-5}


def tiny_decoder(
    kind: str, tokenizer: Any = None, seed: int = 0, dtype: Any = torch.float64, **sizes: Any
) -> Model:
    """A random GPT-2, or Llama with grouped heads, with tied embeddings; the pad token is the end of a text."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    given = {
        "vocab_size": 340,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    if kind == "llama":
        given |= {"num_key_value_heads": 2, "intermediate_size": 48}
    config = AutoConfig.for_model(kind, **given | sizes)
    module = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    return wrap_model(module, tokenizer, task="text-generation")
