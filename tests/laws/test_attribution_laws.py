"""What must hold of attributions, by closed forms and invariances, through the public interface.

In float64 unless said otherwise. ROUNDING bounds what reordered sums of a few hundred terms can differ by,
relative to the largest score: a few hundred times 2**-53 is below 1e-13.
"""

import numpy as np
import pytest
import torch
from tiny import DIMENSIONS, scored_by, tiny_bert, token_inputs

import saliency_bench as sb
from saliency_bench.errors import InputError

ROUNDING = 1e-13
WEIGHTS = torch.linspace(-1, 1, DIMENSIONS, dtype=torch.float64)


def linear(embeddings):
    return (embeddings @ WEIGHTS).sum(1)


def quadratic(embeddings):
    return ((embeddings @ WEIGHTS) ** 2).sum(1)


def scores(model, inputs, method="integrated_gradients", **options):
    return [one.scores for one in sb.attribute(model, inputs, method, target=0, **options)]


def vectors(model, item):
    return model.embed(torch.tensor([item["input_ids"]]))[0]


@pytest.mark.parametrize("quadrature", ["left", "right", "midpoint", "trapezoid", "gauss_legendre"])
def test_ig_of_a_linear_score_is_weight_times_displacement_by_any_rule(quadrature):
    model, (item,) = scored_by(linear), token_inputs(5)
    (found,) = scores(model, [item], baseline="zero", n_steps=2, quadrature=quadrature)
    np.testing.assert_allclose(found, vectors(model, item) @ WEIGHTS, rtol=0, atol=ROUNDING * 10)


def test_captums_trapezoid_loses_one_nth_of_a_linear_score():
    model, (item,) = scored_by(linear), token_inputs(5)
    (found,) = scores(
        model, [item], baseline="zero", n_steps=10, quadrature="captum_riemann_trapezoid"
    )
    np.testing.assert_allclose(
        found, 0.9 * (vectors(model, item) @ WEIGHTS), rtol=0, atol=ROUNDING * 10
    )


def test_ig_of_a_quadratic_score_is_the_closed_form():
    model, (item,) = scored_by(quadratic), token_inputs(4)
    (found,) = scores(model, [item], baseline="mean", n_steps=1, quadrature="gauss_legendre")
    x = vectors(model, item) @ WEIGHTS
    reference = model.embedding.weight.detach().mean(0) @ WEIGHTS
    np.testing.assert_allclose(found, x**2 - reference**2, rtol=0, atol=ROUNDING * 100)


def test_ig_is_complete_against_a_baseline_that_is_not_zero(bert):
    (one,) = sb.attribute(bert, token_inputs(7), baseline="mean", n_steps=200, target="predicted")
    assert abs(one.completeness_gap) < 1e-9 * abs(one.output_difference)


def test_ig_shrinks_its_completeness_gap_at_the_rules_order(bert):
    maps = sb.attribute(
        bert, token_inputs(6), baseline="mean", n_steps=[256, 512], quadrature="midpoint"
    )
    gaps = [abs(one.completeness_gap) for one in maps]
    assert np.log2(gaps[0] / gaps[1]) == pytest.approx(2, abs=0.1)


def test_vanilla_of_a_linear_score_is_its_weights():
    model, (item,) = scored_by(linear), token_inputs(5)
    (found,) = scores(model, [item], "vanilla", reduction="l2")
    np.testing.assert_allclose(found, float(WEIGHTS.norm()), rtol=1e-14)


def test_smoothgrad_without_noise_is_vanilla(bert):
    inputs = token_inputs(5, 8)
    plain = scores(bert, inputs, "vanilla", reduction="l2")
    smooth = scores(bert, inputs, "smoothgrad", reduction="l2", noise_std=0.0, n_samples=7)
    for one, other in zip(plain, smooth, strict=True):
        np.testing.assert_allclose(one, other, rtol=ROUNDING)


def test_smoothgrad_of_a_linear_score_is_its_weights_at_any_noise():
    (found,) = scores(scored_by(linear), token_inputs(5), "smoothgrad", noise_std=3.0, n_samples=4)
    np.testing.assert_allclose(found, float(WEIGHTS.norm()), rtol=ROUNDING)


def test_smoothgrad_of_a_cubic_score_is_its_expectation():
    # E ∂/∂e (w·e)³ = 3 w ((w·x)² + σ²|w|²); the token score is |w| times that, signed by nothing.
    model, (item,) = scored_by(lambda e: ((e @ WEIGHTS) ** 3).sum(1)), token_inputs(4)
    n, std = 4000, 0.3
    (found,) = scores(model, [item], "smoothgrad", noise_std=std, n_samples=n)
    z = (vectors(model, item) @ WEIGHTS).numpy()
    size = float(WEIGHTS.norm())
    sigma = std * float(model.embedding.weight.detach().std(correction=0)) * size
    expected = 3 * size * (z**2 + sigma**2)
    # (z + σu)² has standard deviation sqrt(4 z² σ² + 2 σ⁴): five standard errors of its mean.
    spread = 3 * size * np.sqrt(4 * z**2 * sigma**2 + 2 * sigma**4) / np.sqrt(n)
    assert (np.abs(found - expected) < 5 * spread).all()


