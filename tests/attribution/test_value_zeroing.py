"""Value zeroing against a BERT written out by hand, in float64: layer by layer, head by head, token by token.

ROUNDING bounds, relative to the largest score, what differs where sums of a few hundred terms are ordered otherwise. A
distance is a difference of unit vectors squared: of vectors that are 1e-2 apart it keeps 1e-14 of itself.
"""

import math

import numpy as np
import pytest
import torch
from tiny import scored_by, tiny_bert, token_inputs
from torch import nn

import saliency_bench as sb
from saliency_bench.attribution.methods import METHODS
from saliency_bench.core.errors import InputError
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import encoded_ids
from saliency_bench.studies.block import open_block

ROUNDING = 1e-10
QUERIES = ["first", "last", "mean"]


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING * np.abs(expected).max())


def scores(model, inputs, **options):
    return [one.scores for one in sb.attribute(model, inputs, "value_zeroing", **options)]


def numbers(linear):
    return linear.weight.detach().numpy(), linear.bias.detach().numpy()


def affine(x, linear):
    weight, bias = numbers(linear)
    return x @ weight.T + bias


def normed(x, layer):
    weight, bias = numbers(layer)
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + layer.eps) * weight + bias


def gelu(x):
    return np.array([[v * (1 + math.erf(v / 2**0.5)) / 2 for v in row] for row in x])


def layer_output(layer, x, zeroed, n_heads=2):
    """One layer of a BERT on states [T D], without the value of the token `zeroed`."""
    attention = layer.attention.self
    q, k, v = (affine(x, one) for one in (attention.query, attention.key, attention.value))
    if zeroed is not None:
        v = v.copy()
        v[zeroed] = 0
    size = x.shape[1] // n_heads
    context = np.zeros_like(x)
    for head in range(n_heads):
        own = slice(head * size, (head + 1) * size)
        for i in range(len(x)):
            weights = np.exp([q[i, own] @ k[j, own] / size**0.5 for j in range(len(x))])
            context[i, own] = sum(w * v[j, own] for j, w in enumerate(weights)) / weights.sum()
    after = normed(
        affine(context, layer.attention.output.dense) + x, layer.attention.output.LayerNorm
    )
    inner = gelu(affine(after, layer.intermediate.dense))
    return normed(affine(inner, layer.output.dense) + after, layer.output.LayerNorm)


def mixing_by_hand(module, item):
    ids = torch.tensor([item["input_ids"]])
    x = module.bert.embeddings(ids)[0].detach().numpy()
    total = np.eye(len(x))
    for layer in module.bert.encoder.layer:
        plain = layer_output(layer, x, None)
        mixing = np.zeros((len(x), len(x)))
        for j in range(len(x)):
            moved = layer_output(layer, x, j)
            for i in range(len(x)):
                sizes = np.linalg.norm(moved[i]) * np.linalg.norm(plain[i])
                mixing[i, j] = 1 - moved[i] @ plain[i] / sizes
        total = mixing / mixing.sum(1, keepdims=True) @ total
        x = plain
    return total


def row(matrix, query):
    return {"first": matrix[0], "last": matrix[-1], "mean": matrix.mean(0)}[query]


@pytest.mark.parametrize("query", QUERIES)
def test_the_scores_are_those_of_a_bert_written_out_by_hand(bert, query):
    (item,) = token_inputs(6)
    (found,) = scores(bert, [item], query=query)
    # 1 - cos loses digits by hand: of distances near 1e-2 it keeps 14 - 2.
    close(found, row(mixing_by_hand(bert.module, item), query))


def test_scores_are_shared_out_among_the_tokens_and_take_no_gradient(bert):
    for one in sb.attribute(bert, token_inputs(5, 8), "value_zeroing"):
        assert one.scores.sum() == pytest.approx(1, abs=1e-12)
        assert (one.scores >= 0).all() and one.n_gradients == 0


def test_a_value_that_is_zeroed_nowhere_changes_the_result(bert, monkeypatch):
    """The broken twin: attention that ignores whose values stay finds no token that matters."""
    from saliency_bench.models import layers

    (item,) = token_inputs(6)
    (found,) = scores(bert, [item])
    monkeypatch.setattr(
        layers._Attention, "stays", property(lambda self: None, lambda self, v: None)
    )
    (broken,) = scores(bert, [item])
    assert np.abs(broken - found).max() > 0.01


def test_it_costs_a_forward_row_for_each_token_and_one_more(bert):
    inputs = token_inputs(5, 5)
    encoded = [encoded_ids(bert, item, str(i), None, "") for i, item in enumerate(inputs)]
    with bert.frozen():
        context = open_block(References(bert), encoded, 1, 100).context("logit", 0)
        rows = []
        plain = context.score
        context.__dict__["score"] = lambda points, own: (rows.append(len(own)), plain(points, own))[
            1
        ]
        METHODS["value_zeroing"](context, query="first")
    assert sum(rows) == 1 + 2 * (1 + 5)  # the first pass finds the layers


