"""Backward rules: what they leave alone, what they conserve, and that each part of them acts."""

import threading
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from laws import twins_of_backward as twins
from laws.law import ONE, TOLERANCE, assert_same, law
from laws.oracles import bert, constants, linear
from laws.test_model_is_left_as_found import Bomb, assert_left_alone, state, unusual_module
from tiny import DIMENSIONS, FrameTokenizer, framed, scored_by, tiny_bert, token_inputs
from tiny_families import FAMILIES, build, scrambled, t5_encoder

import saliency_bench as sb
from saliency_bench.attribution.backward import RULES
from saliency_bench.attribution.backward.parts import change_backward, noted_inputs
from saliency_bench.attribution.reduction import reduce_scores
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import encoded_ids
from saliency_bench.studies.block import open_block

T = 5


def block_of(model, *items):
    texts = [encoded_ids(model, one, str(i), None, "law") for i, one in enumerate(items)]
    return open_block(References(model), texts, 0, 10_000)


def gradients(model, *items, rule, output="logit"):
    """The gradients [B T D] of the first class's score, by a rule."""
    with model.frozen():
        ctx = block_of(model, *items).context(output, 0).under(rule)
        return ctx.clean_gradient


def embedded(model, item):
    with model.frozen():
        return block_of(model, item).context("logit", 0).embeddings


@law(twins.plain_gradients_have_a_rule, twins.plain_gradients_are_rounded)
def test_plain_is_autograd_to_the_bit(dtype):
    # The last layer for the pooled row alone is the same within rounding, not to the bit.
    model = replace(bert(dtype), short_last_layer=False)
    (item,) = token_inputs(T)
    found = sb.attribute(model, [item], "vanilla", reduction="dot", target=0, backward="plain")[0]
    ids = torch.tensor([item["input_ids"]])
    table = model.module.get_input_embeddings()
    points = table(ids).detach().requires_grad_()
    hook = table.register_forward_hook(lambda *_: points)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(model.module(input_ids=ids).logits[:, 0].sum(), points)
    hook.remove()
    assert found.setting.keys().isdisjoint({"backward"})
    expected = reduce_scores("sum", gradient * points.detach(), points, torch.ones(1, T).bool())
    np.testing.assert_array_equal(found.scores, expected[0].double().numpy())


@law(twins.the_forward_pass_is_rounded)
def test_the_forward_pass_is_the_models_own_to_the_bit(dtype):
    model = bert(dtype)
    items = token_inputs(T, T, seed=3)
    rows = torch.arange(2)
    with model.frozen(), torch.enable_grad():
        block = block_of(model, *items)
        plain = block.context("logit", 0)
        points = plain.embeddings.clone().requires_grad_()
        expected = plain.engine.score(points, rows)
        for rule in RULES:
            found = block.context("logit", 0).under(rule).engine.score(points, rows)
            assert torch.equal(found, expected), rule


@law(twins.products_with_constants_are_halved)
def test_a_linear_network_has_its_gradient_under_every_rule(dtype):
    weights = constants(T, DIMENSIONS, seed=5)
    model = scored_by(linear(weights), dtype)
    (item,) = token_inputs(T)
    for rule in RULES:
        found = gradients(model, item, rule=rule)[0]
        assert_same(found.flatten(), weights.flatten(), dtype, rule)


def bias_free(dtype):
    module = scrambled(tiny_bert(), seed=2)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.endswith(".bias"):
                weight.zero_()
    return sb.wrap_model(module.to(dtype), FrameTokenizer(), labels=("a", "b", "c"))


@law(
    twins.deviations_are_differentiated,
    twins.the_mean_is_a_constant_too,
    twins.nonlinearities_keep_their_slope,
    twins.softmax_is_differentiated_in_cp_lrp,
)
def test_cp_lrp_of_a_network_without_biases_sums_to_its_output(dtype):
    """Words, positions and token types are summed before anything else, so that one gradient is that of each."""
    model = bias_free(dtype)
    (item,) = token_inputs(T)
    gradient = gradients(model, item, rule="cp_lrp")[0]
    table = model.module.bert.embeddings
    others = table.position_embeddings.weight[:T] + table.token_type_embeddings.weight[0]
    additive = (embedded(model, item)[0] + others).detach()
    with torch.no_grad():
        output = float(model.module(input_ids=torch.tensor([item["input_ids"]])).logits[0, 0])
    relevance = gradient.double() * additive.double()
    assert_sums_to(relevance, output, dtype)


def assert_sums_to(relevance, output, dtype):
    """Rounding of terms that cancel is a share of their size, not of what is left."""
    assert abs(float(relevance.sum()) - output) <= TOLERANCE[dtype] * float(relevance.abs().sum())


@law(twins.gates_are_differentiated, dtypes=(torch.float32,))
def test_cp_lrp_of_llama_sums_to_its_output(dtype):
    """It has gates and no biases. Its normalisation and rotations are computed in float32 whatever its weights are."""
    model, (item,) = family("llama"), token_inputs(T)
    relevance = gradients(model, item, rule="cp_lrp")[0] * embedded(model, item)[0]
    with torch.no_grad():
        output = float(model.module(input_ids=torch.tensor([item["input_ids"]])).logits[0, 0])
    assert_sums_to(relevance, output, dtype)


@law(twins.products_are_not_halved)
def test_attnlrp_of_a_product_sums_to_it(dtype):
    model = scored_by(lambda e: (e[:, :2] * e[:, 2:4]).sum((1, 2)), dtype)
    (item,) = token_inputs(4)
    relevance = gradients(model, item, rule="attnlrp")[0] * embedded(model, item)[0]
    with torch.no_grad():
        output = float(model.module(input_ids=torch.tensor([item["input_ids"]]))[0, 0])
    assert_sums_to(relevance, output, dtype)


