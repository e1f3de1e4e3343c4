"""Attention methods against loops over the weights that the transformers model itself returns, in float64.

ROUNDING bounds, relative to the largest score, what reordered sums of a few hundred terms can differ by: a few
hundred times 2**-53 is below 1e-13; softmax and LayerNorm in between leave a factor of ten.
"""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import scored_by, tiny_bert, token_inputs
from torch import nn

import saliency_bench as sb
from saliency_bench.attribution.methods import METHODS
from saliency_bench.core.errors import InputError
from saliency_bench.models.attentions import recorded_attentions
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import encoded_ids
from saliency_bench.studies.block import open_block

ROUNDING = 1e-12
NAMES = ["raw_attention", "attention_rollout", "gradient_attention"]
QUERIES = ["first", "last", "mean"]


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING * np.abs(expected).max())


def scores(model, inputs, name, **options):
    return [one.scores for one in sb.attribute(model, inputs, name, target=1, **options)]


def weights_and_gradients(module, item, score):
    """Layer by layer, W and ∂score/∂W [H T T] from a call of the transformers model by itself."""
    own = copy.deepcopy(module).eval()
    own.set_attn_implementation("eager")
    output = own(input_ids=torch.tensor([item["input_ids"]]), output_attentions=True)
    for layer in output.attentions:
        layer.retain_grad()
    score(output.logits[0]).backward()
    layers = [layer[0].detach().numpy() for layer in output.attentions]
    return layers, [layer.grad[0].numpy() for layer in output.attentions]


def row(matrix, query):
    return {"first": matrix[0], "last": matrix[-1], "mean": matrix.mean(0)}[query]


def rollout_of(layers):
    """Abnar & Zuidema 2020: how much of token j is in the top of token i, over all paths, one layer at a time."""
    n = len(layers[0][0])
    reached = np.eye(n)
    for heads in layers:
        mixed = np.zeros((n, n))
        for i in range(n):
            for j in range(n):
                mixed[i, j] = 0.5 * np.mean([head[i, j] for head in heads]) + 0.5 * (i == j)
            mixed[i] /= mixed[i].sum()
        above = np.zeros((n, n))
        for i in range(n):
            for j in range(n):
                above[i, j] = sum(mixed[i, k] * reached[k, j] for k in range(n))
        reached = above
    return reached


def relevance_of(layers, gradients):
    """Chefer, Gur & Wolf 2021, eqs. 5 and 6, entry by entry."""
    n = len(layers[0][0])
    relevance = np.eye(n)
    for heads, slopes in zip(layers, gradients, strict=True):
        weighted = np.zeros((n, n))
        for i in range(n):
            for j in range(n):
                products = [a[i, j] * g[i, j] for a, g in zip(heads, slopes, strict=True)]
                weighted[i, j] = np.mean([max(product, 0) for product in products])
        added = np.zeros((n, n))
        for i in range(n):
            for j in range(n):
                added[i, j] = sum(weighted[i, k] * relevance[k, j] for k in range(n))
        relevance = relevance + added
    return relevance


def expected(name, layers, gradients):
    if name == "raw_attention":
        return sum(layers[-1]) / len(layers[-1])
    return rollout_of(layers) if name == "attention_rollout" else relevance_of(layers, gradients)


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("name", NAMES)
def test_the_scores_are_those_of_a_loop_over_the_models_own_weights(bert, name, query):
    (item,) = token_inputs(7)
    layers, gradients = weights_and_gradients(bert.module, item, lambda logits: logits[1])
    (found,) = scores(bert, [item], name, query=query)
    close(found, row(expected(name, layers, gradients), query))


