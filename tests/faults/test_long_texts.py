"""Long texts in a small memory: the token budget bounds it, and without that bound the same memory is too small."""

import subprocess
import sys
from pathlib import Path

import pytest

LENGTH = 4096
STEPS = 32
#: Beyond what the process has before it explains: enough for one row of 4096 tokens, not for all of them at once.
SPARE_BYTES = 400 * 2**20

SCRIPT = f"""
import resource, sys
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
try:
    (found,) = explain({LENGTH}, int(sys.argv[1]))
except (MemoryError, RuntimeError) as error:
    print(type(error).__name__, error)
    sys.exit(5)
assert found.scores.shape == ({LENGTH},) and found.n_gradients == {STEPS}
print("gap", abs(found.completeness_gap))
"""


def explained_with(budget):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, str(budget)], capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="sizes are read as Linux has them"
)
def test_the_token_budget_bounds_the_memory_of_long_texts(record_property):
    bounded = explained_with(LENGTH)
    assert bounded.returncode == 0, bounded.stdout + bounded.stderr
    unbounded = explained_with(STEPS * LENGTH)
    assert unbounded.returncode == 5, unbounded.stdout + unbounded.stderr
    assert "memory" in unbounded.stdout
    record_property("faults: address spaces that were capped", 2)
