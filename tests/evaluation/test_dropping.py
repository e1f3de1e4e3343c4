"""Removal by attention and by deletion, against one text at a time; dropped tokens where that is proved to be the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import VOCABULARY, FrameTokenizer, framed, tiny_bert, token_inputs

import saliency_bench as sb
from saliency_bench.core.errors import InputError
from saliency_bench.evaluation.probe import CachingProbe
from saliency_bench.evaluation.removal import AttentionProbe, DeletingProbe, removal_probe
from saliency_bench.models import dropping
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import collate, encoded_ids

LENGTHS = (7, 5, 9)
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.5,
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
#: The tokens that stay are enough, and why not.
EXACT = {
    "bert": {},
    "roberta": {"max_position_embeddings": 40},
    "electra": {"embedding_size": 8},
    "albert": {"embedding_size": 8},
}
INEXACT = {
    "mpnet": {},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "modernbert": {"local_attention": 4, "cls_token_id": 1, "sep_token_id": 2},
}


def wrapped(name, **sizes):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **(SIZES | SPECIAL | sizes))
    module = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    return sb.wrap_model(module.double(), FrameTokenizer())


def model_of(name):
    return wrapped(name, **(EXACT | INEXACT)[name])


def batch_of(model, lengths=LENGTHS):
    inputs = framed(*token_inputs(*lengths))
    encoded = [encoded_ids(model, one, str(i), None, "") for i, one in enumerate(inputs)]
    return collate(model, encoded)


def questions(batch, n=40, seed=0):
    rng = np.random.default_rng(seed)
    examples = rng.integers(0, len(batch), n)
    keep = [rng.random(batch.lengths[example]) < rng.random() for example in examples]
    return examples, keep


def slow_attention(model, batch, example, keep):
    """One whole text alone under an attention mask."""
    item = batch.encoded[example]
    mask = torch.tensor(
        [[kept or special for kept, special in zip(keep, item.special, strict=True)]]
    )
    with torch.no_grad():
        return model.output(torch.tensor([item.input_ids]), mask, None)[0].numpy()


def slow_deletion(model, batch, example, keep):
    """One shorter text alone."""
    item = batch.encoded[example]
    ids = [
        token
        for token, kept, special in zip(item.input_ids, keep, item.special, strict=True)
        if kept or special
    ]
    with torch.no_grad():
        return model.output(torch.tensor([ids]), None, None)[0].numpy()


#: Two layers in float64, their sums in another order; ModernBERT rotates by angles in float32 whatever its weights are,
#: and a vector of other length is rounded otherwise on some processors.
TOLERANCES = {"modernbert": 1e-6}


def assert_same(probe, slow, model, batch, tolerance=1e-11):
    examples, keep = questions(batch)
    with model.frozen():
        answers = probe(examples, keep)
        for answer, example, kept in zip(answers, examples, keep, strict=True):
            expected = slow(model, batch, example, kept)
            np.testing.assert_allclose(answer, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("budget", [1, 30, 1000])
def test_dropped_tokens_are_as_good_as_masked_ones(name, budget):
    model = model_of(name)
    batch = batch_of(model)
    with model.frozen():
        probe = AttentionProbe(References(model), batch, budget)
    assert probe.how is not None
    assert probe.how.first_position == (1 if name == "roberta" else 0)
    assert_same(probe, slow_attention, model, batch)


@pytest.mark.parametrize("name", INEXACT)
def test_where_dropping_is_not_the_same_tokens_are_masked(name):
    model = model_of(name)
    batch = batch_of(model)
    with model.frozen():
        probe = AttentionProbe(References(model), batch, 1000)
    assert probe.how is None
    assert_same(probe, slow_attention, model, batch, TOLERANCES.get(name, 1e-11))


@pytest.mark.parametrize("name", ["fnet", "convbert", "nystromformer"])
def test_a_model_that_reads_what_it_should_not_attend_to_is_refused(name):
    model = wrapped(name)
    with model.frozen(), pytest.raises(InputError, match="reads tokens that are masked"):
        AttentionProbe(References(model), batch_of(model), 1000)


def test_a_window_that_holds_the_whole_text_lets_tokens_be_dropped_and_a_longer_text_does_not(
    monkeypatch,
):
    # What float32 rotations may differ by, in a model of float64.
    monkeypatch.setattr(dropping, "rounding_share", lambda *_, **__: TOLERANCES["modernbert"])
    model = wrapped("modernbert", local_attention=20, cls_token_id=1, sep_token_id=2)
    refs = References(model)
    with model.frozen():
        assert AttentionProbe(refs, batch_of(model, (6, 6)), 1000).how is not None
        assert AttentionProbe(refs, batch_of(model, (28, 28)), 1000).how is None


def test_dropping_without_the_original_positions_is_found_out(monkeypatch):
    model = model_of("bert")
    moved = dropping.dropped_output

    def counted_anew(model, batch, examples, stays, how):
        return moved(model, batch, examples, stays, None)

    monkeypatch.setattr(dropping, "dropped_output", counted_anew)
    with model.frozen():
        assert dropping.how_to_drop(References(model), batch_of(model)) is None


@pytest.mark.parametrize("name", EXACT | INEXACT)
def test_deleted_tokens_leave_a_shorter_text(name):
    model = model_of(name)
    batch = batch_of(model)
    assert_same(DeletingProbe(References(model), batch, 1000), slow_deletion, model, batch)


def test_an_operator_that_removes_the_others_is_found_out(monkeypatch):
    model = model_of("bert")
    batch = batch_of(model)
    stays = CachingProbe._stays
    monkeypatch.setattr(
        CachingProbe, "_stays", lambda self, e, kept: stays(self, e, [~one for one in kept])
    )
    with pytest.raises(AssertionError):
        assert_same(DeletingProbe(References(model), batch, 1000), slow_deletion, model, batch)


@pytest.mark.parametrize("operator", ["attention", "delete"])
def test_a_question_costs_the_tokens_that_stay_and_each_is_asked_once(operator):
    model = model_of("bert")
    batch = batch_of(model)
    examples, keep = questions(batch, 200)
    with model.frozen():
        probe = removal_probe(References(model), batch, operator, 64)
        probe(examples, keep)
        cost = probe.n_tokens
        probe(examples[::-1], keep[::-1])
    special = [np.array(item.special) for item in batch.encoded]
    distinct = {
        (example, tuple(kept | special[example]))
        for example, kept in zip(examples, keep, strict=True)
    }
    assert probe.n_distinct == len(distinct) < 200
    assert probe.n_tokens == cost == sum(sum(kept) for _, kept in distinct)
    assert probe.n_posed == 400


def test_types_of_a_pair_go_with_the_tokens_that_stay():
    model = model_of("bert")
    ids = framed(*token_inputs(8))[0]["input_ids"]
    pair = {"input_ids": ids, "token_type_ids": [0] * 5 + [1] * 5}
    batch = collate(model, [encoded_ids(model, pair, "0", None, "")])
    keep = np.arange(10) % 2 == 0
    with model.frozen():
        (answer,) = removal_probe(References(model), batch, "delete", 100)(np.array([0]), [keep])
    stays = [i for i in range(10) if keep[i] or batch.encoded[0].special[i]]
    with model.frozen(), torch.no_grad():
        expected = model.output(
            torch.tensor([[ids[i] for i in stays]]),
            None,
            torch.tensor([[pair["token_type_ids"][i] for i in stays]]),
        )[0].numpy()
    np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-12)


LLAMA = {"intermediate_size": 32, "num_key_value_heads": 1}


def bare_batch(model, lengths=LENGTHS):
    """Texts without special tokens."""
    items = [encoded_ids(model, one, "first", None, "") for one in token_inputs(*lengths)]
    return collate(model, items)


def causal_classifier(name, attention, *, pads):
    """A classifier that reads the last token; a tokenizer with a pad token, the configuration with it or without."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(0)
    sizes = SIZES | (LLAMA if name == "llama" else {}) | SPECIAL
    config = AutoConfig.for_model(name, **sizes)
    config.pad_token_id = SPECIAL["pad_token_id"] if pads else None
    module = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention)
    return sb.wrap_model(module.double().eval(), FrameTokenizer())


