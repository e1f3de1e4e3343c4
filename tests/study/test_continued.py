"""Each token of a continuation has the numbers that it has as the next token of a prompt of its own."""

import numpy as np
import pytest
import torch
from tiny_chats import ROUNDING, bpe_tokenizer, tiny_decoder
from torch import nn

import saliency_bench as sb
from saliency_bench.data.example import Example
from saliency_bench.models.tasks.registry import questions, task_of

PROMPT = "The capital of France is"
ANSWER = " Paris, and Rome is the capital of Italy."
METHODS = {
    "vanilla": {},
    "input_x_gradient": {"output": "log_probability"},
    "integrated_gradients": {"n_steps": 3, "baseline": "zero"},
    "leave_one_out": {"removal": "zero"},
}


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request):
    return tiny_decoder(request.param, bpe_tokenizer())


class Both(nn.Module):
    """Logits of every token that depend on all tokens: no causal model."""

    def __init__(self, n_tokens=340, size=8):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(n_tokens, size, dtype=torch.float64)
        self.out = nn.Linear(size, n_tokens, dtype=torch.float64)

    def forward(self, input_ids, **_):
        x = self.embedding(input_ids)
        return self.out((x + x.mean(1, keepdim=True)).tanh())


def alone(model, method, target="predicted", **options):
    """The maps of a continuation's tokens, each asked as the next token of a prompt of its own."""
    whole = sb.attribute(model, PROMPT, "random", continuation=ANSWER)
    each = []
    for one in whole:
        wanted = (
            tuple(one.target if t == "predicted" else t for t in target)
            if isinstance(target, tuple)
            else one.target
        )
        each += sb.attribute(
            model, {"input_ids": list(one.token_ids)}, method, target=wanted, **options
        )
    return each


@pytest.mark.parametrize("method", METHODS)
def test_every_token_has_the_map_that_it_has_alone(model, method):
    options = METHODS[method]
    shared = sb.attribute(model, PROMPT, method, continuation=ANSWER, **options)
    tolerance = ROUNDING[model.module.config.model_type]
    for ours, slow in zip(shared, alone(model, method, **options), strict=True):
        assert (ours.target, ours.token_ids) == (slow.target, slow.token_ids)
        assert ours.probability == pytest.approx(slow.probability, rel=tolerance)
        limit = tolerance * np.abs(slow.scores).max()
        np.testing.assert_allclose(ours.scores, slow.scores, rtol=0, atol=limit)


def test_a_contrast_is_shared_too(model):
    target = ("predicted", 7)
    shared = sb.attribute(model, PROMPT, "vanilla", continuation=ANSWER, target=target)
    tolerance = ROUNDING[model.module.config.model_type]
    for ours, slow in zip(shared, alone(model, "vanilla", target), strict=True):
        assert ours.against == slow.against == 7
        limit = tolerance * np.abs(slow.scores).max()
        np.testing.assert_allclose(ours.scores, slow.scores, rtol=0, atol=limit)


def test_a_model_that_reads_on_is_asked_for_each_token_alone():
    model = sb.wrap_model(Both(), bpe_tokenizer(), task="text-generation", embeddings="embedding")
    shared = sb.attribute(model, PROMPT, "vanilla", continuation=ANSWER)
    for ours, slow in zip(shared, alone(model, "vanilla"), strict=True):
        np.testing.assert_allclose(ours.scores, slow.scores, rtol=1e-9)


def asked_of(model, *prompts):
    texts = [
        task_of(model).encode(model, Example(str(n), prompt, ANSWER), "error")
        for n, prompt in enumerate(prompts)
    ]
    return [question for _, question in questions(model, texts)]


def test_texts_that_bring_token_types_are_read_with_them():
    model = tiny_decoder("gpt2", bpe_tokenizer())
    ids = [[40, 50, 60], [40, 50, 60, 70]]  # each begins the next one
    texts = [{"input_ids": one, "token_type_ids": [5] * len(one)} for one in ids]
    for ours, text in zip(sb.attribute(model, texts, "vanilla"), texts, strict=True):
        (slow,) = sb.attribute(model, text, "vanilla")
        limit = ROUNDING["gpt2"] * np.abs(slow.scores).max()
        np.testing.assert_allclose(ours.scores, slow.scores, rtol=0, atol=limit)
        (untyped,) = sb.attribute(model, {"input_ids": text["input_ids"]}, "vanilla")
        assert np.abs(slow.scores - untyped.scores).max() > 1e6 * limit


def longrope(**sizes):
    """A Llama that rotates by other frequencies where a pass has more than 12 tokens, as Phi-3 does."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "factor": 4.0,
        "original_max_position_embeddings": 12,
    }
    return tiny_decoder("llama", bpe_tokenizer(), rope_parameters=rope, **sizes)


@pytest.mark.parametrize("method", ["vanilla", "leave_one_out"])
def test_a_model_that_reads_the_length_of_a_pass_is_asked_for_each_token_alone(method):
    model, options = longrope(), METHODS[method]
    shared = sb.attribute(model, PROMPT, method, continuation=ANSWER, **options)
    lengths = [len(one.token_ids) for one in shared]
    assert lengths[0] < 12 < lengths[-1]
    for ours, slow in zip(shared, alone(model, method, **options), strict=True):
        # Differences of two outputs, whose rounding is relative to these and not to the difference.
        limit = 100 * ROUNDING["llama"] * np.abs(slow.scores).max()
        np.testing.assert_allclose(ours.scores, slow.scores, rtol=0, atol=limit)
