"""Peak memory is measured, not estimated."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saliency_bench.studies import memory
from saliency_bench.studies.memory import peak_memory

MB = 2**20
# Above: page rounding, Python objects, code that runs for the first time. Below: Linux notes
# resident pages core by core in batches of max(32, 2 x cores), and its mark may miss the last
# batches. Both are a few MB on ordinary machines; what is measured is 20 to 40 times as large.
SLACK = 5 * MB


def touch(n_bytes):
    """Memory that is really there: untouched pages are not resident."""
    return torch.ones(n_bytes, dtype=torch.uint8)


@pytest.fixture(autouse=True)
def measurable():
    touch(MB)
    with peak_memory("cpu") as peak:
        pass
    if peak.peak_bytes is None:
        pytest.skip("this system cannot reset its high-water mark")


def test_a_tensor_counts_with_its_size():
    with peak_memory("cpu") as peak:
        tensor = touch(200 * MB)
    assert peak.peak_bytes == pytest.approx(len(tensor), abs=SLACK)


def test_memory_that_was_freed_within_counts():
    with peak_memory("cpu") as peak:
        touch(200 * MB)
    assert peak.peak_bytes == pytest.approx(200 * MB, abs=SLACK)


def test_what_is_not_held_together_does_not_add_up():
    with peak_memory("cpu") as peak:
        for _ in range(3):
            touch(200 * MB)
    assert peak.peak_bytes <= 200 * MB + SLACK


def test_a_peak_before_the_block_does_not_count():
    touch(200 * MB)
    with peak_memory("cpu") as peak:
        pass
    assert peak.peak_bytes <= SLACK


def test_memory_held_from_before_does_not_count():
    held = touch(200 * MB)
    with peak_memory("cpu") as peak:
        again = touch(100 * MB)
    assert len(held) == 2 * len(again)
    assert peak.peak_bytes == pytest.approx(len(again), abs=SLACK)


def test_small_pieces_freed_before_do_not_hide_what_comes():
    # Pieces below the allocator's mmap threshold stay with it when freed, and would be used again.
    pieces = [bytearray(b"x" * 65_536) for _ in range(1600)]
    del pieces
    with peak_memory("cpu") as peak:
        again = [bytearray(b"y" * 65_536) for _ in range(1600)]
    assert len(again) == 1600
    assert peak.peak_bytes == pytest.approx(100 * MB, abs=SLACK)


def test_a_block_that_fails_still_has_a_peak():
    with pytest.raises(ArithmeticError), peak_memory("cpu") as peak:
        touch(100 * MB)
        raise ArithmeticError
    assert peak.peak_bytes == pytest.approx(100 * MB, abs=SLACK)


def test_where_the_mark_cannot_be_reset_the_peak_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "no" / "clear_refs")
    with peak_memory("cpu") as peak:
        pass
    assert peak.peak_bytes is None


@pytest.mark.parametrize("content", [None, "Name:\tpython\n"])
def test_where_the_system_does_not_tell_the_peak_is_unknown(monkeypatch, tmp_path, content):
    status = Path(tmp_path / "status")
    if content is not None:
        status.write_text(content)
    monkeypatch.setattr(memory, "_STATUS", status)
    with peak_memory("cpu") as peak:
        pass
    assert peak.peak_bytes is None


def test_on_an_unknown_kind_of_device_the_peak_is_unknown():
    with peak_memory("meta") as peak:
        pass
    assert peak.peak_bytes is None


#: In a process of its own: what others freed before would be used again without being seen.
MEMORY = """
import json
from transformers import BertConfig, BertForSequenceClassification
from saliency_bench.experiments.throughput.contestants import Problem, explained
from saliency_bench.studies.memory import peak_memory
from saliency_bench.models.loading import wrap_model
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import encode, encoded_ids

config = BertConfig(vocab_size=99, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512)
model = wrap_model(BertForSequenceClassification(config).eval())
ids = [[(7 * row + 3 * place) % 99 for place in range(32)] for row in range(16)]
encoded = tuple(encoded_ids(model, {"input_ids": row}, str(i), None, "") for i, row in enumerate(ids))
peaks = []
with model.frozen():
    for n_steps in (16, 16, 256):  # the first of them loads what a first run loads
        problem = Problem(References(model), encoded, "zero", "midpoint", n_steps, 4096)
        with peak_memory("cpu") as peak:
            explained(problem, [problem.setting])
        peaks.append(peak.peak_bytes)
print(json.dumps(peaks[1:]))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps():
    # Every tensor in pages of its own: what glibc keeps of freed ones is 5 % more or less from run to run.
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], env=env, capture_output=True, text=True, check=True
    )
    few, many = json.loads(done.stdout.splitlines()[-1])
    # Rows of 16 steps fill two chunks of the token budget, those of 256 fill 32.
    assert few > 20 * 2**20
    assert many / few <= 1.05