def test_input_x_gradient_is_ig_from_zero_for_a_homogeneous_score():
    model = scored_by(lambda e: (e @ WEIGHTS).relu().sum(1))
    inputs = token_inputs(6)
    product = scores(model, inputs, "input_x_gradient")
    path = scores(model, inputs, baseline="zero", n_steps=3, quadrature="midpoint")
    np.testing.assert_allclose(product, path, rtol=0, atol=ROUNDING * 10)


def test_vanilla_with_dot_is_input_x_gradient_under_one_name(bert):
    inputs = token_inputs(6)
    (dot,) = sb.attribute(bert, inputs, "vanilla", reduction="dot")
    (product,) = sb.attribute(bert, inputs, "input_x_gradient", reduction="sum")
    assert dot.setting["setting_id"] == product.setting["setting_id"]
    np.testing.assert_array_equal(dot.scores, product.scores)


def test_a_token_without_weight_gets_nothing():
    model = scored_by(lambda e: (e[:, 1:] @ WEIGHTS).tanh().sum(1))
    for method, reduction in (("vanilla", "l2"), ("smoothgrad", "l2"), ("input_x_gradient", "sum")):
        assert scores(model, token_inputs(5), method, reduction=reduction)[0][0] == 0
    assert scores(model, token_inputs(5), baseline="zero", n_steps=4)[0][0] == 0


METHODS = [
    ("vanilla", {"reduction": "l2"}),
    ("input_x_gradient", {}),
    ("smoothgrad", {"n_samples": 5, "noise_std": 0.5}),
    ("integrated_gradients", {"baseline": "mean", "n_steps": 6}),
    ("random", {}),
]


@pytest.mark.parametrize(("method", "options"), METHODS, ids=[name for name, _ in METHODS])
def test_order_company_and_token_budget_change_nothing(bert, method, options):
    inputs = token_inputs(5, 9, 5, 5, 7)
    together = scores(bert, inputs, method, **options)
    turned = scores(bert, inputs[::-1], method, **options)[::-1]
    small = scores(bert, inputs, method, token_budget=1, **options)
    for index, item in enumerate(inputs):
        (alone,) = scores(bert, [item], method, **options)
        for other in (turned[index], small[index], alone):
            np.testing.assert_allclose(
                together[index], other, rtol=0, atol=1e-12 * np.abs(alone).max()
            )


def test_in_float32_company_changes_nothing_beyond_2e_minus_5():
    model = sb.wrap_model(tiny_bert(torch.float32))
    inputs = token_inputs(5, 5, 5, 9)
    together = scores(model, inputs, baseline="mean", n_steps=8)
    for item, found in zip(inputs, together, strict=True):
        (alone,) = scores(model, [item], baseline="mean", n_steps=8)
        np.testing.assert_allclose(found, alone, rtol=0, atol=2e-5 * np.abs(alone).max())


def test_padding_that_came_with_an_input_changes_nothing(bert):
    (item,) = token_inputs(6)
    right = {"input_ids": [*item["input_ids"], 0, 0], "attention_mask": [1] * 6 + [0] * 2}
    left = {"input_ids": [0, 0, *item["input_ids"]], "attention_mask": [0] * 2 + [1] * 6}
    plain, after, before = scores(bert, [item, right, left], baseline="mean", n_steps=4)
    np.testing.assert_allclose(after, plain, rtol=0, atol=1e-12 * np.abs(plain).max())
    np.testing.assert_allclose(before, plain, rtol=0, atol=1e-12 * np.abs(plain).max())


def test_more_samples_extend_earlier_ones(bert):
    inputs = token_inputs(6)
    few, many = scores(bert, inputs, "smoothgrad", n_samples=[4, 16], noise_std=0.5)
    (alone,) = scores(bert, inputs, "smoothgrad", n_samples=4, noise_std=0.5)
    np.testing.assert_allclose(few, alone, rtol=ROUNDING)
    assert np.abs(many - few).max() > 1e-3 * few.max()


