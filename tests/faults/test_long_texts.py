"""Long texts in a small memory: the token budget bounds it, and a budget that is too large is halved until it fits."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

LENGTH = 4096
STEPS = 8
#: Beyond what the process has before it explains: enough for one row of 4096 tokens, not for all of them at once.
SPARE_BYTES = 400 * 2**20

SCRIPT = f"""
import json, resource, sys
import torch
from transformers import BertConfig, BertForSequenceClassification
import saliency_bench as sb

torch.set_num_threads(1)
torch.manual_seed(0)
size = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256)
config = BertConfig(vocab_size=50, max_position_embeddings={LENGTH}, num_labels=2, **size)
model = sb.wrap_model(BertForSequenceClassification(config).eval())

def explain(length, budget):
    ids = torch.randint(5, 50, (length,)).tolist()
    return sb.attribute(model, [{{"input_ids": ids}}], method="integrated_gradients", baseline="zero",
                        n_steps={STEPS}, token_budget=budget)

explain(16, 64)  # whatever is loaded on first use
(line,) = [one for one in open("/proc/self/status") if one.startswith("VmSize")]
limit = int(line.split()[1]) * 1024 + {SPARE_BYTES}
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = model.ledger.copy()
(found,) = explain({LENGTH}, int(sys.argv[1]))
assert found.scores.shape == ({LENGTH},) and found.n_gradients == {STEPS}
print(json.dumps([model.ledger.since(before).calls, found.scores.tolist()]))
"""


def explained_with(budget):
    """How often the model was called, and the scores."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(budget)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="sizes are read as Linux has them"
)
def test_long_texts_fit_a_small_memory_under_any_token_budget(record_property):
    calls, scores = explained_with(LENGTH)
    assert calls > STEPS  # one text at a time, and the clean pass
    fewer, same = explained_with(STEPS * LENGTH)
    assert fewer > 2  # all at once did not fit
    np.testing.assert_allclose(same, scores, rtol=0, atol=2e-5 * np.abs(scores).max())
    record_property("faults: address spaces that were capped", 2)
