"""The tokens of a continuation share one pass, with the numbers that each has alone."""

import numpy as np
import pytest
import torch
from tiny_chats import ROUNDING, bpe_tokenizer, tiny_decoder
from torch import nn

import saliency_bench as sb
from saliency_bench.data.example import Example
from saliency_bench.models.tasks.registry import questions, task_of
from saliency_bench.studies import beginnings
from saliency_bench.studies.beginnings import groups, read_together

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


def n_passes(model, run):
    """How often the module is called, after the preflight."""
    calls = []
    with model.module.register_forward_hook(lambda *_: calls.append(1)):
        run()
        calls.clear()
        run()
    return len(calls)


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


def test_a_continuation_costs_the_passes_of_one_token(model):
    one = n_passes(model, lambda: sb.attribute(model, PROMPT, "vanilla", target=5))
    many = n_passes(model, lambda: sb.attribute(model, PROMPT, "vanilla", continuation=ANSWER))
    assert one == many == 1


def test_two_methods_and_two_texts_cost_a_pass_for_each_text(model):
    def run():
        methods = ["vanilla", "input_x_gradient"]
        return sb.attribute(model, [PROMPT, "Rome is"], methods, continuation=ANSWER)

    assert n_passes(model, run) == 2


def test_a_model_that_reads_on_is_asked_for_each_token_alone():
    model = sb.wrap_model(Both(), bpe_tokenizer(), task="text-generation", embeddings="embedding")
    shared = sb.attribute(model, PROMPT, "vanilla", continuation=ANSWER)
    for ours, slow in zip(shared, alone(model, "vanilla"), strict=True):
        np.testing.assert_allclose(ours.scores, slow.scores, rtol=1e-9)
    asked = asked_of(model, PROMPT)
    with model.frozen():
        for outputs in (("logit",), ()):
            assert read_together(model, asked, "predicted", outputs) == {}


def asked_of(model, *prompts):
    texts = [
        task_of(model).encode(model, Example(str(n), prompt, ANSWER), "error")
        for n, prompt in enumerate(prompts)
    ]
    return [question for _, question in questions(model, texts)]


def test_so_many_texts_are_read_together_as_fit_in_a_pass(model):
    asked = asked_of(model, PROMPT, "Rome", "Oslo is")
    own = [
        [n for n, one in enumerate(asked) if one.example_id.startswith(f"{text}@")]
        for text in range(3)
    ]
    tokens = [sum(len(asked[n]) for n in text) for text in own]
    assert groups(model, asked, 1) == own
    assert groups(model, asked, tokens[0] + tokens[1]) == [own[0] + own[1], own[2]]
    assert groups(model, asked, sum(tokens)) == [[*range(len(asked))]]


def test_where_memory_runs_out_each_token_is_asked_alone(model, monkeypatch):
    def failing(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    expected = sb.attribute(model, PROMPT, "vanilla", continuation=ANSWER)
    monkeypatch.setattr(beginnings, "_read", failing)
    found = sb.attribute(model, PROMPT, "vanilla", continuation=ANSWER)
    tolerance = ROUNDING[model.module.config.model_type]
    for one, other in zip(found, expected, strict=True):
        limit = tolerance * np.abs(one.scores).max()
        np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=limit)