@cache
def family(name, attention="sdpa"):
    module = t5_encoder() if name == "t5 encoder" else build(name, attention)
    return sb.wrap_model(module, FrameTokenizer(), labels=("a", "b", "c"))


def without(model, item, rule, *parts):
    """The gradient of the first logit [T D] by a rule with parts of it off, and the parts that it has."""
    ids = torch.tensor([item["input_ids"]])
    with model.frozen(), torch.enable_grad(), noted_inputs():
        points = model.embed(ids).requires_grad_()
        logits = model.output(ids, None, None, points)
    found = change_backward(logits, RULES[rule], model.name, parts)
    (gradient,) = torch.autograd.grad(logits[0, 0], points)
    return gradient[0], found


@law(twins.parts_are_counted_and_left, dtypes=(torch.float64,))
def test_every_part_of_every_rule_acts_on_every_architecture(dtype):
    (item,) = token_inputs(T)
    for name in (*FAMILIES, "t5 encoder"):
        for rule in RULES:
            whole, found = without(family(name), item, rule)
            assert found, name
            for part in found:
                less, _ = without(family(name), item, rule, part)
                apart = float((whole - less).abs().max() / less.abs().max())
                assert apart > 1e-4, (name, rule, part)


@law(
    twins.fused_attention_is_left_as_it_is,
    twins.fused_attention_has_no_temperature,
    dtypes=(torch.float64,),
)
def test_fused_and_eager_attention_have_one_gradient_under_every_rule(dtype):
    (item,) = token_inputs(T)
    # The last two form a softmax, a norm or rotations in float32 whatever their weights are.
    inner = {"bert": dtype, "gpt2": dtype, "llama": torch.float32, "modernbert": torch.float32}
    for name, precision in inner.items():
        for rule in RULES:
            one, other = (without(family(name, how), item, rule)[0] for how in ("sdpa", "eager"))
            assert_same(one.flatten(), other.flatten(), precision, (name, rule))


@law(twins.the_rule_reaches_into_the_output)
def test_a_rule_ends_at_the_logits(dtype):
    """The gradient of p is Σ_c p (δ - p_c) times that of each logit, by the same rule."""
    model = bert(dtype)
    (item,) = token_inputs(T)
    with model.frozen():
        block = block_of(model, item)
        p = block.probabilities[0]
        by_class = [
            open_block(block.references, block.batch.encoded, one, 10_000)
            .context("logit", 0)
            .under("gim")
            .clean_gradient[0]
            for one in range(3)
        ]
    found = gradients(model, item, rule="gim", output="probability")[0]
    expected = sum(
        float(p[0]) * (float(c == 0) - float(p[c])) * by_class[c].double() for c in range(3)
    )
    assert_same(found.double().flatten(), expected.flatten(), dtype)


@law(twins.a_gap_is_claimed)
def test_no_completeness_is_claimed_of_a_rules_gradient(dtype):
    model = bert(dtype)
    for method, options in (
        ("integrated_gradients", {"n_steps": 4}),
        ("smooth_integrated_gradients", {"n_steps": 2, "n_samples": 4}),
    ):
        plain, ruled = sb.attribute(
            model,
            token_inputs(T),
            method,
            backward=["plain", "attnlrp"],
            baseline="zero",
            **options,
        )
        assert plain.completeness_gap is not None
        assert ruled.completeness_gap is None and ruled.output_difference is None


def explodes_on_the_way_back(module, args, output):
    """A hook of the user's own that raises as soon as a gradient comes by."""
    if output.requires_grad:
        output.register_hook(Bomb(0, True).explode)


@law(twins.hooks_stay_on_the_modules, dtypes=ONE)
def test_the_model_is_left_as_found_under_every_rule(dtype):
    module = unusual_module(dtype)
    model = sb.wrap_model(module, FrameTokenizer())
    items = framed(*token_inputs(2, 3))
    before = state(module)
    for rule in RULES:
        sb.attribute(model, items, "input_x_gradient", backward=rule)
        assert_left_alone(module, before, rule)
        handle = module.classifier.register_forward_hook(explodes_on_the_way_back)
        hooked = state(module)
        with pytest.raises(Exception, match="the bomb"):
            sb.attribute(model, items, "smoothgrad", backward=rule, n_samples=4, token_budget=1)
        assert_left_alone(module, hooked, rule)
        handle.remove()


@law(twins.a_function_is_changed_for_all_threads, dtypes=ONE)
def test_a_rule_in_one_thread_is_not_seen_in_another(dtype):
    """While a model is in the middle of a pass under a rule, another thread explains another model without one."""
    ruled, plain = (
        sb.wrap_model(tiny_bert(dtype, seed=seed), FrameTokenizer(), labels=("a", "b", "c"))
        for seed in (0, 1)
    )
    items = token_inputs(T)
    (alone,) = sb.attribute(plain, items, "input_x_gradient")
    meanwhile = []

    def explain_the_other(*_):
        def work():
            meanwhile.extend(sb.attribute(plain, items, "input_x_gradient"))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    for rule in RULES:
        (expected,) = sb.attribute(ruled, items, "input_x_gradient", backward=rule)
        handle = ruled.module.classifier.register_forward_pre_hook(explain_the_other)
        (found,) = sb.attribute(ruled, items, "input_x_gradient", backward=rule)
        handle.remove()
        np.testing.assert_array_equal(found.scores, expected.scores)
    assert len(meanwhile) >= len(RULES)
    for made in meanwhile:
        np.testing.assert_array_equal(made.scores, alone.scores)