@pytest.mark.parametrize("output", ["probability", "log_probability"])
def test_gradient_attention_differentiates_the_output_that_is_explained(bert, output):
    def score(logits):
        return logits.softmax(0)[1] if output == "probability" else logits.log_softmax(0)[1]

    (item,) = token_inputs(7)
    found = sb.attribute(bert, [item], "gradient_attention", target=1, output=output)[0].scores
    close(found, relevance_of(*weights_and_gradients(bert.module, item, score))[0])


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("name", NAMES[:2])
def test_attention_is_shared_out_among_the_tokens(bert, name, query):
    for found in scores(bert, token_inputs(5, 8), name, query=query):
        assert found.sum() == pytest.approx(1, abs=ROUNDING)
        assert (found >= 0).all()


def test_only_gradient_attention_pays_a_gradient(bert):
    assert [sb.attribute(bert, token_inputs(5), name)[0].n_gradients for name in NAMES] == [0, 0, 1]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("name", NAMES)
def test_order_company_and_token_budget_change_nothing(bert, name, query):
    inputs = token_inputs(5, 9, 5, 5, 7)
    together = scores(bert, inputs, name, query=query)
    turned = scores(bert, inputs[::-1], name, query=query)[::-1]
    small = scores(bert, inputs, name, query=query, token_budget=1)
    for index, item in enumerate(inputs):
        (alone,) = scores(bert, [item], name, query=query)
        for other in (turned[index], small[index], together[index]):
            close(other, alone)


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("name", NAMES)
def test_padding_gets_nothing_and_changes_nothing(bert, name, query):
    inputs = token_inputs(5, 9, 7)
    encoded = [encoded_ids(bert, item, str(i), None, "") for i, item in enumerate(inputs)]
    with bert.frozen():
        context = open_block(References(bert), encoded, 1, 20).context("logit", 0)
        found = METHODS[name](context, query=query).scores
    assert found.dtype == torch.float64
    assert (found[~context.batch.mask] == 0).all()
    for item, of_item in zip(inputs, found.numpy(), strict=True):
        (alone,) = scores(bert, [item], name, query=query)
        close(of_item[: len(alone)], alone)


@pytest.mark.parametrize("name", NAMES)
def test_padding_gets_nothing_from_a_model_that_attends_to_it(bert, name):
    model = sb.wrap_model(
        bert.module, forward=lambda module, inputs: module(input_ids=inputs["input_ids"])
    )
    encoded = [
        encoded_ids(model, item, str(i), None, "") for i, item in enumerate(token_inputs(4, 6))
    ]
    with model.frozen():
        context = open_block(References(model), encoded, 1, 20).context("logit", 0)
        found = METHODS[name](context, query="mean").scores
    assert (found[0, 4:] == 0).all()
    assert (found[0, :4] != 0).all()


def test_special_tokens_keep_their_scores(bert):
    (item,) = token_inputs(6)
    encoded = encoded_ids(bert, item, "0", None, "")
    framed = replace(encoded, special=(True, *[False] * 4, True))
    with bert.frozen():
        context = open_block(References(bert), [framed], 1, 100).context("logit", 0)
        found = METHODS["raw_attention"](context, query="first").scores[0].numpy()
    close(found, scores(bert, [item], "raw_attention")[0])


class Inside(nn.Module):
    """A module of one's own with a transformers model inside, called in a way of its own."""

    def __init__(self, inner, passes=1):
        super().__init__()
        self.inner = inner
        self.passes = passes

    def forward(self, ids, **_):
        for _ in range(self.passes):
            output = self.inner(input_ids=ids)
        return output.logits * 1.0