def test_seeds_give_other_noise_and_equal_seeds_equal_noise(bert):
    options = {"n_samples": 4, "noise_std": 0.5}
    first, again, other = (
        scores(bert, token_inputs(6), "smoothgrad", seed=seed, **options)[0] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3 * first.max()


def test_a_sweep_gives_the_maps_of_its_settings(bert):
    inputs = token_inputs(5, 6)
    swept = sb.attribute(
        bert, inputs, n_steps=[2, 4], quadrature=["left", "midpoint"], baseline="zero"
    )
    order = [(one.input_index, one.setting["n_steps"], one.setting["quadrature"]) for one in swept]
    assert order == [(i, n, q) for i in (0, 1) for n in (2, 4) for q in ("left", "midpoint")]
    for one in swept:
        options = {key: one.setting[key] for key in ("n_steps", "quadrature", "baseline")}
        alone = sb.attribute(bert, inputs, **options)[one.input_index]
        np.testing.assert_allclose(
            one.scores, alone.scores, rtol=0, atol=1e-12 * np.abs(alone.scores).max()
        )


def test_summing_raw_gradients_under_layer_norm_is_refused(bert):
    with pytest.raises(InputError, match="rounding noise"):
        sb.attribute(bert, token_inputs(6), "smoothgrad", reduction="sum")


def test_multiplying_the_input_in_twice_is_refused(bert):
    with pytest.raises(InputError, match="twice"):
        sb.attribute(bert, token_inputs(6), "integrated_gradients", reduction="dot")


def test_a_misspelt_hyperparameter_is_a_type_error_that_helps(bert):
    with pytest.raises(TypeError, match="n_steps"):
        sb.attribute(bert, token_inputs(6), n_step=3)


def test_the_model_is_left_as_found_also_after_an_error():
    module = tiny_bert().train()
    module.classifier.weight.requires_grad_(False)
    model = sb.wrap_model(module)
    before = {name: value.clone() for name, value in module.state_dict().items()}

    def state():
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())
        flags = [weight.requires_grad for weight in module.parameters()]
        return module.training, hooks, flags, [weight.grad for weight in module.parameters()]

    found = state()
    sb.attribute(model, token_inputs(5), n_steps=2, baseline="zero")
    with pytest.raises(InputError):
        sb.attribute(model, token_inputs(5), "smoothgrad", reduction="sum", n_samples=2)
    assert state() == found
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_a_criterion_is_explained_by_its_negative(reduction):
    module = tiny_bert()
    loss = torch.nn.CrossEntropyLoss(reduction=reduction)
    inputs = token_inputs(5, 5, 7)
    own = sb.attribute(sb.wrap_model(module, criterion=loss), inputs, baseline="mean", n_steps=4)
    # Cross-entropy is minus the log-probability of the class.
    plain = sb.attribute(
        sb.wrap_model(module), inputs, baseline="mean", n_steps=4, output="log_probability"
    )
    for one, other in zip(own, plain, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=1e-12)


def test_a_target_can_be_gold_a_name_or_several():
    model = sb.wrap_model(tiny_bert(), labels=("a", "b", "c"))
    inputs = token_inputs(5, 6)
    both = sb.attribute(model, inputs, "vanilla", target=["c", 0])
    assert [(one.input_index, one.target, one.label) for one in both] == [
        (0, 2, "c"), (0, 0, "a"), (1, 2, "c"), (1, 0, "a"),
    ]  # fmt: skip
    gold = sb.attribute(model, inputs, "vanilla", target="gold", labels=["b", 2])
    assert [one.target for one in gold] == [1, 2]
    with pytest.raises(InputError, match="gold"):
        sb.attribute(model, inputs, "vanilla", target="gold")


@pytest.mark.parametrize("nonsense", [[], [3], [("a", "b", "c")], [{"ids": [1]}], [""]])
def test_inputs_that_are_none_are_refused(bert, nonsense):
    with pytest.raises(InputError, match="input"):
        sb.attribute(bert, nonsense)


def test_leave_one_out_is_the_change_of_the_score(bert):
    (item,) = token_inputs(5)
    (found,) = sb.attribute(bert, [item], "leave_one_out", removal="zero", target=1)
    ids = torch.tensor([item["input_ids"]])
    full = bert.output(ids)[0, 1].item()
    for token in range(5):
        embeddings = bert.embed(ids).clone()
        embeddings[0, token] = 0
        without = bert.output(ids, embeddings=embeddings)[0, 1].item()
        assert found.scores[token] == pytest.approx(full - without, abs=1e-12)


def test_what_a_tokenizer_returns_for_several_texts_is_taken_apart(bert):
    batch = {
        "input_ids": torch.tensor([[5, 6, 7, 0], [8, 9, 10, 11]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]),
    }
    together = scores(bert, batch, baseline="zero", n_steps=2)
    alone = scores(
        bert, [{"input_ids": [5, 6, 7]}, {"input_ids": [8, 9, 10, 11]}], baseline="zero", n_steps=2
    )
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * np.abs(other).max())


def test_a_label_that_the_model_does_not_have_is_refused():
    model = sb.wrap_model(scored_by(linear).module, labels=())
    with pytest.raises(InputError, match="2 classes"):
        sb.attribute(model, token_inputs(4), "vanilla", target="gold", labels=[2])
