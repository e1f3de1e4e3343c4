"""What a gradient by a backward rule costs: its processor time over that of a plain gradient of the same text.

    python -m benchmarks.backward_cost [FOLDER]

A BERT and a Llama of 12 layers and 768 dimensions with random weights, and the bundled model; one text of 32 tokens, one
thread, float32. One gradient is a forward and a backward pass. Each round takes every rule once, beginning with another rule
than the round before, and a ratio is that of two gradients of one round. The time is that of the process, so that other
processes do not count. The interval of a median holds for any distribution: its ends are two of the sorted ratios.
"""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pandas as pd
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from benchmarks import rounds
from saliency_bench import wrap_model
from saliency_bench.api.inputs import encode_all
from saliency_bench.attribution.backward import NAMES, PLAIN
from saliency_bench.attribution.context import Context
from saliency_bench.models.loading import load_default
from saliency_bench.models.model import Model
from saliency_bench.models.references import References
from saliency_bench.studies.block import open_block

N_ROUNDS, N_TOKENS = 11, 32
ATTENTION = ("sdpa", "eager")
LIKE_BERT_BASE: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "vocab_size": 1000,
}


def models() -> Iterator[tuple[str, str, Model]]:
    """Each model with its name and its kind of attention."""
    for attention in ATTENTION:
        given: dict[str, Any] = {
            **LIKE_BERT_BASE,
            "attn_implementation": attention,
            "pad_token_id": 0,
        }
        torch.manual_seed(0)
        yield "bert", attention, wrap_model(BertForSequenceClassification(BertConfig(**given)))
        llama = LlamaConfig(**given, intermediate_size=2048, bos_token_id=1, eos_token_id=2)
        module: torch.nn.Module = LlamaForSequenceClassification(llama)  # type: ignore[no-untyped-call]
        yield "llama", attention, wrap_model(module)
        yield "default", attention, load_default(device="cpu", attention=attention)


def ratios(model: Model, n_rounds: int) -> pd.DataFrame:
    """The ratio of each rule to the plain gradient: a row for each round, a column for each rule."""
    ids = torch.randint(5, 20, (N_TOKENS,), generator=torch.Generator().manual_seed(0))
    model.module.eval()
    with model.frozen():
        texts = encode_all(model, [{"input_ids": ids.tolist()}], None)
        block = open_block(References(model), texts, 0, N_TOKENS)
        context = block.context("logit", 0)
        gradient_seconds(context, PLAIN)  # the first pass of a model is slower
        timers = {rule: partial(gradient_seconds, context, rule) for rule in NAMES}
        return rounds.ratios(timers, n_rounds)


def gradient_seconds(context: Context, rule: str) -> float:
    """Processor time of one forward and backward pass at the embeddings of the text."""
    ruled = context.under(rule)
    points = ruled.embeddings.clone().requires_grad_()
    started = time.process_time()
    with torch.enable_grad():
        score = ruled.engine.score(points, torch.zeros(1, dtype=torch.long))
    torch.autograd.grad(score.sum(), points)
    return time.process_time() - started


def main() -> None:
    """Writes the ratios of all rounds, their medians and a manifest."""
    costs = rounds.Costs("backward_cost", "rule")
    torch.set_num_threads(1)
    for name, attention, model in models():
        costs.add(ratios(model, N_ROUNDS), model=name, attention=attention)
    costs.write({})


if __name__ == "__main__":
    main()
