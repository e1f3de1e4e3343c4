"""The last layer for the pooled row only: where it is proved, and nowhere else."""

from dataclasses import replace

import pytest
import torch
from tiny import VOCABULARY, tiny_bert
from torch import nn
from torch.overrides import TorchFunctionMode

import saliency_bench as sb
from saliency_bench.models import pooled_row
from saliency_bench.models.pooled_row import PooledRow, first_row_only

IDS = torch.tensor([[5, 9, 7, 6, 12], [8, 5, 11, 30, 2], [4, 4, 17, 3, 9]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]).bool()


def wrapped(name, attention="sdpa"):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(0)
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "embedding_size": 16,
        "pad_token_id": 1,
        "initializer_range": 0.5,
    }
    if name == "distilbert":
        sizes = {"vocab_size": VOCABULARY, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    config = AutoConfig.for_model(name, **sizes, attn_implementation=attention)
    return sb.wrap_model(AutoModelForSequenceClassification.from_config(config).double())


def gradient(model, mask, short):
    embeddings = model.embed(IDS).requires_grad_()
    with model.frozen(), torch.enable_grad():
        logits = model.output(IDS, mask, None, embeddings, short=short)
        (found,) = torch.autograd.grad(logits[:, 1].sum(), embeddings)
    return logits.detach(), found


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "distilbert"])
@pytest.mark.parametrize("mask", [None, MASK])
def test_the_pooled_row_alone_gives_the_logits_and_gradients_of_the_whole_layer(
    name, mask, attention
):
    model = wrapped(name, attention)
    assert model.pooled_row is not None
    assert model.pooled_row.projections
    for whole, short in zip(gradient(model, mask, False), gradient(model, mask, True), strict=True):
        # Two layers of products over at most 32 numbers, in another order.
        torch.testing.assert_close(short, whole, rtol=0, atol=1e-13 * float(whole.abs().max()))


class Watching(TorchFunctionMode):
    """Notes how many queries attention is computed for."""

    def __init__(self):
        super().__init__()
        self.queries = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is nn.functional.scaled_dot_product_attention:
            self.queries.append(args[0].shape[-2])
        return func(*args, **(kwargs or {}))


def test_the_rest_of_the_last_layer_and_its_query_are_computed_for_one_row():
    model = wrapped("bert")
    rows = []
    for layer in model.module.bert.encoder.layer:
        for part in (layer.attention.self.query, layer.attention.self.key, layer.intermediate):
            part.register_forward_hook(lambda _, __, output: rows.append(output.shape[1]))
    last = model.module.bert.encoder.layer[-1].attention
    assert model.pooled_row == PooledRow(last.output, (last.self.query,), (last.self,))
    for short, n in ((True, 1), (False, 5)):
        rows.clear()
        with Watching() as watching:
            gradient(model, None, short)
        assert rows == [5, 5, 5, n, 5, n]
        assert watching.queries == [5, n]


def test_projections_alone_are_cut_where_no_module_takes_both_inputs():
    model = wrapped("distilbert")
    last = model.module.distilbert.transformer.layer[-1]
    assert model.pooled_row.layer is None
    expected = {last.attention.q_lin, last.attention.out_lin, last.ffn.lin1, last.ffn.lin2}
    assert set(model.pooled_row.projections) == expected


def test_a_model_without_such_modules_is_used_as_it_is():
    model = wrapped("albert")  # its one layer is called several times
    assert model.pooled_row is None
    for whole, short in zip(gradient(model, None, False), gradient(model, None, True), strict=True):
        assert torch.equal(whole, short)


class Scaled(nn.Linear):
    """A linear map that is none of each row alone."""

    def forward(self, input):
        return super().forward(input) * input.shape[1]


class Subclass(nn.Linear):
    """A linear map today; what a class of somebody's does with other texts is not known."""


@pytest.mark.parametrize("kind", [Scaled, Subclass])
def test_a_projection_that_is_not_plainly_linear_is_not_cut(kind):
    module = tiny_bert()
    attention = module.bert.encoder.layer[-1].attention.self
    attention.query = kind(16, 16).double()
    assert sb.wrap_model(module).pooled_row.projections == ()


def test_where_the_numbers_differ_projections_are_left_as_they_are():
    module = tiny_bert()
    query = module.bert.encoder.layer[-1].attention.self.query
    query.register_forward_hook(lambda _, args, output: output * args[0].shape[1])
    model = sb.wrap_model(module)
    assert model.pooled_row.projections == ()
    assert model.pooled_row.layer is not None


def test_causal_attention_is_left_to_itself():
    mode = pooled_row._OneQuery()
    query = torch.randn(2, 1, 1, 4).expand(2, 1, 3, 4)
    key, value = torch.randn(2, 2, 1, 3, 4)
    attend = nn.functional.scaled_dot_product_attention
    expected = attend(query, key, value, is_causal=True)
    with mode:
        assert torch.equal(attend(query, key, value, is_causal=True), expected)
    assert not torch.equal(expected[:, :, 0], expected[:, :, 2])