def inside(passes=1):
    return sb.wrap_model(
        Inside(tiny_bert(), passes),
        embeddings="inner.bert.embeddings.word_embeddings",
        forward=lambda module, inputs: module(inputs["input_ids"]),
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_transformer_inside_another_module_gives_the_same_scores(bert, name):
    inputs = token_inputs(5, 6)
    own = scores(bert, inputs, name)
    for one, other in zip(own, scores(inside(), inputs, name), strict=True):
        close(other, one)


def test_weights_are_those_of_the_last_pass_only(bert):
    first, second = (torch.tensor([item["input_ids"]]) for item in token_inputs(4, 6))
    with recorded_attentions(bert) as attentions:
        widths = []
        for ids in (first, second):
            bert.output(ids)
            widths.append([layer.shape[-1] for layer in attentions.take()])
    assert widths == [[4, 4], [6, 6]]


def test_a_module_without_attention_is_refused():
    model = scored_by(lambda embeddings: embeddings.sum((1, 2)))
    with pytest.raises(InputError, match="expected one transformers model in the module, found 0"):
        sb.attribute(model, token_inputs(4), "raw_attention")


def test_an_encoder_decoder_is_refused():
    from transformers import BartConfig, BartForSequenceClassification

    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=50,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=32,
    )
    model = sb.wrap_model(BartForSequenceClassification(config).double())
    with pytest.raises(InputError, match="expected attention weights of all layers"):
        sb.attribute(model, [{"input_ids": [0, 7, 8, 2]}], "attention_rollout")


def test_two_passes_of_the_transformer_in_one_of_the_model_are_refused():
    model = inside(passes=2)
    with (
        pytest.raises(InputError, match="there were 2"),
        recorded_attentions(model) as attentions,
    ):
        model.output(torch.tensor([[5, 6, 7]]), embeddings=None)
        attentions.take()


def test_weights_that_do_not_enter_the_output_are_refused(bert, monkeypatch):
    from transformers.models.bert import modeling_bert

    own = modeling_bert.eager_attention_forward

    def detached(*args, **options):
        output, weights = own(*args, **options)
        return output, weights.detach()

    monkeypatch.setattr(modeling_bert, "eager_attention_forward", detached)
    with pytest.raises(InputError, match="do not enter its output"):
        sb.attribute(bert, token_inputs(4), "gradient_attention")


def test_an_unknown_query_is_refused(bert):
    with pytest.raises(InputError, match=r"raw_attention\.query 'frist'; did you mean 'first'"):
        sb.attribute(bert, token_inputs(4), "raw_attention", query="frist")


def state(module):
    """Everything about a module that asking for attention could change."""
    return {
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in module.modules()],
        "attributes": [sorted(vars(m)) for m in module.modules()],
        "training": [m.training for m in module.modules()],
        "gradients": [(weight.requires_grad, weight.grad) for weight in module.parameters()],
        "attention": (module.config._attn_implementation, module.config.output_attentions),
        "config": module.config.to_dict(),
    }


@pytest.mark.parametrize(
    ("implementation", "asked"), [("sdpa", False), ("eager", False), ("eager", True)]
)
def test_the_model_is_left_as_found_also_after_an_error(implementation, asked):
    module = tiny_bert().train()
    module.set_attn_implementation(implementation)
    module.config.output_attentions = asked
    module.classifier.weight.requires_grad_(False)
    model = sb.wrap_model(module)
    found = state(module)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    for name in NAMES:
        sb.attribute(model, token_inputs(5), name)
        assert state(module) == found
    with pytest.raises(ZeroDivisionError), recorded_attentions(model):
        model.output(torch.tensor([[5, 6, 7]]))
        assert module.config._attn_implementation == "eager"
        1 / 0  # noqa: B018
    assert state(module) == found
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_hooks_that_were_there_before_stay():
    module = tiny_bert()
    seen = []
    module.bert.encoder.register_forward_hook(lambda *_: seen.append(1))
    module.config.output_attentions = False
    module.set_attn_implementation("eager")
    module(input_ids=torch.tensor([[5, 6]]), output_attentions=True)  # the user's own asking
    model = sb.wrap_model(module)
    found = state(module)
    sb.attribute(model, token_inputs(5), "raw_attention")
    assert state(module) == found
    assert seen
    assert len(module(input_ids=torch.tensor([[5, 6]]), output_attentions=True).attentions) == 2


def test_the_global_random_state_is_untouched(bert):
    before = torch.get_rng_state()
    for name in NAMES:
        sb.attribute(bert, token_inputs(5), name)
    assert torch.equal(torch.get_rng_state(), before)
