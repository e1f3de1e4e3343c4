"""Numbers that pass between host and device, and memory that runs out there."""

import numpy as np
import pytest
import torch

from saliency_bench.core.errors import is_out_of_memory
from saliency_bench.core.tensors import host_copies, numbers, on_device

HERE = torch.device("cpu")


def test_the_host_knows_what_it_sent_and_reads_what_it_did_not():
    given = [3, 1, 2]
    there = on_device(given, HERE, torch.long)
    given.append(9)
    assert there.tolist() == numbers(there) == [3, 1, 2]
    assert numbers(there[1:]) == [1, 2]
    assert numbers(torch.tensor([5, 6])) == [5, 6]
    assert on_device([0.5, 1.0], HERE, torch.float64).tolist() == [0.5, 1.0]
    assert numbers(on_device(range(4)[1:3], HERE, torch.long)) == [1, 2]


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("CUDA error: out of memory"), False),
    ],
)
def test_memory_that_runs_out_is_known_by_name_or_by_its_words(error, is_memory):
    assert is_out_of_memory(error) is is_memory


def test_tensors_come_to_the_host_together_as_they_would_alone():
    asked = [
        torch.arange(6, dtype=torch.float32).reshape(2, 3) / 7,
        torch.zeros(0, 4),
        torch.tensor([torch.nan, -torch.inf]),
        torch.rand(2, 2, requires_grad=True),
    ]
    for found, tensor in zip(host_copies(asked), asked, strict=True):
        expected = tensor.detach().double().numpy()
        assert (found.shape, found.dtype) == (expected.shape, np.float64)
        np.testing.assert_array_equal(found, expected)
    assert host_copies([]) == []
