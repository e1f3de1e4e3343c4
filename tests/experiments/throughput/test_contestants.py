"""Who is timed computes the same numbers, each in its own way."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from saliency_bench.core.errors import InputError
from saliency_bench.core.tensors import Batch
from saliency_bench.experiments.random_models import random_model, random_texts
from saliency_bench.experiments.throughput import captum_contestants as captum
from saliency_bench.experiments.throughput.bare_loop import bare_loop
from saliency_bench.experiments.throughput.captum_contestants import (
    Trials,
    Use,
    captum_in_order,
    captum_random,
    captum_single,
    captum_sorted,
    tuned,
)
from saliency_bench.experiments.throughput.contestants import (
    CONTESTANTS,
    Contestant,
    Problem,
    ours,
    padded_tokens,
)
from saliency_bench.models.references import References

LENGTHS = (3, 9, 4, 6, 3)
TRIALS = Trials(batch_sizes=[2], tokens_at_once=[64], interfaces=["inputs"], n_repeats=1)


@pytest.fixture(scope="module")
def problem():
    """Texts of mixed lengths on a model sharp enough that a wrong mask is seen."""
    model = random_model("bert", "float64")
    encoded = tuple(
        one
        for place, length in enumerate(LENGTHS)
        for one in random_texts(model, 1, length, seed=place)
    )
    with model.frozen():
        yield Problem(References(model), encoded, "mask", "gauss_legendre", 6, 40)


def by_hand(problem):
    """One text, one step, one pass of the module itself at a time."""
    module, mask_token = problem.model.module, problem.model.tokenizer.mask_token_id
    table = module.get_input_embeddings().weight.detach()
    nodes, weights = np.polynomial.legendre.leggauss(problem.n_steps)
    found = []
    for item in problem.encoded:
        end = table[list(item.input_ids)]
        start = torch.stack(
            [
                row if special else table[mask_token]
                for row, special in zip(end, item.special, strict=True)
            ]
        )
        target = int(module(inputs_embeds=end[None]).logits[0].argmax())
        total = torch.zeros_like(end)
        for node, weight in zip(nodes, weights, strict=True):
            point = (start + (1 + node) / 2 * (end - start)).requires_grad_()
            score = module(inputs_embeds=point[None]).logits[0, target]
            total += weight / 2 * torch.autograd.grad(score, point)[0]
        found.append((total * (end - start)).sum(-1).numpy())
    return found


def furthest(scores, expected):
    """Relative to the largest score of each text."""
    assert [one.shape for one in scores] == [one.shape for one in expected]
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(scores, expected, strict=True))


# Captum rounds its weights to float32: half a unit in the last place of each, relative to scores that partly cancel.
@pytest.mark.parametrize(
    ("make", "tolerance"),
    [
        (ours, 1e-12),
        (bare_loop, 1e-12),
        (captum_single, 1e-6),
        (lambda problem: captum_random(problem, batch_size=3, internal_batch_size=7, seed=0), 1e-6),
        (lambda problem: captum_sorted(problem, trials=TRIALS), 1e-6),
        (lambda problem: captum_in_order("", "", problem, Use("layer", 2, 64)), 1e-6),
    ],
    ids=["ours", "bare_loop", "captum_single", "captum_random", "captum_sorted", "captum_layer"],
)
def test_every_contestant_gives_the_scores_of_a_loop_by_hand_in_input_order(
    problem, make, tolerance
):
    assert furthest(make(problem).scores(), by_hand(problem)) < tolerance


def test_random_batches_without_their_mask_would_be_seen(problem, monkeypatch):
    one = captum_random(problem, batch_size=3, internal_batch_size=7, seed=0)
    monkeypatch.setattr(Batch, "padded", False)
    assert furthest(one.scores(), by_hand(problem)) > 1e-3


def test_random_batches_are_in_another_order_for_each_seed_and_hold_every_text_once(problem):
    def batches(seed):
        made = captum_random(problem, batch_size=2, internal_batch_size=2, seed=seed)
        return made.run.args[1]

    assert batches(0) == batches(0) != batches(1)
    assert sorted(index for batch in batches(0) for index in batch) == list(range(len(LENGTHS)))
    assert [len(batch) for batch in batches(0)] == [2, 2, 1]


def test_padded_tokens_are_what_passes_through_the_model(problem):
    # By hand, special tokens included: 5, 11, 6, 8 and 5 tokens. Sorted pairs: 5 5, 6 8, 11.
    sorted_pairs = captum_in_order("", "", problem, Use("inputs", 2, 64))
    assert sorted_pairs.padded_tokens == 2 * 5 + 2 * 8 + 11
    assert padded_tokens(problem.encoded, [[0, 1, 2, 3, 4]]) == 5 * 11
    assert captum_single(problem).padded_tokens == bare_loop(problem).padded_tokens == 35
    passed = []
    encoder = problem.model.module.bert.encoder
    watch = encoder.register_forward_hook(
        lambda module, args, output: passed.append(args[0].shape[0] * args[0].shape[1])
    )
    try:
        for one, extra in ((sorted_pairs, 3), (bare_loop(problem), 0)):
            passed.clear()
            one.run()
            # The class and both ends of the convergence delta take a forward pass each.
            assert sum(passed) == (problem.n_steps + extra) * one.padded_tokens
    finally:
        watch.remove()


def test_the_bare_loop_keeps_nothing(problem):
    assert bare_loop(problem).run() is None


def test_of_the_uses_of_captum_the_fastest_is_kept(problem, monkeypatch):
    seconds = {4: 0.002, 64: 0.004, "layer": 0.001}

    def slow(name, describe, problem, use):
        spent = sum(
            seconds.get(value, 0.02)
            for value in (use.batch_size, use.tokens_at_once, use.interface)
        )
        return Contestant(name, describe, lambda: time.sleep(spent))

    monkeypatch.setattr(captum, "captum_in_order", slow)
    trials = Trials([1, 2, 4], [128, 64, 32], ["inputs", "layer"], 2)
    assert tuned(problem, trials) == (Use("layer", 4, 64), 6)
    zero = replace(problem, baseline="zero")  # a layer has no such token
    assert tuned(zero, trials)[0].interface == "inputs"


def test_a_batch_of_more_texts_than_there_are_is_tried_once(problem, monkeypatch):
    tried = []

    def noted(name, describe, problem, use):
        tried.append(use.batch_size)
        return Contestant(name, describe, lambda: None)

    monkeypatch.setattr(captum, "captum_in_order", noted)
    tuned(problem, Trials([2, 8, 16, 32], [64], ["inputs"], 1))
    assert tried[:2] == [2, 5]  # the sizes; then the best of them under each other choice
    assert len(set(tried[2:])) == 1


def test_captum_refuses_a_rule_that_it_has_not(problem):
    nested = replace(problem, quadrature="clenshaw_curtis")
    for name, given in {
        "captum_single": {},
        "captum_random": {"batch_size": 2, "internal_batch_size": 2, "seed": 0},
    }.items():
        with pytest.raises(InputError, match="clenshaw_curtis"):
            CONTESTANTS.call(name, nested, given)
