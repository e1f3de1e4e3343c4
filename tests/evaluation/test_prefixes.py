"""Questions that begin alike share keys and values: the answers of whole rows, at about half of the tokens."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from tiny_chats import bpe_tokenizer, tiny_decoder

import saliency_bench as sb
from saliency_bench.data.example import Example
from saliency_bench.evaluation.removal import removal_probe
from saliency_bench.models import prefixes
from saliency_bench.models.loading import wrap_model
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import collate, encoded_ids
from saliency_bench.models.tasks.registry import questions, task_of

WIDTH = 24


def batch_of(model, n_texts=2, width=WIDTH):
    """Texts of random ids, each asked for its next token."""
    ids = np.random.default_rng(0).integers(10, 300, (n_texts, width))
    texts = [encoded_ids(model, {"input_ids": row}, str(i), None, "") for i, row in enumerate(ids)]
    return collate(model, [question for _, question in questions(model, texts)])


def leave_one_out(width=WIDTH):
    return ~np.eye(width, dtype=bool)


def curve(width=WIDTH, seed=0):
    """What stays on both curves of a random ranking."""
    place = np.random.default_rng(seed).permutation(width)
    k = np.arange(width + 1)[:, None]
    return np.unique(np.concatenate([place >= k, place < k]), axis=0)


def answers(model, batch, stays, budget, *, may_share=True, removal="zero"):
    """Logits of all questions about each text, the tokens of each pass, and the probe."""
    probe = removal_probe(References(model, may_share=may_share), batch, removal, budget)
    if may_share:
        assert probe.shares
    examples = np.repeat(np.arange(len(batch)), len(stays))
    shuffled = np.random.default_rng(1).permutation(len(examples))
    with passes_of(model) as passes:
        found = probe(examples[shuffled], [stays[i % len(stays)] for i in shuffled])
    return found[shuffled.argsort()], passes, probe


@contextmanager
def passes_of(model):
    """The rows and tokens of each pass."""
    passes = []

    def note(_, __, named):
        passes.append(tuple(named["input_ids"].shape))

    with model.module.register_forward_pre_hook(note, with_kwargs=True):
        yield passes


def n_tokens(passes):
    return sum(rows * tokens for rows, tokens in passes)


#: In float64 GPT-2 computes everything in float64; Llama's norms, and a sliding window's mask, are those of float32.
KINDS = [
    ("gpt2", torch.float64, 1e-12, {}),
    ("gpt2", torch.float32, 2e-5, {}),
    ("llama", torch.float32, 2e-5, {}),
    ("mistral", torch.float32, 2e-5, {"sliding_window": 7, "num_key_value_heads": 2}),
    ("qwen2", torch.float32, 2e-5, {"num_key_value_heads": 2}),
    ("gemma", torch.float32, 2e-5, {"num_key_value_heads": 1, "head_dim": 8}),
    ("opt", torch.float64, 1e-12, {"ffn_dim": 32, "word_embed_proj_dim": 32}),
]


@pytest.mark.parametrize(("kind", "dtype", "tolerance", "sizes"), KINDS)
@pytest.mark.parametrize("budget", [5 * WIDTH, 2048])
def test_answers_are_those_of_whole_rows(kind, dtype, tolerance, sizes, budget):
    model = tiny_decoder(kind, dtype=dtype, **sizes)
    batch = batch_of(model)
    stays = np.concatenate([leave_one_out(), curve()])
    shared, _, _ = answers(model, batch, stays, budget)
    whole, _, _ = answers(model, batch, stays, budget, may_share=False)
    np.testing.assert_allclose(shared, whole, rtol=0, atol=tolerance * np.abs(whole).max())


@pytest.mark.parametrize(
    ("width", "budget", "most"), [(24, 2048, 0.6), (128, 2048, 0.55), (128, 8192, 0.55)]
)
@pytest.mark.parametrize("of", [leave_one_out, curve])
@pytest.mark.parametrize("n_texts", [1, 3])
def test_they_cost_little_more_than_half_of_the_tokens(width, budget, most, of, n_texts):
    """Of t tokens there are t + 1 beginnings, which is half of the tokens of T + 1 rows; a stretch adds half of itself."""
    model = tiny_decoder("gpt2", num_hidden_layers=1, dtype=torch.float32)
    batch = batch_of(model, n_texts, width)
    references = References(model)
    prefixes.shares(references, batch)  # which is tried once
    probe = removal_probe(references, batch, "zero", budget)
    stays = of(width)
    examples = np.repeat(np.arange(n_texts), len(stays))
    with passes_of(model) as passes:
        probe(examples, [*stays] * n_texts)
    assert n_tokens(passes) == probe.n_tokens <= most * width * len(examples)


@pytest.mark.parametrize("budget", [1, 3 * WIDTH, 10 * WIDTH])
def test_what_is_held_at_once_stays_within_the_token_budget(budget, monkeypatch):
    model = tiny_decoder("gpt2", num_hidden_layers=1)
    batch = batch_of(model)
    held = []
    of = prefixes.past_of
    monkeypatch.setattr(
        prefixes, "past_of", lambda states: held.extend(k.shape[0] for k, _ in states) or of(states)
    )
    _, passes, _ = answers(model, batch, curve(), budget)
    rows = max(1, budget // WIDTH)
    tried = 4  # rows of the trial, which is made once
    assert max(n for n, _ in passes) <= max(rows, tried)
    assert max(held, default=0) <= max(rows, tried)


def test_each_beginning_is_computed_once():
    """In one pass over all rows, with stretches of one token: a row for each different beginning of each length."""
    stays = torch.from_numpy(curve(9))
    examples = torch.zeros(len(stays), dtype=torch.long)
    sequence = prefixes.order(examples, stays)
    plan = prefixes.walk(examples, stays[sequence], least_tokens=1)
    beginnings = {tuple(row[:n]) for row in stays.tolist() for n in range(1, 10)}
    assert plan.n_tokens == len(beginnings)


def test_classifiers_that_are_causal_share_too():
    from transformers import GPT2Config, GPT2ForSequenceClassification

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=300, n_embd=16, n_layer=2, n_head=2, n_positions=64, num_labels=3, pad_token_id=0
    )
    model = wrap_model(GPT2ForSequenceClassification(config).double().eval(), None)
    batch = batch_of(model)
    shared, passes, _ = answers(model, batch, leave_one_out(), 2048)
    whole, every, _ = answers(model, batch, leave_one_out(), 2048, may_share=False)
    np.testing.assert_allclose(shared, whole, rtol=0, atol=1e-12 * np.abs(whole).max())
    assert n_tokens(passes) < n_tokens(every)


def test_options_share_their_prompt():
    model = tiny_decoder("gpt2", bpe_tokenizer())
    example = Example(
        "0", "The capital of Norway is", options=(" Oslo", " Bergen, by the sea", " Rome")
    )
    text = task_of(model).encode(model, example, "error")
    batch = collate(model, [question for _, question in questions(model, [text])])
    stays = leave_one_out(len(text))
    shared, passes, _ = answers(model, batch, stays, 4096)
    whole, every, _ = answers(model, batch, stays, 4096, may_share=False)
    np.testing.assert_allclose(shared, whole, rtol=0, atol=1e-12 * np.abs(whole).max())
    assert n_tokens(passes) < n_tokens(every)


@pytest.mark.parametrize("fault", ["forgets", "shifts"])
def test_a_model_whose_past_is_not_its_prefix_is_asked_whole_rows(fault, monkeypatch):
    """The trial sees a model that drops what came before, or reads it at other places."""
    model = tiny_decoder("gpt2")
    forward = type(model.module).forward

    def broken(self, input_ids, past_key_values=None, **named):
        if past_key_values is not None and past_key_values.get_seq_length():
            if fault == "forgets":
                for layer in past_key_values.layers:
                    layer.values = torch.zeros_like(layer.values)
            else:
                start = past_key_values.get_seq_length() - 1
                named["position_ids"] = start + torch.arange(input_ids.shape[1])[None]
        return forward(self, input_ids=input_ids, past_key_values=past_key_values, **named)

    batch = batch_of(model)
    assert prefixes.shares(References(model), batch)
    monkeypatch.setattr(type(model.module), "forward", broken)
    assert not prefixes.shares(References(model), batch)


@pytest.mark.parametrize(("rope_type", "n_trials"), [("default", 1), ("dynamic", 2)])
def test_sharing_is_tried_once_for_each_size_or_where_lengths_matter_for_each_length(
    rope_type, n_trials, monkeypatch
):
    model = tiny_decoder("llama")
    monkeypatch.setattr(model.module.config, "rope_parameters", {"rope_type": rope_type})
    widths = []
    monkeypatch.setattr(
        prefixes, "_tried", lambda _, batch: widths.append(batch.input_ids.shape[1]) or True
    )
    references = References(model)
    for width in (24, 25, 24):
        assert prefixes.shares(references, batch_of(model, 1, width))
    assert len(widths) == n_trials


def test_a_model_with_another_state_is_asked_whole_rows():
    sizes = {"state_size": 4, "num_hidden_layers": 1, "expand": 1}
    model = tiny_decoder("mamba", dtype=torch.float32, **sizes)
    batch = batch_of(model)
    assert not prefixes.shares(References(model), batch)


def test_a_masked_model_does_not_share(bert):
    batch = collate(bert, [encoded_ids(bert, {"input_ids": [5, 6, 7]}, "0", None, "")])
    assert not prefixes.shares(References(bert), batch)


def test_leave_one_out_and_curves_of_the_api_are_the_same_either_way(monkeypatch):
    model = tiny_decoder("gpt2", bpe_tokenizer())

    def table():
        maps = sb.attribute(
            model,
            ["The capital of Norway is", "It rains in"],
            ["leave_one_out", "random"],
            removal="zero",
        )
        return sb.evaluate(model, maps, ["srg", "leave_one_out_tau"], removal="zero")

    shared = table()
    monkeypatch.setattr(prefixes, "PAST", "no such input")
    whole = table()
    assert list(shared.status) == list(whole.status)
    np.testing.assert_allclose(shared.value.astype(float), whole.value.astype(float), atol=1e-12)
