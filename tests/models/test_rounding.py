"""Products of float32 matrices: rounded as the model says, and as the process has set it afterwards."""

from dataclasses import replace

import pytest
import torch
from tiny import tiny_bert

import saliency_bench as sb
from saliency_bench.models.rounding import products

CUDA, CPU = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul

#: Everything by which a process can say how products are rounded, in both of PyTorch's interfaces.
SWITCHES = {
    "untouched": lambda: None,
    "old, high": lambda: torch.set_float32_matmul_precision("high"),
    "old, medium": lambda: torch.set_float32_matmul_precision("medium"),
    "old, allowed": lambda: setattr(CUDA, "allow_tf32", True),
    "new, tf32": lambda: setattr(CUDA, "fp32_precision", "tf32"),
    "new, ieee": lambda: setattr(CUDA, "fp32_precision", "ieee"),
    "new, for all": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
}


def older():
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "cannot be read"


def flags():
    return torch.backends.fp32_precision, CUDA.fp32_precision, CPU.fp32_precision, older()


def put_all_back():
    torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    CUDA.fp32_precision = CPU.fp32_precision = "none"


@pytest.fixture(autouse=True)
def put_back():
    yield
    put_all_back()


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("tf32", [False, True])
def test_products_are_rounded_as_the_model_says_and_as_before_afterwards(switch, tf32):
    model = replace(sb.wrap_model(tiny_bert()), tf32=tf32)
    SWITCHES[switch]()
    before = flags()
    with pytest.raises(RuntimeError, match="stop"), model.frozen():
        inside = flags()
        assert CUDA.fp32_precision == ("tf32" if tf32 else "ieee")
        with products(tf32=False):  # sums and proofs are not rounded
            assert (CUDA.fp32_precision, CPU.fp32_precision) == ("ieee", "ieee")
        assert flags() == inside
        raise RuntimeError("stop")
    assert flags() == before


@pytest.mark.parametrize("switch", SWITCHES)
def test_what_a_process_says_later_of_all_products_still_holds(switch):
    """A flag that said nothing of itself says nothing afterwards."""
    SWITCHES[switch]()
    torch.backends.fp32_precision = "ieee"
    expected = flags()
    put_all_back()
    SWITCHES[switch]()
    with products(tf32=True):
        pass
    torch.backends.fp32_precision = "ieee"
    assert flags() == expected


def test_a_model_says_its_precision_by_the_name_that_it_is_asked_for_by():
    model = sb.wrap_model(tiny_bert(torch.float32))
    assert model.precision == "float32"
    assert replace(model, tf32=True).precision == "tf32"
    assert sb.wrap_model(tiny_bert(torch.bfloat16)).precision == "bfloat16"
