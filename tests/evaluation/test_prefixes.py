"""Questions that begin alike share keys and values: the answers of whole rows, at about half of the tokens."""

from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
import torch
from tiny_chats import bpe_tokenizer, tiny_decoder

import saliency_bench as sb
from saliency_bench.data.example import Example
from saliency_bench.evaluation.removal import removal_probe
from saliency_bench.models import prefixes
from saliency_bench.models.ledger import Ledger
from saliency_bench.models.loading import wrap_model
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import collate, encoded_ids
from saliency_bench.models.tasks.registry import questions, task_of

WIDTH = 12


def batch_of(model, n_texts=2, width=WIDTH, lengths=None):
    """Texts of random ids, each asked for its next token; with `lengths` they have these, and the block is padded."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(10, 300, n) for n in lengths or [width] * n_texts]
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
    """Logits of all questions about each text, the tokens of each pass, and the probe.

    `stays` are those of every text, or a list of those of each.
    """
    probe = removal_probe(References(model, may_share=may_share), batch, removal, budget)
    assert probe.shares == may_share
    each = stays if isinstance(stays, list) else [stays] * len(batch)
    asked = [(text, row) for text, rows in enumerate(each) for row in rows]
    shuffled = np.random.default_rng(1).permutation(len(asked))
    with passes_of(model) as passes:
        found = probe(np.array([asked[i][0] for i in shuffled]), [asked[i][1] for i in shuffled])
    return found[shuffled.argsort()], passes, probe


def agree(model, batch, stays, budget, tolerance):
    """Whether answers are those of whole rows; the share of their tokens."""
    shared, few, _ = answers(model, batch, stays, budget)
    whole, many, _ = answers(model, batch, stays, budget, may_share=False)
    np.testing.assert_allclose(shared, whole, rtol=0, atol=tolerance * np.abs(whole).max())
    return n_tokens(few) / n_tokens(many)


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


#: Of short texts; a step more costs more than these have in common.
MOST_OF_THE_TOKENS = {prefixes.ONE_SEQUENCE: 0.7, prefixes.STEPS: 1.0}


@pytest.fixture(params=prefixes.FORMS)
def form(request, monkeypatch):
    """The only form that is tried."""
    monkeypatch.setattr(prefixes, "FORMS", (request.param,))
    return request.param


@pytest.mark.parametrize(("kind", "dtype", "tolerance", "sizes"), KINDS)
@pytest.mark.parametrize("budget", [5 * WIDTH, 2048])
def test_answers_are_those_of_whole_rows(kind, dtype, tolerance, sizes, budget, form):
    model = tiny_decoder(kind, dtype=dtype, **sizes)
    if form == prefixes.ONE_SEQUENCE and "sliding_window" in sizes:
        assert not prefixes.shares(References(model), batch_of(model))
        return  # the window counts places in the sequence
    stays = np.concatenate([leave_one_out(), curve()])
    assert agree(model, batch_of(model), stays, budget, tolerance) <= MOST_OF_THE_TOKENS[form]


LENGTHS = (12, 11, 12, 2, 11)


@pytest.mark.parametrize("budget", [1, 40, 2048])
@pytest.mark.parametrize(("kind", "dtype", "tolerance", "sizes"), KINDS[:3])
def test_texts_in_a_padded_block_share_too(kind, dtype, tolerance, sizes, budget, form):
    model = tiny_decoder(kind, dtype=dtype, **sizes)
    batch = batch_of(model, lengths=LENGTHS)
    assert batch.padded
    stays = [np.concatenate([leave_one_out(n), curve(n, n)]) for n in LENGTHS]
    assert agree(model, batch, stays, budget, tolerance) <= MOST_OF_THE_TOKENS[form]


@pytest.mark.parametrize("budget", [5 * WIDTH, 2048])
def test_short_sequences_go_on_from_the_row_before(budget, form, monkeypatch):
    monkeypatch.setattr(prefixes, "MOST_TOKENS", 20)
    model = tiny_decoder("gpt2")
    share = agree(model, batch_of(model), curve(), budget, 1e-12)
    beginnings = {tuple(row[:n]) for row in curve().tolist() for n in range(1, WIDTH + 1)}
    if form == prefixes.ONE_SEQUENCE:
        assert share == len(beginnings) / curve().size


@pytest.mark.parametrize(("width", "n_texts", "most"), [(24, 1, 0.6), (24, 3, 0.6), (128, 1, 0.55)])
@pytest.mark.parametrize("of", [leave_one_out, curve])
def test_they_cost_little_more_than_half_of_the_tokens(width, n_texts, most, of):
    """Of t tokens there are t + 1 beginnings, which is half of the tokens of T + 1 rows."""
    model = tiny_decoder("gpt2", num_hidden_layers=1, dtype=torch.float32)
    stays = of(width)
    _, passes, probe = answers(model, batch_of(model, n_texts, width), stays, 2048)
    assert n_tokens(passes) == probe.n_tokens <= most * n_texts * stays.size


@pytest.mark.parametrize("budget", [1, 3 * WIDTH, 2048])
def test_what_is_held_at_once_stays_within_the_token_budget(budget, form, monkeypatch):
    """The tokens of a pass, and the keys and values before it, are no more than the tokens of whole rows."""
    monkeypatch.setattr(prefixes, "MOST_TOKENS", 100)
    model = tiny_decoder("gpt2", num_hidden_layers=1)
    batch = batch_of(model)
    prefixes.shares(References(model), batch)  # which is tried once
    held = []
    of = prefixes.past_of
    monkeypatch.setattr(
        prefixes,
        "past_of",
        lambda states: held.extend(k.shape[0] * k.shape[2] for k, _ in states) or of(states),
    )
    _, passes, _ = answers(model, batch, curve(), budget)
    most = max(WIDTH, budget)
    assert max(rows * tokens for rows, tokens in passes) <= most
    assert max(held, default=0) <= most
    if form == prefixes.ONE_SEQUENCE:
        assert max(rows * tokens for rows, tokens in passes) <= 100


def test_of_the_row_before_no_more_is_kept_than_its_own_keys_and_values(form):
    model = tiny_decoder("gpt2")
    _, _, probe = answers(model, batch_of(model), curve(), 2048)
    kept = [tensor for layer in probe._seed.states for tensor in layer]
    assert {tensor.shape[0] * tensor.shape[2] for tensor in kept} == {WIDTH}
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in kept)


def test_logits_are_computed_for_the_last_token_of_each_row_alone(form):
    model = tiny_decoder("llama", dtype=torch.float32)
    batch, computed = batch_of(model), []
    head = model.module.get_output_embeddings()
    with head.register_forward_pre_hook(lambda _, given: computed.append(given[0][..., 0].numel())):
        answers(model, batch, leave_one_out(), 2048)  # what the model takes is tried once
        computed.clear()
        answers(model, batch, leave_one_out(), 2048)
    assert sum(computed) == 2 * WIDTH


@pytest.fixture
def classifier():
    from transformers import GPT2Config, GPT2ForSequenceClassification

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=300, n_embd=16, n_layer=2, n_head=2, n_positions=64, num_labels=3, pad_token_id=0
    )
    return wrap_model(GPT2ForSequenceClassification(config).double().eval(), None)


def batch_with(model, ids):
    return collate(model, [encoded_ids(model, {"input_ids": ids}, "0", None, "")])


def test_a_classifier_has_no_outputs_for_rows_in_one_sequence_whatever_was_tried_first(classifier):
    """All rows of the trial are equal: a token whose embedding is 0 stays the same when it is replaced."""
    with torch.no_grad():
        classifier.module.get_input_embeddings().weight[7] = 0
    references = References(classifier)
    assert (
        prefixes.form_of(references, batch_with(classifier, [7] * WIDTH)) != prefixes.ONE_SEQUENCE
    )
    assert prefixes.form_of(references, batch_of(classifier)) == prefixes.STEPS


def test_a_classifier_that_reads_before_the_end_of_a_text_is_asked_whole_rows(classifier):
    ids = [*range(10, 10 + WIDTH - 2), 0, 0]
    references = References(classifier)
    assert prefixes.form_of(references, batch_with(classifier, ids)) is None
    assert prefixes.form_of(references, batch_with(classifier, ids[::-1])) == prefixes.STEPS


@pytest.mark.parametrize("lengths", [(12, 12), (12, 10)])
def test_classifiers_that_are_causal_share_too(lengths, classifier):
    model = classifier
    batch = batch_of(model, lengths=lengths)
    assert prefixes.form_of(References(model), batch) == prefixes.STEPS
    assert agree(model, batch, [leave_one_out(n) for n in lengths], 2048, 1e-12) < 0.9


@pytest.mark.parametrize(
    "prompts", [["The capital of Norway is"], ["The capital of Norway is", "A city"]]
)
@pytest.mark.parametrize("budget", [1, 100, 4096])
def test_options_share_their_prompt(prompts, budget, form):
    model = tiny_decoder("gpt2", bpe_tokenizer())
    options = (" Oslo", " Bergen, by the sea", " Rome")
    texts = [
        task_of(model).encode(model, Example(prompt, prompt, options=options), "error")
        for prompt in prompts
    ]
    batch = collate(model, [question for _, question in questions(model, texts)])
    stays = [leave_one_out(len(text)) for text in texts]
    assert agree(model, batch, stays, budget, 1e-12) < 1


def scaled(past, factor):
    for layer in past.layers:
        layer.values = layer.values * factor


def of_the_first_row(past, _):
    for layer in past.layers:
        layer.keys, layer.values = (
            states[:1].expand_as(states) for states in (layer.keys, layer.values)
        )


#: What is done to the past and the inputs of a pass, if it has a past.
OF_THE_PAST = {
    "has one past for all": of_the_first_row,
    "forgets": lambda past, _: scaled(past, 0.0),
    "is off by a hundredth": lambda past, _: scaled(past, 1.01),
    "shifts": lambda _, named: named.update(position_ids=named["position_ids"] - 1),
}


def windowed(_, named):
    """Hides what stands 300 places before in the sequence."""
    n, mask = named["attention_mask"].shape[-1], named["attention_mask"].clone()
    mask[..., :, :] += torch.full((n, n), -1e9, dtype=mask.dtype).tril(-300)[-mask.shape[-2] :]
    named["attention_mask"] = mask


#: The same in a pass with a mask, which steps do not give.
OF_THE_MASK = {
    "looks ahead": lambda _, named: named.update(attention_mask=None),
    "has a window": windowed,
}


@pytest.mark.parametrize("fault", [*OF_THE_PAST, *OF_THE_MASK])
@pytest.mark.parametrize("constant", [False, True])
def test_a_model_whose_past_is_not_its_prefix_is_asked_whole_rows(
    fault, constant, form, monkeypatch
):
    """The trial sees a model that drops what came before, or reads it at other places, also on equal tokens."""
    model = tiny_decoder("gpt2")
    forward = type(model.module).forward

    def broken(self, input_ids, past_key_values=None, **named):
        before = past_key_values.get_seq_length() if past_key_values is not None else 0
        if before and fault in OF_THE_PAST:
            named = {"position_ids": before + torch.arange(input_ids.shape[1])[None]} | named
            OF_THE_PAST[fault](past_key_values, named)
        if fault in OF_THE_MASK and named.get("attention_mask") is not None:
            OF_THE_MASK[fault](past_key_values, named)
        return forward(self, input_ids=input_ids, past_key_values=past_key_values, **named)

    batch = batch_of(model, 1)
    if constant:
        batch = replace(batch, input_ids=batch.input_ids[:, :1].expand(-1, WIDTH))
    assert prefixes.shares(References(model), batch)
    monkeypatch.setattr(type(model.module), "forward", broken)
    # Steps give no mask, and a sequence has one past.
    harmless = fault in OF_THE_MASK if form == prefixes.STEPS else fault == "has one past for all"
    assert prefixes.shares(References(model), batch) == harmless


def widths_tried(monkeypatch):
    """The lengths of the texts on which sharing is tried."""
    widths = []
    monkeypatch.setattr(prefixes, "_tried", lambda _, ids, __: widths.append(ids.shape[1]) or True)
    return widths


@pytest.mark.parametrize(
    ("rope_type", "expected"), [("default", [31, 63]), ("dynamic", [24, 25, 40])]
)
def test_sharing_is_tried_on_the_longest_text_of_each_size_or_where_lengths_matter_on_each_length(
    rope_type, expected, monkeypatch
):
    model = tiny_decoder("llama")
    monkeypatch.setattr(model.module.config, "rope_parameters", {"rope_type": rope_type})
    widths = widths_tried(monkeypatch)
    references = References(model)
    for width in (24, 25, 24, 40):
        assert prefixes.shares(references, batch_of(model, 1, width))
    assert widths == expected
    padded = batch_of(model, lengths=(24, 25))
    assert prefixes.shares(references, padded) == (rope_type == "default")


def test_no_text_is_tried_that_is_longer_than_the_model_takes(monkeypatch):
    model = tiny_decoder("gpt2", max_position_embeddings=13)
    assert prefixes.shares(References(model), batch_of(model))
    widths = widths_tried(monkeypatch)
    assert prefixes.shares(
        References(tiny_decoder("gpt2", max_position_embeddings=13)), batch_of(model)
    )
    assert widths == [13]


#: What makes the rows of a text longer than what is read of it, or brings more than the text.
OTHERWISE = {
    "token types": {"token_type_ids": torch.zeros(1, WIDTH, dtype=torch.long)},
    "a further input": {"extra": {"boxes": torch.zeros(1, WIDTH)}},
    "tokens as classes": {"boundaries": torch.tensor([0])},
    "a question before the end": {"positions": torch.tensor([WIDTH - 2])},
}


@pytest.mark.parametrize("kind", ["padding", *OTHERWISE])
def test_a_text_that_is_no_plain_prefix_is_computed_whole(kind, monkeypatch):
    model = tiny_decoder("gpt2")
    monkeypatch.setattr(prefixes, "_tried", lambda *_: True)
    batch = batch_of(model, 1)
    assert prefixes.shares(References(model), batch)
    padded = {"encoded": (replace(batch.encoded[0], pads=(False,) * WIDTH),)}
    assert not prefixes.shares(References(model), replace(batch, **OTHERWISE.get(kind, padded)))


def test_what_cannot_share_is_not_tried(monkeypatch):
    model = tiny_decoder("gpt2")
    widths = widths_tried(monkeypatch)
    assert not prefixes.shares(References(model), batch_of(model, 1, 1))
    assert not prefixes.shares(References(model, may_share=False), batch_of(model))
    for takes in (None, frozenset({"input_ids"})):
        assert not prefixes.shares(References(replace(model, takes=takes)), batch_of(model))
    assert widths == []


def changed_weights(model, _):
    with torch.no_grad():
        next(model.module.parameters()).mul_(2)


def changed_configuration(model, _):
    model.module.config.use_cache = not model.module.config.use_cache


def changed_type(model, _):
    model.module.float()


def changed_attention(model, _):
    model.module.set_attn_implementation("eager")


def changed_code(model, monkeypatch):
    forward = type(model.module).forward
    monkeypatch.setattr(type(model.module), "forward", lambda self, **named: forward(self, **named))


@pytest.mark.parametrize(
    "change",
    [changed_weights, changed_configuration, changed_type, changed_attention, changed_code],
)
def test_a_module_is_tried_once_and_again_when_it_has_changed(change, monkeypatch):
    model = tiny_decoder("gpt2")
    batch, other = batch_of(model), tiny_decoder("gpt2", seed=1)

    def n_passes(of):
        before = of.ledger.calls
        assert prefixes.shares(References(of), batch)
        return of.ledger.calls - before

    assert n_passes(model) == 3  # whole rows, and two sequences
    assert n_passes(model) == 0
    again = wrap_model(model.module, None, task="text-generation", embeddings=model.embedding)
    assert n_passes(again) == 0
    assert n_passes(other) == 3
    change(model, monkeypatch)
    assert n_passes(model) == 3
    assert n_passes(model) == 0


def test_steps_are_tried_in_few_passes(monkeypatch):
    monkeypatch.setattr(prefixes, "FORMS", (prefixes.STEPS,))
    model = tiny_decoder("gpt2")
    _ = model.intake  # takes a pass of its own
    with passes_of(model) as passes:
        assert prefixes.shares(References(model), batch_of(model))
    assert passes == [(5, 15), (1, 3), (2, 4), (3, 8), (2, 8)]  # whole rows, three steps, and one


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


def mixed():
    """Texts of several lengths, whose block is padded."""
    words = cycle(
        [
            "the",
            "capital",
            "of",
            "France",
            "is",
            "Paris",
            "and",
            "it",
            "rains",
            "in",
            "Bergen",
            "by",
            "the",
            "sea",
        ]
    )
    return [" ".join(next(words) for _ in range(n)) for n in (12, 13, 12, 13)]


def worked(model, call):
    """A call's result, and the work that it takes."""
    before: Ledger = model.ledger.copy()
    result = call()
    return result, model.ledger.since(before).total


