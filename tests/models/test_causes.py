"""What keeps a sound model from being explained is named, and not taken for a fault of the model."""

import pytest
import torch
from tiny import tiny_bert, token_inputs

import saliency_bench as sb
from saliency_bench.core.errors import InputError, one_line

(TEXT,) = token_inputs(6)


def vanilla(model):
    return sb.attribute(model, TEXT, "vanilla", reduction="l2")


def test_inference_mode_is_named_and_no_grad_does_no_harm():
    model = sb.wrap_model(tiny_bert())
    (right,) = vanilla(model)
    with torch.inference_mode(), pytest.raises(InputError, match=r"torch\.inference_mode\(\)"):
        vanilla(model)
    with torch.no_grad():
        (found,) = vanilla(model)
    assert found.scores.tolist() == right.scores.tolist()


def test_weights_that_were_made_in_inference_mode_are_named():
    with torch.inference_mode():
        model = sb.wrap_model(tiny_bert())
    with pytest.raises(InputError, match=r"weights were made inside torch\.inference_mode"):
        vanilla(model)


def test_autocast_is_named_by_whatever_asks_the_model():
    model = sb.wrap_model(tiny_bert(torch.float32))
    maps = vanilla(model)
    with torch.autocast("cpu", torch.bfloat16):
        for ask in (
            lambda: vanilla(model),
            lambda: sb.evaluate(model, maps, "srg", removal="zero"),
        ):
            with pytest.raises(InputError, match=r"torch\.autocast\('cpu'\).*bfloat16"):
                ask()
        with torch.autocast("cpu", enabled=False):
            assert vanilla(model)[0].scores.tolist() == maps[0].scores.tolist()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, of its compiler
def test_a_compiled_module_is_named_before_it_is_called():
    with pytest.raises(InputError, match=r"torch\.compile.*_orig_mod"):
        sb.wrap_model(torch.compile(tiny_bert()))
    module = tiny_bert()
    model = sb.wrap_model(module)
    module.bert.compile()
    with pytest.raises(InputError, match=r"torch\.compile"):
        vanilla(model)


def test_of_a_long_error_the_end_is_said_too():
    """Remedies stand at the end."""
    error = ValueError("what\n went wrong " + "x" * 5000 + " what to do")
    text = one_line(error)
    assert text.startswith("what went wrong x")
    assert text.endswith("x what to do")
    assert len(text) < 1100
    assert one_line(ValueError("x" * 900)) == "x" * 900