def test_order_company_padding_and_token_budget_change_nothing(bert):
    inputs = token_inputs(5, 9, 5, 7)
    together = scores(bert, inputs)
    small = scores(bert, inputs, token_budget=1)
    encoded = [encoded_ids(bert, item, str(i), None, "") for i, item in enumerate(inputs)]
    with bert.frozen():
        context = open_block(References(bert), encoded, 1, 20).context("logit", 0)
        padded = METHODS["value_zeroing"](context, query="first").scores.numpy()
    for index, item in enumerate(inputs):
        (alone,) = scores(bert, [item])
        n = len(alone)
        for other in (together[index], small[index], padded[index, :n]):
            close(other, alone)
        assert (padded[index, n:] == 0).all()


def test_a_decoder_reads_no_token_that_comes_later():
    from transformers import GPT2Config, GPT2ForSequenceClassification

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.5,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = sb.wrap_model(GPT2ForSequenceClassification(config).double().eval())
    (first,) = scores(model, token_inputs(6), query="first")
    close(first, np.eye(6)[0])
    (last,) = scores(model, token_inputs(6), query="last")
    assert (last > 0).all()


def llama():
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, initializer_range=0.5, pad_token_id=0,
    )  # fmt: skip
    return sb.wrap_model(LlamaForSequenceClassification(config).double().eval())


def test_values_that_heads_share_are_zeroed_in_all_of_them():
    (found,) = scores(llama(), token_inputs(6), query="last")
    assert (found > 0).all() and found.sum() == pytest.approx(1, abs=1e-12)


def test_a_module_without_attention_is_refused():
    model = scored_by(lambda embeddings: embeddings.sum((1, 2)))
    with pytest.raises(InputError, match="has no layers with attention: expected one transformers"):
        scores(model, token_inputs(4))


def test_attention_that_does_not_go_through_the_interface_is_refused_by_name():
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    config = DebertaV2Config(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32,
    )  # fmt: skip
    model = sb.wrap_model(DebertaV2ForSequenceClassification(config).double().eval())
    with pytest.raises(InputError, match=r"DisentangledSelfAttention.* does not compute attention"):
        scores(model, token_inputs(4))


def test_an_encoder_decoder_is_refused_by_the_name_of_its_part():
    from transformers import BartConfig, BartForSequenceClassification

    config = BartConfig(
        vocab_size=50, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=32,
    )  # fmt: skip
    model = sb.wrap_model(BartForSequenceClassification(config).double().eval())
    with pytest.raises(InputError, match="BartAttention is called otherwise"):
        scores(model, [{"input_ids": [0, 7, 8, 2]}])


def state(module):
    return {
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in module.modules()],
        "attributes": [sorted(vars(m)) for m in module.modules()],
        "training": [m.training for m in module.modules()],
        "flags": [weight.requires_grad for weight in module.parameters()],
        "attention": module.config._attn_implementation,
        "config": module.config.to_dict(),
        "random": torch.get_rng_state().tolist(),
    }


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_model_is_left_as_found_also_after_an_error(implementation):
    module = tiny_bert().train()
    module.set_attn_implementation(implementation)
    model, before = sb.wrap_model(module), state(module)
    (found,) = scores(model, token_inputs(5))
    assert state(module) == before
    passes = []
    layer = module.bert.encoder.layer[1]
    handle = layer.register_forward_hook(lambda *_: passes.append(1))
    scores(model, token_inputs(5), token_budget=1)
    handle.remove()
    last = len(passes)  # in which a value is zeroed
    passes.clear()

    def bomb(_, __, output):
        passes.append(1)
        if len(passes) == last:
            raise ZeroDivisionError

    handle = layer.register_forward_hook(bomb)
    before = state(module)
    with pytest.raises(ZeroDivisionError):
        scores(model, token_inputs(5), token_budget=1)
    assert state(module) == before
    handle.remove()
    (again,) = scores(model, token_inputs(5))
    np.testing.assert_array_equal(again, found)


class Inside(nn.Module):
    """A module of one's own with a transformers model inside."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, ids, **_):
        return self.inner(input_ids=ids).logits * 1.0


def test_a_transformer_inside_another_module_gives_the_same_scores(bert):
    model = sb.wrap_model(
        Inside(tiny_bert()),
        embeddings="inner.bert.embeddings.word_embeddings",
        forward=lambda module, inputs: module(inputs["input_ids"]),
    )
    for one, other in zip(
        scores(bert, token_inputs(5, 6)), scores(model, token_inputs(5, 6)), strict=True
    ):
        close(other, one)
