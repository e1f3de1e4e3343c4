"""The last layer for the pooled row only: where it is proved, and nowhere else."""

from dataclasses import replace

import pytest
import torch
from tiny import VOCABULARY, tiny_bert
from torch import nn

import saliency_bench as sb
from saliency_bench.models.pooled_row import first_row_only

IDS = torch.tensor([[5, 9, 7, 6, 12], [8, 5, 11, 30, 2], [4, 4, 17, 3, 9]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]).bool()


def wrapped(name):
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
    config = AutoConfig.for_model(name, **sizes)
    return sb.wrap_model(AutoModelForSequenceClassification.from_config(config).double())


def gradient(model, mask, short):
    embeddings = model.embed(IDS).requires_grad_()
    with model.frozen(), torch.enable_grad():
        logits = model.output(IDS, mask, None, embeddings, short=short)
        (found,) = torch.autograd.grad(logits[:, 1].sum(), embeddings)
    return logits.detach(), found


@pytest.mark.parametrize("name", ["bert", "roberta", "electra"])
@pytest.mark.parametrize("mask", [None, MASK])
def test_the_pooled_row_alone_gives_the_logits_and_gradients_of_the_whole_layer(name, mask):
    model = wrapped(name)
    assert model.pooled_layer is not None
    for whole, short in zip(gradient(model, mask, False), gradient(model, mask, True), strict=True):
        # Two layers of products over at most 32 numbers, in another order.
        torch.testing.assert_close(short, whole, rtol=0, atol=1e-13 * float(whole.abs().max()))


def test_the_rest_of_the_last_layer_is_computed_for_one_row_and_the_others_for_all():
    model = wrapped("bert")
    seen = []
    for layer in model.module.bert.encoder.layer:
        layer.intermediate.register_forward_hook(lambda _, __, out: seen.append(out.shape[1]))
    assert model.pooled_layer is model.module.bert.encoder.layer[-1].attention.output
    seen.clear()
    gradient(model, None, True)
    assert seen == [5, 1]
    gradient(model, None, False)
    assert seen[2:] == [5, 5]


@pytest.mark.parametrize("name", ["albert", "distilbert"])
def test_a_model_without_such_a_layer_is_used_as_it_is(name):
    model = wrapped(name)
    assert model.pooled_layer is None
    for whole, short in zip(gradient(model, None, False), gradient(model, None, True), strict=True):
        assert torch.equal(whole, short)


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
    assert sb.wrap_model(Leaky(share)).pooled_layer is None
    assert sb.wrap_model(Leaky(0.0)).pooled_layer is not None


def test_a_module_that_is_called_twice_in_one_pass_is_not_cut():
    module = tiny_bert()
    module.bert.encoder.layer[1] = module.bert.encoder.layer[0]
    assert sb.wrap_model(module).pooled_layer is None


def test_it_can_be_switched_off_and_leaves_no_hook_behind():
    model = sb.wrap_model(tiny_bert())
    assert replace(model, short_last_layer=False).pooled_layer is None
    with pytest.raises(RuntimeError, match="stop"), first_row_only(model.pooled_layer):
        raise RuntimeError("stop")
    assert not any(layer._forward_pre_hooks for layer in model.module.modules())
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
