"""Models in half precision: what is read off their outputs is computed in at least float32."""

import numpy as np
import pytest
import torch
from tiny import FrameTokenizer, framed, tiny_bert, token_inputs
from tiny_heads import tiny_head, word_tokenizer
from torch.nn import functional

import saliency_bench as sb

HALVES = (torch.float16, torch.bfloat16)
(INPUT,) = framed(*token_inputs(6))

#: How a score is read off logits [C].
READ = {
    "logit": lambda z, c: z[c],
    "probability": lambda z, c: z.softmax(-1)[c],
    "log_probability": lambda z, c: z.log_softmax(-1)[c],
    "cross_entropy": lambda z, c: -z.log_softmax(-1)[c],
}
SIGMOIDS = {
    "logit": lambda z, c: z[c],
    "probability": lambda z, c: z.sigmoid()[c],
    "log_probability": lambda z, c: functional.logsigmoid(z)[c],
    "cross_entropy": lambda z, c: -functional.logsigmoid(z)[c],
}


def slope_and_lengths(half, ids, logits, read):
    """The oracle: the slope at the half model's own logits, in float64, and its way back through the model.

    The way back is linear: at a largest number of 1 it fits any type, and is multiplied out again in float64.
    """
    kept = []

    def hook(_, __, output):
        kept.append(output.detach().requires_grad_())
        return kept[0]

    handle = half.get_input_embeddings().register_forward_hook(hook)
    outputs = logits(half(input_ids=ids))
    handle.remove()
    said = outputs.detach().double().requires_grad_()
    (slope,) = torch.autograd.grad(read(said), said)
    size = slope.abs().max()
    (gradient,) = torch.autograd.grad(outputs, kept[0], (slope / size).to(outputs.dtype))
    return slope, (gradient[0].double().norm(dim=-1) * size).numpy()


def check(scores, expected, dtype):
    # The slope is rounded to half precision once more or less, and two layers backwards have some eight roundings each.
    units = 16 * torch.finfo(dtype).eps / 2
    assert expected.max() > 0
    assert np.abs(scores - expected).max() <= units * expected.max()


def confident(dtype, factor, **config):
    """A classifier with a margin of about `factor` between its first two classes."""
    module = tiny_bert()
    module.classifier.weight.data *= factor
    for name, value in config.items():
        setattr(module.config, name, value)
    return module.to(dtype)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("output", READ)
@pytest.mark.parametrize("backend", ["native", "captum"])
@pytest.mark.parametrize("factor", [4, 10])
def test_a_sure_prediction_has_the_gradient_that_its_logits_say(dtype, output, backend, factor):
    module = confident(dtype, factor)
    model = sb.wrap_model(module, FrameTokenizer())
    (one,) = sb.attribute(model, [INPUT], "vanilla", output=output, backend=backend, reduction="l2")
    ids = torch.tensor([INPUT["input_ids"]])
    _, expected = slope_and_lengths(
        module, ids, lambda out: out.logits[0], lambda z: READ[output](z, one.target)
    )
    check(one.scores, expected, dtype)


def test_the_cases_above_reach_where_half_precision_has_no_number():
    module = confident(torch.float16, 10)
    ids = torch.tensor([INPUT["input_ids"]])
    slope, _ = slope_and_lengths(
        module, ids, lambda out: out.logits[0], lambda z: READ["probability"](z, int(z.argmax()))
    )
    assert 0 < slope.abs().max() < torch.finfo(torch.float16).smallest_normal / 1000


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("output", SIGMOIDS)
def test_so_has_a_class_of_its_own(dtype, output):
    module = confident(dtype, 4, problem_type="multi_label_classification")
    model = sb.wrap_model(module, FrameTokenizer())
    ids = torch.tensor([INPUT["input_ids"]])
    for one in sb.attribute(
        model, [INPUT], "vanilla", output=output, reduction="l2", target=[0, 1, 2]
    ):
        _, expected = slope_and_lengths(
            module, ids, lambda out: out.logits[0], lambda z, c=one.target: SIGMOIDS[output](z, c)
        )
        check(one.scores, expected, dtype)


#: By task: the kind of model, a text, where it is asked, and how logits [C] are read off its outputs.
ASKED = {
    "token-classification": ("bert", "the capital is", {"at": 2}, lambda out: out.logits[0, 2]),
    "question-answering": (
        "bert",
        ("what is the capital", "the capital is rome"),
        {"at": "start"},
        lambda out: out.start_logits[0, 6:10],
    ),
    "fill-mask": ("bert", "the capital is [MASK]", {}, lambda out: out.logits[0, 4]),
    "text-generation": ("gpt2", "the capital is", {}, lambda out: out.logits[0, -1]),
}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("task", ASKED)
def test_so_has_every_task(task, dtype, tmp_path):
    kind, text, at, logits = ASKED[task]
    module = tiny_head(task, kind)
    for head in ("classifier", "qa_outputs"):  # a sure one
        if hasattr(module, head):
            getattr(module, head).weight.data *= 20
    module = module.to(dtype)
    model = sb.wrap_model(module, word_tokenizer(tmp_path), task=task)
    (one,) = sb.attribute(
        model, [text], "vanilla", output="probability", reduction="l2", target="runner_up", **at
    )
    first = 6 if task == "question-answering" else 0
    tokens, types = torch.tensor([one.token_ids]), one.encoded.token_type_ids

    def typed(module):
        def call(input_ids):
            more = {} if types is None else {"token_type_ids": torch.tensor([types])}
            return module(input_ids=input_ids, **more)

        return call

    class Typed(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def get_input_embeddings(self):
            return self.inner.get_input_embeddings()

        def forward(self, input_ids):
            return typed(self.inner)(input_ids)

    _, expected = slope_and_lengths(
        Typed(module), tokens, logits, lambda z: z.softmax(-1)[one.target - first]
    )
    check(one.scores, expected, dtype)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_criterion_of_ones_own_is_given_numbers_in_float32(dtype):
    module, seen = confident(dtype, 4), []

    def criterion(logits, classes):
        seen.append(logits.dtype)
        return functional.cross_entropy(logits, classes, reduction="none")

    model = sb.wrap_model(module, FrameTokenizer(), criterion=criterion)
    (one,) = sb.attribute(model, [INPUT], "vanilla", reduction="l2", target=2)
    assert set(seen) == {torch.float32}
    ids = torch.tensor([INPUT["input_ids"]])
    _, expected = slope_and_lengths(
        module, ids, lambda out: out.logits[0], lambda z: z.log_softmax(-1)[2]
    )
    check(one.scores, expected, dtype)
