"""SHAP's Partition explainer against Owen values from all orders of a tree, in float64.

ROUNDING bounds, relative to the largest score, what reordered sums of a few hundred terms in float64 can differ by.
"""

import builtins
import sys

import numpy as np
import pytest
import torch
from tiny import FrameTokenizer, framed, scored_by, tiny_bert, token_inputs

import saliency_bench as sb
from saliency_bench.attribution.methods import partition_shap as module
from saliency_bench.core.errors import InputError
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import encoded_ids
from saliency_bench.studies.block import open_block

ROUNDING = 1e-12


def test_without_the_package_one_sentence_says_what_to_install(bert, monkeypatch):
    real = builtins.__import__

    def absent(name, *rest):
        if name == "shap":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "shap", raising=False)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(InputError, match=r"needs shap.*pip install 'saliency-bench\[shap\]'"):
        sb.attribute(bert, token_inputs(4), "partition_shap", removal="mean")


def test_the_package_is_imported_only_when_it_is_used():
    # In this process it may have been; what the module itself binds is nothing of it.
    assert "shap" not in vars(module)


@pytest.fixture(scope="module")
def shap():
    return pytest.importorskip("shap", reason="the extra shap is not installed")


def scores(model, inputs, **options):
    asked = {"removal": "mean", "target": 0} | options
    return sb.attribute(model, inputs, "partition_shap", **asked)


def entangled(embeddings):
    """Products of two and of three neighbours: three share theirs equally only if no two of them play as one."""
    z = embeddings @ torch.linspace(-1, 1, embeddings.shape[-1]).to(embeddings)
    three = z[:, 2:] * z[:, 1:-1] * z[:, :-2]
    return three.sum(1) + (z[:, 1:] * z[:, :-1]).sum(1) + z.tanh().sum(1)


def orders(tree, n, node):
    """Every order of the tokens in which groups of the tree stay together."""
    if node < n:
        return [[node]]
    left, right = (orders(tree, n, int(child)) for child in tree[node - n, :2])
    both = [(a, b) for a in left for b in right]
    return [a + b for a, b in both] + [b + a for a, b in both]


@torch.no_grad()
def owen_values(model, item, tree, score):
    """The mean change of the score when a token joins those before it, over these orders."""
    x = model.embed(torch.tensor([item["input_ids"]]))
    away = model.embedding.weight.mean(0)
    n = x.shape[1]

    def play(there):
        mask = torch.tensor([i in there for i in range(n)])[None, :, None]
        return float(score(torch.where(mask, x, away)))

    total = np.zeros(n)
    found = orders(tree, n, 2 * n - 2)
    for order in found:
        for place, token in enumerate(order):
            total[token] += play(set(order[: place + 1])) - play(set(order[:place]))
    return total / len(found)


@pytest.fixture
def trees(shap, monkeypatch):
    """The trees that shap has built."""
    from shap.maskers import _text

    built = []
    build = _text.partition_tree

    def recorded(tokens, special):
        built.append(build(tokens, special))
        return built[-1]

    monkeypatch.setattr(_text, "partition_tree", recorded)
    return built


@pytest.mark.parametrize("n", [2, 3, 6])
def test_scores_are_owen_values_over_the_tree(trees, n):
    model, (item,) = scored_by(entangled), token_inputs(n)
    (one,) = scores(model, [item], max_evaluations=10_000)
    (tree,) = trees
    expected = owen_values(model, item, tree, entangled)
    np.testing.assert_allclose(one.scores, expected, rtol=0, atol=ROUNDING * np.abs(expected).max())


def test_another_tree_has_other_owen_values(trees):
    model, (item,) = scored_by(entangled), token_inputs(6)
    (one,) = scores(model, [item], max_evaluations=10_000)
    # From the left, one token at a time: pairs of nodes, their distance and how many tokens they hold.
    chain = np.array([[0, 1, 1, 2], *([4 + k, k, 1, k + 1] for k in range(2, 6))], float)
    assert not np.array_equal(chain[:, :2], trees[0][:, :2])
    others = owen_values(model, item, chain, entangled)
    assert np.abs(others - one.scores).max() > 0.01 * np.abs(one.scores).max()


@pytest.mark.parametrize("limit", [1, 3, 11, 500])
def test_scores_are_complete_at_any_number_of_questions(shap, bert, limit):
    for one in scores(bert, token_inputs(1, 7, 9), max_evaluations=limit):
        assert one.n_gradients == 0
        size = np.abs(one.scores).max()
        assert abs(one.completeness_gap) <= 1e-10 * size
        assert one.scores.sum() == pytest.approx(one.output_difference, abs=1e-10 * size)


def test_the_model_is_asked_through_the_removal_that_metrics_use(shap, bert):
    """By the same questions, each of which is asked once; more than twice the limit never."""
    (item,) = token_inputs(6)
    encoded = [encoded_ids(bert, item, "0", None, "")]
    with bert.frozen():
        context = open_block(References(bert), encoded, 0, 1000).context("logit", 0)
        found = module.partition_shap(context, removal="mean", max_evaluations=20)
        probe = context.probe("mean")
        assert 0 < probe.n_distinct <= 22
        empty = probe(np.array([0]), [np.zeros(6, dtype=bool)])[0, 0]
        whole = probe(np.array([0]), [np.ones(6, dtype=bool)])[0, 0]
    assert float(found.difference[0]) == whole - empty


def test_pieces_of_a_word_share_equally(shap):
    from dataclasses import replace

    model, (item,) = scored_by(entangled), token_inputs(5)
    encoded = encoded_ids(model, item, "0", None, "")
    whole = replace(encoded, words=(0, 0, 1, 2, 2), tokens=("un", "##do", "it", "qui", "##te"))
    with model.frozen():
        context = open_block(
            References(model), [replace(whole, words_known=True)], 0, 1000
        ).context("logit", 0)
        (found,) = module.partition_shap(
            context, removal="mean", max_evaluations=500
        ).scores.numpy()
    assert found[0] == found[1] and found[3] == found[4] and len({*found.tolist()}) == 3


def test_order_company_and_token_budget_change_nothing(shap, bert):
    inputs = token_inputs(5, 9, 5, 7)
    options = {"max_evaluations": 30}
    together = scores(bert, inputs, **options)
    turned = scores(bert, inputs[::-1], **options)[::-1]
    small = scores(bert, inputs, token_budget=1, **options)
    for index, item in enumerate(inputs):
        (alone,) = scores(bert, [item], **options)
        for other in (together[index], turned[index], small[index]):
            size = np.abs(alone.scores).max()
            np.testing.assert_allclose(other.scores, alone.scores, rtol=0, atol=1e-10 * size)


def test_special_tokens_play_no_part_and_generators_are_left_alone(shap):
    model = sb.wrap_model(tiny_bert(), FrameTokenizer())
    before = [str(part) for part in np.random.get_state()]  # noqa: NPY002 - the global one
    torch_before = torch.random.get_rng_state()
    for one in scores(model, framed(*token_inputs(3, 5)), removal="mask"):
        assert one.scores[0] == one.scores[-1] == 0 and (one.scores[1:-1] != 0).all()
    assert [str(part) for part in np.random.get_state()] == before  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), torch_before)


def test_a_text_of_special_tokens_alone_gets_nothing(shap):
    model = sb.wrap_model(tiny_bert(), FrameTokenizer())
    (one,) = scores(model, framed({"input_ids": []}), removal="mask")
    assert (one.scores == 0).all() and one.output_difference == 0
