"""The probe refuses what cannot be explained, and records what it saw."""

import pytest
import torch
from tiny import VOCABULARY, scored_by, tiny_bert
from torch import nn

import saliency_bench as sb
from saliency_bench.errors import InputError
from saliency_bench.models.preflight import inspect_model

IDS = (5, 9, 7, 6, 12)


def test_a_sound_model_passes_with_nothing_to_report(bert):
    found = inspect_model(bert, IDS, None)
    assert found.hook_difference == 0
    assert found.repeat_difference == 0
    assert found.batch_difference < 1e-12


def test_layer_norm_makes_the_sum_of_raw_gradients_vanish(bert):
    assert inspect_model(bert, IDS, None).sum_vanishes
    assert inspect_model(sb.wrap_model(tiny_bert(torch.float32)), IDS, None).sum_vanishes


def test_without_layer_norm_the_sum_does_not_vanish():
    assert not inspect_model(scored_by(lambda e: (e**3).sum((1, 2))), IDS, None).sum_vanishes


class Odd(nn.Module):
    """A classifier with one thing wrong."""

    def __init__(self, wrong):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 4)
        self.wrong = wrong

    def forward(self, input_ids):
        pooled = self.embedding(input_ids).mean(1)[:, :2]
        return self.wrong(pooled)


def test_one_output_is_no_classifier():
    with pytest.raises(InputError, match="two classes"):
        inspect_model(sb.wrap_model(Odd(lambda x: x[:, :1])), IDS, None)


def test_half_precision_does_not_make_every_sum_vanish():
    module = Odd(lambda x: x.tanh()).to(torch.bfloat16)
    assert not inspect_model(sb.wrap_model(module), IDS, None).sum_vanishes


@pytest.mark.parametrize("large", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_refused(large):
    with pytest.raises(InputError, match="not finite"):
        inspect_model(sb.wrap_model(Odd(lambda x: x * large)), IDS, None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: x + torch.rand_like(x), "random"),
        (lambda x: x + x.mean(0), "beside another text"),
        (lambda x: x * 0, "zero gradient"),
        (lambda x: (x - x.detach()).abs().sqrt(), "not finite"),
    ],
)
def test_what_cannot_be_explained_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        inspect_model(sb.wrap_model(Odd(wrong)), IDS, None)
