"""The probe refuses what cannot be explained, and records what it saw."""

import pytest
import torch
from tiny import VOCABULARY, scored_by, tiny_bert, token_inputs
from tiny_chats import tiny_decoder
from torch import nn

import saliency_bench as sb
from saliency_bench.core.errors import InputError
from saliency_bench.models import probing
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


class Reads(nn.Module):
    """A classifier that looks at its ids besides its embeddings."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 4)

    def forward(self, input_ids):
        places = torch.arange(1, input_ids.shape[1] + 1) * input_ids / VOCABULARY
        return self.embedding(input_ids).tanh().mean(1)[:, :2] + places.mean(1, keepdim=True)


def test_a_model_that_reads_ids_by_another_way_is_refused():
    with pytest.raises(InputError, match="by another way than its embedding layer"):
        inspect_model(sb.wrap_model(Reads()), IDS, None)


class Rough(torch.autograd.Function):
    """A tanh whose backward pass is a straight line's."""

    @staticmethod
    def forward(ctx, x):
        return x.tanh()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_backward_pass_that_is_no_derivative_is_refused(dtype):
    torch.manual_seed(0)  # near 0 a tanh is a straight line
    with pytest.raises(InputError, match="not those of its outputs"):
        inspect_model(sb.wrap_model(Odd(Rough.apply).to(dtype)), IDS, None)
    found = inspect_model(sb.wrap_model(Odd(torch.tanh).to(dtype)), IDS, None)
    # Central differences over the smallest step: the curvature of tanh, (step × size)² / 3 of its slope.
    assert found.gradient_difference < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gradient_is_compared_at_a_step_that_is_small_for_each_token(dtype):
    """The norm of a token of zeros (a pad that ends messages) is a straight line only up to ε^½ = 1e-3 of other tokens."""
    model = tiny_decoder("llama", dtype=dtype)
    ids = (1, 40, 41, 42, 43)
    assert not model.embed(torch.tensor([ids]))[0, 0].any()
    with model.frozen():
        probe = probing.probe_of(model, ids, None, ())
        lengths = probing.gradient_of(probe)[0].norm(dim=-1)
    assert lengths[0] > 100 * lengths[1:].max()
    # Central differences over the smallest step, as above.
    assert inspect_model(model, ids, None).gradient_difference < 1e-4


def test_an_output_that_jumps_beside_the_text_does_not_spoil_the_comparison():
    torch.manual_seed(0)
    plain = sb.wrap_model(Odd(torch.tanh).double())
    top = plain.output(torch.tensor([IDS])).max()
    jumps = sb.wrap_model(Odd(lambda x: x.tanh() + (x.tanh() > top + 1e-9)).double())
    jumps.module.load_state_dict(plain.module.state_dict())
    assert inspect_model(jumps, IDS, None).gradient_difference < 1e-3


def test_a_model_without_a_backward_pass_is_refused_in_a_sentence():
    with pytest.raises(InputError, match="no gradient at its embeddings"):
        inspect_model(sb.wrap_model(Odd(lambda x: x.detach())), IDS, None)


@pytest.mark.parametrize("n_tokens", [1, 2, 3, 4])
def test_the_shortest_texts_can_be_probed(n_tokens):
    (one,) = token_inputs(n_tokens)
    found = inspect_model(sb.wrap_model(tiny_bert()), tuple(one["input_ids"]), None)
    assert found.unseen_difference < 1e-12
