"""What a study takes beside the model: processor time per text of method_comparison with a model that takes none."""

import time

import numpy as np
import pytest
import torch
from torch import nn

import saliency_bench as sb
from saliency_bench.cli import config
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import encoded_ids
from saliency_bench.studies.block import plan_blocks
from saliency_bench.studies.prepare import Inputs, prepare
from saliency_bench.studies.tables import block_tables

N_TEXTS, VOCABULARY = 12, 500
WORDS = [
    *["experiment=method_comparison", "evaluation.removal=zero", "timing.enabled=false"],
    *["method.integrated_gradients.baseline=zero", "method.leave_one_out.removal=zero"],
    *["convergence.n_examples=4", "runtime.device=cpu", "runtime.token_budget=2048"],
]

#: Seconds per text: the promise. On two cores at 2.1 GHz it is about half of that, and was 0.14 before each question,
#: each count and each τ-b was computed once.
PROMISED = 0.015


class Stub(nn.Module):
    """Logits of two classes from embeddings of four numbers."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 4)
        nn.init.normal_(self.embedding.weight, generator=torch.Generator().manual_seed(0))

    def forward(self, input_ids, **_):
        pooled = self.embedding(input_ids).tanh().sum(1)
        return torch.stack([0.3 * pooled[:, 0], 0.1 * pooled[:, 1] * pooled[:, 2]], -1)


@pytest.fixture(scope="module")
def study():
    model, rng = sb.wrap_model(Stub()), np.random.default_rng(0)
    lengths = rng.integers(12, 44, N_TEXTS)  # as those of the bundled sentences
    texts = [rng.integers(1, VOCABULARY, length).tolist() for length in lengths]
    encoded = [
        encoded_ids(model, {"input_ids": text}, str(place), None, "a benchmark")
        for place, text in enumerate(texts)
    ]
    cfg = config.load(WORDS)
    return prepare(cfg, config.settings(cfg), inputs=Inputs(model, encoded, ["here"] * N_TEXTS))


def test_a_text_takes_little_beside_the_model(study, benchmark):
    references = References(study.model)
    blocks = [[study.encoded[i] for i in block.indices] for block in plan_blocks(study.encoded)]
    probe = {item.example_id for item in study.encoded[:4]}

    def run():
        return [block_tables(study, references, items, probe) for items in blocks]

    with study.model.frozen():
        tables = run()  # learns the density, and what else is done once
        seconds = []
        for _ in range(7):
            start = time.process_time()
            run()
            seconds.append((time.process_time() - start) / N_TEXTS)
        benchmark.extra_info["seconds per text"] = (min(seconds), max(seconds))
        benchmark.pedantic(run, rounds=1)
    rows = [row for table in tables for row in table["rows"]]
    assert len(rows) == N_TEXTS * len(study.settings) * len(study.config.metric)
    assert sum(row["status"] == "ok" for row in rows) > 0.8 * len(rows)
    assert min(seconds) < PROMISED
