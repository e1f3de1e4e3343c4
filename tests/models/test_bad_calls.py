"""What is no argument is refused in one sentence, whatever type it has: a user's calls are not type-checked."""

import numpy as np
import pytest
import torch
from tiny import FrameTokenizer, scored_by, tiny_bert, token_inputs
from tiny_heads import tiny_model, word_tokenizer

import saliency_bench as sb
from saliency_bench.core.errors import InputError

pytestmark = pytest.mark.usefixtures("without_type_checks")


@pytest.fixture(scope="module")
def model():
    return sb.wrap_model(tiny_bert(), FrameTokenizer(), labels=("a", "b", "c"))


@pytest.mark.parametrize("inputs", [None, 3, 2.5, object()])
def test_inputs_that_are_none(model, inputs):
    with pytest.raises(InputError, match="expected a text, a pair of texts, ids"):
        sb.attribute(model, inputs)


@pytest.mark.parametrize("module", ["bert-base", None, tiny_bert])
def test_a_module_that_is_none(module):
    with pytest.raises(InputError, match=r"takes a torch module.*load_model"):
        sb.wrap_model(module)


@pytest.mark.parametrize("target", [None, 1.5, True, [], ["a", None], {"a"}])
def test_targets_that_are_none(model, target):
    with pytest.raises(InputError, match=r"target=.*expected predicted"):
        sb.attribute(model, token_inputs(4), "vanilla", target=target)


@pytest.mark.parametrize("target", [np.int64(1), torch.tensor([1]), np.array([1]), range(1, 2)])
def test_targets_as_arrays_are_classes(model, target):
    (found,) = sb.attribute(model, token_inputs(4), "vanilla", target=target)
    assert (found.target, found.label) == (1, "b")


@pytest.mark.parametrize("seed", ["a", 1.5, True, None, -1, 2**63, [0, "a"]])
def test_seeds_that_are_no_whole_numbers(model, seed):
    with pytest.raises(InputError, match=r"^seed=.*: expected a whole number, 0 to"):
        sb.attribute(model, token_inputs(4), "random", seed=seed)


def test_a_seed_of_numpy_is_the_number_that_it_is(model):
    plain, of_numpy = (
        sb.attribute(model, token_inputs(4), "random", seed=seed)[0] for seed in (3, np.int64(3))
    )
    assert of_numpy.scores.tolist() == plain.scores.tolist()
    assert of_numpy.setting == plain.setting


def test_hyperparameters_that_are_out_of_their_range(model):
    for name, value in {"kernel_width": np.nan, "penalty": -1.0, "n_samples": 0}.items():
        with pytest.raises(InputError, match=rf"lime\.{name}=.*: expected"):
            sb.attribute(model, token_inputs(4), "lime", **{name: value})


@pytest.mark.parametrize("name", [{"a": "b"}, ["l2"], None])
def test_reductions_and_backends_that_are_no_names(model, name):
    for key in ("reduction", "backend"):
        with pytest.raises(InputError, match=rf"unknown .*{key}"):
            sb.attribute(model, token_inputs(4), "vanilla", **{key: [name]})


@pytest.mark.parametrize("longest", ["lots", -1, True, float("nan"), [512]])
def test_a_longest_text_that_is_no_number(longest):
    tokenizer = FrameTokenizer()
    tokenizer.model_max_length = longest
    with pytest.raises(InputError, match=r"model_max_length is .*expected a whole number"):
        sb.wrap_model(tiny_bert(), tokenizer)


@pytest.mark.parametrize("axis", ["n_steps", "baseline", "seed", "reduction", "backend"])
def test_an_axis_without_values(model, axis):
    with pytest.raises(InputError, match=rf"{axis} is an empty list"):
        sb.attribute(model, token_inputs(4), **{axis: []})


@pytest.mark.parametrize("path", ["classifier", "bert.embeddings.position_embeddings", "dropout"])
def test_a_layer_that_is_no_embedding(path):
    model = sb.wrap_model(tiny_bert(), FrameTokenizer(), embeddings=path)
    with pytest.raises(InputError, match="embedding"):
        sb.attribute(model, token_inputs(4), baseline="zero")


@pytest.mark.parametrize(
    ("labels", "said"), [(["a", "b"], "expected 3 names"), (["a", "a", "b"], "different names")]
)
def test_labels_that_are_not_the_classes(labels, said):
    with pytest.raises(InputError, match=said):
        sb.attribute(sb.wrap_model(tiny_bert(), labels=labels), token_inputs(4), "vanilla")


def test_names_of_a_configuration_may_be_an_encoders_defaults():
    model = scored_by(lambda e: e.sum((1, 2)))
    module = model.module
    module.config = type("Config", (), {"id2label": {0: "x", 1: "y", 2: "z"}})()
    (found,) = sb.attribute(sb.wrap_model(module), token_inputs(4), "vanilla", target=1)
    assert found.label == "LABEL_1"


def test_a_criterion_that_gives_no_tensor():
    model = sb.wrap_model(tiny_bert(), criterion=lambda logits, classes: "a loss")
    with pytest.raises(InputError, match="returned str"):
        sb.attribute(model, token_inputs(4), "vanilla")


def test_a_question_longer_than_the_model(tmp_path):
    model = tiny_model("question-answering", "bert", word_tokenizer(tmp_path))  # of 64 positions
    with pytest.raises(InputError, match=r"the first text alone has 8\d tokens"):
        sb.attribute(model, [("what is " * 40, "the capital")], "vanilla")
    # One that leaves room is not cut: the context is.
    pair = ("what is " * 20, "the capital of france " * 20)
    with pytest.warns(UserWarning, match="was cut"):
        (found, _) = sb.attribute(model, [pair], "vanilla")
    assert found.encoded.truncated
    assert sum(segment == 0 for segment in found.encoded.segments) == 40
