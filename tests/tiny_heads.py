"""A tiny random model of several architectures for every task, and a tokenizer of words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saliency_bench.models.heads import HEADS
from saliency_bench.models.loading import wrap_model
from saliency_bench.models.model import Model

FRAME = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "capital", "of", "france", "is", "paris", "rome", "what", "a", "##s", ".", "?"]
VOCABULARY = 40

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,
    "pad_token_id": 0,
}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 2}
DISTILBERT = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}

#: Model types of transformers that have the head, with what they need besides `SIZES`.
ARCHITECTURES: dict[str, dict[str, dict[str, Any]]] = {
    "token-classification": {"bert": {}, "distilbert": DISTILBERT, "roberta": {}, "gpt2": GPT2},
    "question-answering": {"bert": {}, "distilbert": DISTILBERT, "electra": {"embedding_size": 16}},
    "fill-mask": {"bert": {}, "roberta": {}, "albert": {"embedding_size": 16}},
    "text-generation": {"gpt2": GPT2, "llama": {"num_key_value_heads": 2}, "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16}},
}  # fmt: skip
EVERY_HEAD = [(task, kind) for task, kinds in ARCHITECTURES.items() for kind in kinds]


def tiny_head(task: str, kind: str, n_labels: int = 3) -> nn.Module:
    """A random model in float64."""
    import transformers

    torch.manual_seed(0)
    needs = ARCHITECTURES[task][kind]
    sizes = {"eos_token_id": 3} | SIZES | needs
    if HEADS[task].named:
        sizes["num_labels"] = n_labels
    config = transformers.AutoConfig.for_model(kind, **sizes)
    module: nn.Module = getattr(transformers, HEADS[task].auto).from_config(config)
    return module.double().eval()


def word_tokenizer(folder: Path) -> Any:
    """BERT's tokenizer over a few words."""
    from transformers import BertTokenizer

    words = FRAME + WORDS
    words += [f"w{index}" for index in range(VOCABULARY - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words))
    return BertTokenizer.from_pretrained(folder)


def tiny_model(task: str, kind: str, tokenizer: Any = None, **options: Any) -> Model:
    """The same, wrapped."""
    return wrap_model(tiny_head(task, kind), tokenizer, task=task, **options)


def gradient_lengths(module: nn.Module, ids: Any, score: Callable[[Any], torch.Tensor]) -> Any:
    """The length of each token's gradient of a score of the plain model's outputs: the oracle."""
    ids = torch.tensor([ids])
    found: list[torch.Tensor] = []

    def keep(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        found.append(output.detach().requires_grad_())
        return found[0]

    table = module.get_input_embeddings()
    handle = table.register_forward_hook(keep)
    try:
        outputs = module(input_ids=ids)
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(score(outputs), found[0])
    return gradient[0].norm(dim=-1).numpy()