@pytest.mark.parametrize(("kind", "dtype"), [("gpt2", torch.float64), ("llama", torch.float32)])
@pytest.mark.parametrize("continuation", [None, " Oslo, by the sea"])
@pytest.mark.parametrize("at", [None, "sum"])
def test_texts_of_mixed_lengths_and_continuations_share_in_public_calls(
    kind, dtype, continuation, at, monkeypatch
):
    if at and not continuation:
        pytest.skip("at= says how a continuation is read")
    model = tiny_decoder(kind, bpe_tokenizer(), dtype=dtype)
    given = {"continuation": continuation} | ({"at": at} if at else {})
    given = given if continuation else {}

    def table():
        maps = sb.attribute(model, mixed(), "leave_one_out", removal="zero", **given)
        metrics = ["srg", "comprehensiveness", "deletion_auc"]
        return sb.evaluate(model, maps, metrics, removal="zero"), [map_.scores for map_ in maps]

    table()  # in which sharing is tried
    (shared, maps), few = worked(model, table)
    monkeypatch.setattr(prefixes, "PAST", "no such input")
    (whole, expected), many = worked(model, table)
    assert few.forward_tokens < 0.75 * many.forward_tokens
    assert list(shared.status) == list(whole.status)
    atol = 1e-12 if dtype == torch.float64 else 2e-5
    np.testing.assert_allclose(shared.value.astype(float), whole.value.astype(float), atol=atol)
    for ours, slow in zip(maps, expected, strict=True):
        np.testing.assert_allclose(ours, slow, rtol=0, atol=atol * max(1, np.abs(slow).max()))
