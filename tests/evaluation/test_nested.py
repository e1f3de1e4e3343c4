"""Leave-one-out of a continuation's tokens shares rows, with the numbers that each token has alone."""

import tracemalloc

import numpy as np
import pytest
from study.test_continued import Both, asked_of, longrope
from tiny_chats import ROUNDING, bpe_tokenizer, tiny_decoder

import saliency_bench as sb
from saliency_bench.evaluation.nested import Nested, nested
from saliency_bench.evaluation.removal import removal_probe
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import collate

PROMPT = "The capital of France is Paris, and the capital of Norway is"
ANSWER = " Oslo, by the sea."


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request):
    return tiny_decoder(request.param, bpe_tokenizer())


def left_out(batch):
    """Every text without each of its tokens."""
    pairs = [(row, place) for row, n in enumerate(batch.lengths) for place in range(n)]
    keep = [np.arange(batch.lengths[row]) != place for row, place in pairs]
    return np.array([row for row, _ in pairs]), keep


def test_every_answer_is_that_of_the_text_alone_and_only_the_longest_is_asked(model):
    asked = asked_of(model, PROMPT)
    with model.frozen():
        batch = collate(model, asked)
        probe = removal_probe(References(model), batch, "zero", 10_000)
        rows, keep = left_out(batch)
        found = probe(rows, keep)
        # Of shorter texts each row is that of the longest without the same token.
        assert probe.n_tokens == max(batch.lengths) ** 2
        assert probe.n_distinct == sum(batch.lengths)
        whole = References(model, may_share=False)
        for row, item in enumerate(asked):
            single = removal_probe(whole, collate(model, [item]), "zero", 10_000)
            places = np.flatnonzero(rows == row)
            slow = single(np.zeros(len(places), dtype=int), [keep[place] for place in places])
            limit = ROUNDING[model.module.config.model_type] * np.abs(slow).max()
            np.testing.assert_allclose(found[places], slow, rtol=0, atol=limit)


def test_a_small_budget_asks_the_same_in_more_passes(model):
    asked = asked_of(model, PROMPT, "Rome")
    with model.frozen():
        batch = collate(model, asked)
        rows, keep = left_out(batch)
        answers = [
            removal_probe(References(model), batch, "zero", budget)(rows, keep)
            for budget in (1, 100, 10_000)
        ]
    limit = ROUNDING[model.module.config.model_type] * np.abs(answers[0]).max()
    for other in answers[1:]:
        np.testing.assert_allclose(other, answers[0], rtol=0, atol=limit)


@pytest.mark.parametrize("seed", range(3))
def test_a_carrier_has_what_stays_of_the_row_at_its_beginning(seed):
    rng = np.random.default_rng(seed)
    shared = Nested((3, 5, 4), ((), (0, 2), (0,)))  # and text 0 begins both others
    examples = rng.integers(0, 3, size=40)
    stays = rng.random((40, 5)) < 0.5
    for row, text in enumerate(examples):
        stays[row, shared.lengths[text] :] = False
    carrier = shared.carriers(examples, stays)
    for row, held in enumerate(carrier):
        text, other = examples[row], examples[held]
        n = shared.lengths[text]
        assert carrier[held] == held
        assert text == other or text in shared.begin[other]
        assert np.array_equal(stays[row, :n], stays[held, :n])
        longer = [
            there
            for there in range(40)
            if text in shared.begin[examples[there]]
            and np.array_equal(stays[row, :n], stays[there, :n])
        ]
        assert held != row or not longer


def test_a_model_that_reads_on_has_no_nested_texts():
    reads_on = sb.wrap_model(
        Both(), bpe_tokenizer(), task="text-generation", embeddings="embedding"
    )
    causal = tiny_decoder("gpt2", bpe_tokenizer())
    for model, expected in ((reads_on, False), (causal, True)):
        with model.frozen():
            batch = collate(model, asked_of(model, PROMPT))
            assert (nested(References(model), batch) is not None) == expected
    maps = sb.attribute(reads_on, PROMPT, "leave_one_out", removal="zero", continuation=ANSWER)
    for ours in maps:
        text = {"input_ids": list(ours.token_ids)}
        (slow,) = sb.attribute(reads_on, text, "leave_one_out", removal="zero", target=ours.target)
        np.testing.assert_allclose(ours.scores, slow.scores, rtol=1e-9)


def test_carriers_take_no_more_memory_than_the_rows():
    n = 400  # a text of so many tokens, that the shorter ones begin: leave-one-out of the last
    shared = Nested((*range(1, n + 1),), tuple(tuple(range(text)) for text in range(n)))
    examples, stays = np.full(n, n - 1), ~np.eye(n, dtype=bool)
    tracemalloc.start()
    carrier = shared.carriers(examples, stays)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert carrier.tolist() == [*range(n)]
    assert most < 4 * stays.nbytes


def test_a_model_that_computes_otherwise_in_longer_passes_has_no_nested_texts():
    model = longrope()
    with model.frozen():
        asked = asked_of(model, PROMPT)
        lengths = [len(one) for one in asked]
        for limit, expected in ((12, True), (lengths[2], False), (lengths[-1], True)):
            model.module.config.rope_parameters["original_max_position_embeddings"] = limit
            found = nested(References(model), collate(model, asked))
            assert (found is not None) == expected


def test_texts_that_do_not_go_on_share_nothing(model):
    asked = [*asked_of(model, PROMPT)[:1], *asked_of(model, "Rome")[:1]]
    with model.frozen():
        assert nested(References(model), collate(model, asked)) is None


def test_maps_of_a_continuation_are_those_of_its_tokens_alone(model):
    tokens = []
    options = {"removal": "mean", "output": "log_probability"}

    def count(_, args, kwargs):
        tokens.append(kwargs["input_ids"].numel())

    with model.module.register_forward_pre_hook(count, with_kwargs=True):
        sb.attribute(model, PROMPT, "leave_one_out", continuation=ANSWER, **options)  # trials
        tokens.clear()
        found = sb.attribute(model, PROMPT, "leave_one_out", continuation=ANSWER, **options)
        shared = sum(tokens)
        tokens.clear()
        each = [
            sb.attribute(
                model,
                {"input_ids": list(one.token_ids)},
                "leave_one_out",
                target=one.target,
                **options,
            )[0]
            for one in found
        ]
    assert shared < sum(tokens)
    for ours, slow in zip(found, each, strict=True):
        limit = ROUNDING[model.module.config.model_type] * np.abs(slow.scores).max()
        # Differences of two outputs, whose rounding is relative to these and not to the difference.
        np.testing.assert_allclose(ours.scores, slow.scores, rtol=0, atol=100 * limit)
