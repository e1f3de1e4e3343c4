"""Start and end of an answer: against the plain model's gradients, and which span is predicted."""

import itertools

import numpy as np
import pytest
import torch
from tiny_heads import gradient_lengths, tiny_model, word_tokenizer

import saliency_bench as sb
from saliency_bench.core.errors import InputError

TASK = "question-answering"
PAIR = ("what is paris ?", "paris is the capital of france .")
CONTEXT = range(6, 13)  # [CLS] what is paris ? [SEP] paris ... . [SEP]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return word_tokenizer(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_model(TASK, "distilbert", tokenizer)


def ends(model, one):
    """The plain model's start and end logits."""
    out = model.module(input_ids=torch.tensor([one.token_ids]))
    return out.start_logits[0].tolist(), out.end_logits[0].tolist()


def test_start_and_end_of_the_best_span_have_a_map_each(model):
    first, last = sb.attribute(model, [PAIR], "vanilla")
    start, end = ends(model, first)
    spans = [(i, j) for i, j in itertools.product(CONTEXT, CONTEXT) if i <= j]
    best = max(spans, key=lambda span: start[span[0]] + end[span[1]])
    assert (first.target, last.target) == best
    assert (first.example_id, last.example_id) == ("0@start", "0@end")
    assert first.label == f"start at {first.tokens[best[0]]}"
    for one, score in (
        (first, lambda out: out.start_logits[0, best[0]]),
        (last, lambda out: out.end_logits[0, best[1]]),
    ):
        expected = gradient_lengths(model.module, one.token_ids, score)
        np.testing.assert_allclose(one.scores, expected, rtol=1e-9)


def test_probabilities_are_among_the_tokens_of_the_context(model):
    maps = [
        one
        for place in CONTEXT
        for one in sb.attribute(model, [PAIR], "vanilla", target=place, at="start")
    ]
    start, _ = ends(model, maps[0])
    expected = np.exp([start[place] for place in CONTEXT])
    expected /= expected.sum()
    np.testing.assert_allclose([one.probability for one in maps], expected, rtol=1e-9)
    (one,) = sb.attribute(model, [PAIR], "vanilla", target=8, at="end", output="log_probability")
    score = gradient_lengths(
        model.module, one.token_ids, lambda out: out.end_logits[0, 6:13].log_softmax(-1)[2]
    )
    np.testing.assert_allclose(one.scores, score, rtol=1e-9)


def test_an_answer_is_named_by_its_words_and_against_another(model):
    first, last = sb.attribute(model, [PAIR], "vanilla", target="the capital of")
    assert (first.target, last.target) == (8, 10)
    (both,) = sb.attribute(model, [PAIR], "vanilla", target=("france", "capital"), at="end")
    score = gradient_lengths(
        model.module, both.token_ids, lambda out: out.end_logits[0, 11] - out.end_logits[0, 9]
    )
    np.testing.assert_allclose(both.scores, score, rtol=1e-9)
    assert both.label == "end at france - end at capital"


def test_contexts_of_other_lengths_in_a_batch_change_nothing(model):
    pairs = [PAIR, ("what is rome ?", "rome is a capital ."), ("what ?", "the capital is rome .")]
    together = sb.attribute(model, pairs, "input_x_gradient")
    alone = [
        one for pair in pairs for one in sb.attribute(model, [pair], "input_x_gradient")
    ]  # pairs two and three have the same length
    for a, b in zip(together, alone, strict=True):
        assert (a.target, a.label) == (b.target, b.label)
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-12)


def test_removal_asks_the_plain_model_for_the_same_place(model):
    (one,) = sb.attribute(model, [PAIR], "vanilla", at="start", target="paris")
    given = sb.AttributionMap.from_scores(np.arange(len(one.tokens), dtype=float), one)
    table = sb.evaluate(model, [given], "comprehensiveness", grid=[0.01], removal="mask")
    ids = torch.tensor([one.token_ids])
    without = ids.clone()
    without[0, 12] = model.tokenizer.mask_token_id
    full, less = (
        model.module(input_ids=asked).start_logits[0, 6:13].softmax(-1)[0].item()
        for asked in (ids, without)
    )
    assert table.value.item() == pytest.approx(full - less, abs=1e-12)


@pytest.mark.parametrize("removal", ["delete", "attention"])
def test_removals_that_take_an_answer_away_are_rows_with_the_reason(model, removal):
    maps = sb.attribute(model, [PAIR], "vanilla")
    table = sb.evaluate(model, maps, "srg", removal=removal)
    assert list(table.status) == ["not_applicable"] * 2
    assert table.reason.str.contains("could not be chosen").all()


def test_every_metric_of_the_curves_has_a_number(model):
    maps = sb.attribute(model, [PAIR], "vanilla")
    metrics = ["srg", "deletion_auc", "log_odds", "decision_flip_fraction", "insertion_auc"]
    table = sb.evaluate(model, maps, metrics, removal=["mask", "zero"])
    assert list(table.status) == ["ok"] * 20
    assert np.isfinite(table.value).all()


@pytest.mark.parametrize(
    ("inputs", "options", "reason"),
    [
        ("no pair", {}, r"inputs\[0\]: expected a pair, \(question, context\)"),
        ([PAIR], {"at": "middle"}, "expected start or end"),
        ([PAIR], {"target": "berlin"}, "'berlin' is not in the context"),
        ([PAIR], {"target": "what"}, "'what' is not in the context"),
        ([PAIR], {"target": 2}, r"target=2 is no token of the context \(6 \.\.\. 12\)"),
        ([PAIR], {"target": ("paris", "paris")}, "both are the same class"),
        ([PAIR], {"target": "all"}, "several maps"),
        ([{"input_ids": [2, 6, 3]}], {}, "no token is known to be of the context"),
    ],
)
def test_what_makes_no_sense_is_refused(model, inputs, options, reason):
    with pytest.raises(InputError, match=reason):
        sb.attribute(model, inputs, "vanilla", **options)


def test_tokenised_pairs_are_told_apart_by_their_types(tokenizer):
    model = tiny_model(TASK, "bert", tokenizer)
    texts = sb.attribute(model, [PAIR], "vanilla")
    ids = sb.attribute(model, [dict(tokenizer(*PAIR))], "vanilla")
    for a, b in zip(texts, ids, strict=True):
        assert (a.target, a.label) == (b.target, b.label)
        np.testing.assert_array_equal(a.scores, b.scores)