def test_the_one_query_has_the_first_rows_mask():
    query = torch.randn(2, 1, 1, 4).expand(2, 1, 3, 4)
    key, value = torch.randn(2, 2, 1, 3, 4)
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool).tril()
    attend = nn.functional.scaled_dot_product_attention
    expected = attend(query, key, value, attn_mask=mask)
    with pooled_row._OneQuery():
        attended = attend(query, key, value, attn_mask=mask)
    # Sums over at most 4 numbers in float32.
    torch.testing.assert_close(attended[:, :, 0], expected[:, :, 0], rtol=0, atol=1e-6)
    assert not torch.allclose(expected[:, :, 0], expected[:, :, 2])


class Leaky(nn.Module):
    """A BERT whose logits read the mean of all rows too, ever so little."""

    def __init__(self, share):
        super().__init__()
        self.inner = tiny_bert()
        self.share = share

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        hidden = self.inner.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        return self.inner.classifier(hidden[:, 0] + self.share * hidden.mean(1))


@pytest.mark.parametrize("share", [1.0, 1e-6, 1e-14])
def test_a_model_that_reads_another_row_is_never_cut_however_little_it_reads(share):
    # No tolerance would notice the last: the proof is that the other rows have no gradient at all.
    assert sb.wrap_model(Leaky(share)).pooled_row is None
    assert sb.wrap_model(Leaky(0.0)).pooled_row is not None


def test_a_module_that_is_called_twice_in_one_pass_is_not_cut():
    module = tiny_bert()
    module.bert.encoder.layer[1] = module.bert.encoder.layer[0]
    assert sb.wrap_model(module).pooled_row is None


class Again(nn.Module):
    """A BERT whose logits read every row of a second call of a part of its last layer, ever so little."""

    def __init__(self, part, n_inputs):
        super().__init__()
        self.inner = tiny_bert()
        self.part, self.n_inputs = part, n_inputs

    @property
    def repeated(self):
        return self.part(self.inner.bert.encoder.layer[-1].attention)

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        options = {"attention_mask": attention_mask, "output_hidden_states": True}
        outputs = self.inner.bert(input_ids, **options)
        again = self.repeated(*[outputs.hidden_states[0]] * self.n_inputs)
        return self.inner.classifier(outputs.last_hidden_state[:, 0] + 1e-14 * again.mean(1))


@pytest.mark.parametrize(
    ("part", "n_inputs"),
    [(lambda attention: attention.self.query, 1), (lambda attention: attention.output, 2)],
    ids=["projection", "layer"],
)
def test_a_part_whose_second_call_has_its_rows_read_is_not_cut(part, n_inputs):
    # Of the first call row 0 alone is read, and no tolerance would notice the second.
    module = Again(part, n_inputs)
    cut = sb.wrap_model(module).pooled_row
    assert cut is not None  # the other parts are
    assert module.repeated not in (cut.layer, *cut.projections)


def test_it_can_be_switched_off_and_leaves_no_hook_behind():
    model = sb.wrap_model(tiny_bert())
    assert replace(model, short_last_layer=False).pooled_row is None
    with pytest.raises(RuntimeError, match="stop"), first_row_only(model.pooled_row):
        raise RuntimeError("stop")
    assert not any(layer._forward_pre_hooks for layer in model.module.modules())
    assert not any(layer._forward_hooks for layer in model.module.modules())
    assert not any(layer._forward_hooks_always_called for layer in model.module.modules())


def test_an_error_in_the_attention_leaves_no_mode_behind(monkeypatch):
    from torch.overrides import _get_current_function_mode

    model = sb.wrap_model(tiny_bert())
    attention = model.module.bert.encoder.layer[-1].attention.self
    assert model.pooled_row.attending == (attention,)
    monkeypatch.setattr(attention, "forward", lambda *_, **__: 1 / 0)  # not the other layers'
    with pytest.raises(ZeroDivisionError):
        gradient(model, None, True)
    assert _get_current_function_mode() is None
    assert not any(layer._forward_hooks for layer in model.module.modules())


def test_attributions_use_it_and_are_the_same_without_it():
    model = sb.wrap_model(tiny_bert())
    rows = []
    model.module.bert.encoder.layer[-1].output.register_forward_hook(
        lambda _, __, out: rows.append(out.shape[1])
    )
    options = {"method": "integrated_gradients", "n_steps": 7}
    inputs = [{"input_ids": ids.tolist()} for ids in IDS]
    short = sb.attribute(model, inputs, **options)
    assert 1 in rows
    whole = sb.attribute(replace(model, short_last_layer=False), inputs, **options)
    for a, b in zip(short, whole, strict=True):
        torch.testing.assert_close(
            torch.from_numpy(a.scores), torch.from_numpy(b.scores), rtol=0, atol=1e-13
        )