@pytest.mark.parametrize("pads", [True, False])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("operator", ["attention", "delete"])
def test_a_causal_classifier_reads_the_last_token_that_stays_and_the_pad_token_where_none_does(
    operator, name, attention, pads
):
    """By the module itself, one text at a time: the tokens that stay, at their positions or counted anew."""
    model = causal_classifier(name, attention, pads=pads)
    batch = bare_batch(model, LENGTHS if pads else (7, 7))
    examples, keep = questions(batch)
    examples = np.append(examples, [0, 1, 1])
    keep += [np.zeros(batch.lengths[example], bool) for example in (0, 1)]
    keep.append(np.arange(batch.lengths[1]) == 1)
    with model.frozen(), torch.no_grad():
        answers = removal_probe(References(model), batch, operator, 100)(examples, keep)
        for answer, example, kept in zip(answers, examples, keep, strict=True):
            places = np.flatnonzero(kept)
            ids = [batch.encoded[example].input_ids[place] for place in places]
            positions = places if operator == "attention" else np.arange(len(places))
            ids = torch.tensor([ids or [SPECIAL["pad_token_id"]]])
            expected = model.module(
                input_ids=ids,
                # Without a mask a gap in the positions begins a new text.
                attention_mask=torch.ones_like(ids),
                position_ids=torch.tensor([positions.tolist() or [0]]),
            ).logits[0]
            np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-11)
    assert sum(not kept.any() for kept in keep) > 2


