"""A causal language model for peers that explain generation: GPT-2 in the default model's size, with random weights.

What it says is noise; what it costs to explain is not, and its numbers can be compared. Its tokenizer is trained on the
bundled training sentences: nothing is downloaded.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from saliency_bench.core.text import Encoded
from saliency_bench.data import movie_reviews
from saliency_bench.data.example import Example
from saliency_bench.models.loading import wrap_model
from saliency_bench.models.model import Model
from saliency_bench.models.tasks.registry import task_of

END = "<|endoftext|>"
N_WORDS = 5000


def random_generator() -> Model:
    """The same weights and tokens at every call."""
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_WORDS,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokens.train_from_iterator((one.text for one in movie_reviews.load(split="train")), trainer)
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), END)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, **special)  # type: ignore[no-untyped-call]
    size: Any = {"n_embd": 384, "n_layer": 6, "n_head": 12, "n_positions": 256}
    ends: Any = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module: Any = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **size, **ends))
    return wrap_model(module.eval(), tokenizer, task="text-generation")


def prompts(model: Model, examples: Sequence[Example]) -> list[Encoded]:
    """Each text without its last word, whose first token is the class to explain."""
    questions = []
    for example in examples:
        prompt, space, last = example.text.rpartition(" ")
        pair = replace(example, text=prompt, text_pair=space + last, label=None)
        task = task_of(model)
        questions.append(task.questions(model, task.encode(model, pair, "error"), None)[0])
    return questions
