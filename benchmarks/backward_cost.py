"""What a gradient by a backward rule costs: its processor time over that of a plain gradient of the same text.

    python -m benchmarks.backward_cost [FOLDER]

A BERT and a Llama of 12 layers and 768 dimensions with random weights, and the bundled model; one text of 32 tokens, one
thread, float32. One gradient is a forward and a backward pass. Each round takes every rule once, beginning with another rule
than the round before, and a ratio is that of two gradients of one round. The time is that of the process, so that other
processes do not count. The interval of a median holds for any distribution: its ends are two of the sorted ratios.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from scipy.stats import binom
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from benchmarks.record import ONE_THREAD, Record
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
    rounds = []
    model.module.eval()
    with model.frozen():
        texts = encode_all(model, [{"input_ids": ids.tolist()}], None)
        block = open_block(References(model), texts, 0, N_TOKENS)
        context = block.context("logit", 0)
        gradient_seconds(context, PLAIN)  # the first pass of a model is slower
        for number in range(n_rounds):
            first = number % len(NAMES)
            order = (*NAMES[first:], *NAMES[:first])
            rounds.append({rule: gradient_seconds(context, rule) for rule in order})
    seconds = pd.DataFrame(rounds)[list(NAMES)]
    return seconds.div(seconds[PLAIN], axis=0)


def gradient_seconds(context: Context, rule: str) -> float:
    """Processor time of one forward and backward pass at the embeddings of the text."""
    ruled = context.under(rule)
    points = ruled.embeddings.clone().requires_grad_()
    started = time.process_time()
    with torch.enable_grad():
        score = ruled.engine.score(points, torch.zeros(1, dtype=torch.long))
    torch.autograd.grad(score.sum(), points)
    return time.process_time() - started


def summary(table: pd.DataFrame, name: str = "rule") -> pd.DataFrame:
    """Of each column (a rule) the median ratio with an interval of at least 95 %, and the number of rounds.

    The k-th smallest and the k-th largest of n ratios enclose the median of their distribution with probability
    1 - 2 P(B < k), B ~ Binomial(n, 1/2). k is the largest for which that is 0.95 or more.
    """
    n = len(table)
    k = int(binom.ppf(0.025, n, 0.5))
    ordered = table.apply(lambda column: column.sort_values(ignore_index=True))
    columns = {"median": table.median(), "low": ordered.iloc[k - 1], "high": ordered.iloc[n - k]}
    return pd.DataFrame(columns).assign(n=n).rename_axis(name).reset_index()


def main() -> None:
    """Writes the ratios of all rounds, their medians and a manifest."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "results/backward_cost")
    folder.mkdir(parents=True, exist_ok=True)
    record = Record("-m", "benchmarks.backward_cost")
    torch.set_num_threads(1)
    rounds, medians = [], []
    for name, attention, model in models():
        table = ratios(model, N_ROUNDS).round(3)
        where = {"model": name, "attention": attention}
        rounds.append(table.assign(**where, round=range(N_ROUNDS)))
        medians.append(summary(table).assign(**where))
        print(medians[-1].to_string(), flush=True)
    keys = ["model", "attention"]
    pd.concat(rounds).set_index([*keys, "round"]).to_csv(folder / "rounds.csv")
    pd.concat(medians).set_index([*keys, "rule"]).to_csv(folder / "cost.csv")
    record.write(folder, {"name": "backward_cost"}, **ONE_THREAD)


if __name__ == "__main__":
    main()