def test_a_text_of_special_tokens_alone_does_not_stop_the_others():
    model = model_of("bert")
    texts = {"input_ids": [1, 2]}, framed(*token_inputs(6))[0]
    items = [encoded_ids(model, text, str(i), None, "") for i, text in enumerate(texts)]
    with model.frozen():
        for batch in (collate(model, items[:1]), collate(model, items)):
            probe = removal_probe(References(model), batch, "attention", 100)
            last = len(batch) - 1
            answer = probe(np.array([last]), [np.ones(batch.lengths[last], bool)])
            expected = slow_attention(model, batch, last, np.ones(batch.lengths[last], bool))
            np.testing.assert_allclose(answer[0], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("operator", ["attention", "delete"])
def test_an_empty_text_that_no_token_can_stand_for_is_refused(operator):
    model = sb.wrap_model(tiny_bert())
    with pytest.raises(InputError, match=r"first has no special token.* has no pad token"):
        removal_probe(References(model), bare_batch(model, (4,)), operator, 100)


def test_where_memory_runs_out_fewer_are_asked_and_the_answers_are_the_same(monkeypatch):
    model = model_of("bert")
    batch = batch_of(model)
    refs, plenty = References(model), References(model)
    examples, keep = questions(batch, 60)
    with model.frozen():
        expected = removal_probe(plenty, batch, "zero", 1000)(examples, keep)
        scarce = removal_probe(refs, batch, "zero", 1000)
        whole = scarce.whole

        def limited(embeddings, rows):
            if len(rows) > 7:
                raise torch.OutOfMemoryError("injected")
            return whole(embeddings, rows)

        monkeypatch.setattr(scarce, "whole", limited)
        found = scarce(examples, keep)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert refs.halvings == 3  # 60 distinct at most: 30, 15, 7


def test_the_api_judges_by_both(bert):
    model = replace(bert, tokenizer=FrameTokenizer())
    maps = sb.attribute(model, framed(*token_inputs(6, 6)), "vanilla")
    for operator in ("attention", "delete"):
        table = sb.evaluate(model, maps, ["comprehensiveness", "sufficiency"], removal=operator)
        assert set(table["removal"]) == {operator}
        assert set(table["status"]) == {"ok"}
