"""What `attribute` takes and what it refuses: no laws of attributions, so without broken twins."""

import numpy as np
import pytest
import torch
from laws.oracles import T, constants, linear, scores
from tiny import scored_by, tiny_bert, token_inputs

import saliency_bench as sb
from saliency_bench.core.errors import InputError


def test_vanilla_with_dot_is_input_x_gradient_under_one_name(bert):
    inputs = token_inputs(6)
    (dot,) = sb.attribute(bert, inputs, "vanilla", reduction="dot")
    (product,) = sb.attribute(bert, inputs, "input_x_gradient", reduction="sum")
    assert dot.setting["setting_id"] == product.setting["setting_id"]
    np.testing.assert_array_equal(dot.scores, product.scores)


def test_summing_raw_gradients_under_layer_norm_is_refused(bert):
    with pytest.raises(InputError, match="rounding noise"):
        sb.attribute(bert, token_inputs(6), "smoothgrad", reduction="sum")


def test_multiplying_the_input_in_twice_is_refused(bert):
    with pytest.raises(InputError, match="twice"):
        sb.attribute(bert, token_inputs(6), "integrated_gradients", reduction="dot")


def test_a_misspelt_hyperparameter_is_a_type_error_that_helps(bert):
    with pytest.raises(TypeError, match="n_steps"):
        sb.attribute(bert, token_inputs(6), n_step=3)


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


@pytest.mark.parametrize("nonsense", [[], [3.5], [("a", "b", "c")], [{"ids": [1]}], [""]])
def test_inputs_that_are_none_are_refused(bert, nonsense):
    with pytest.raises(InputError, match="input"):
        sb.attribute(bert, nonsense)


def test_what_a_tokenizer_returns_for_several_texts_is_taken_apart(bert):
    batch = {
        "input_ids": torch.tensor([[5, 6, 7, 0], [8, 9, 10, 11]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]),
    }
    together = scores(bert, batch, "integrated_gradients", baseline="zero", n_steps=2)
    apart = [{"input_ids": [5, 6, 7]}, {"input_ids": [8, 9, 10, 11]}]
    alone = scores(bert, apart, "integrated_gradients", baseline="zero", n_steps=2)
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * np.abs(other).max())


def test_a_label_that_the_model_does_not_have_is_refused():
    module = scored_by(linear(constants(T, 6))).module
    model = sb.wrap_model(module, embeddings="embedding", labels=())
    with pytest.raises(InputError, match="2 classes"):
        sb.attribute(model, token_inputs(T), "vanilla", target="gold", labels=[2])


@pytest.mark.parametrize("option", [{"references": "corpus"}, {"baseline_special_tokens": "drop"}])
def test_a_name_that_random_paths_do_not_know_is_refused(bert, option):
    with pytest.raises(InputError, match=next(iter(option))):
        sb.attribute(bert, token_inputs(6), "expected_gradients", n_samples=4, **option)


@pytest.mark.parametrize("budget", [0, -1, True, "large"])
def test_a_token_budget_that_is_no_number_of_tokens_is_refused(bert, budget):
    with pytest.raises(InputError, match="token_budget"):
        sb.attribute(bert, token_inputs(6), "vanilla", token_budget=budget)
