"""The measures of context attribution, against their definitions counted set by set."""

from itertools import product

import numpy as np
import pytest
from evaluation.lookup import arbitrary, curve_of, query_of, table, unasked
from tiny_chats import bpe_tokenizer, tiny_decoder

import saliency_bench as sb
from saliency_bench.evaluation.context import linear_datamodeling_score
from saliency_bench.evaluation.faithfulness import top_k_log_probability_drop
from saliency_bench.evaluation.metrics import NotApplicable

SEEDS = pytest.mark.parametrize("seed", range(4))


def outputs(seed):
    """F by the units that stay: arbitrary numbers."""
    probe = arbitrary(seed)
    return lambda stays: probe.logits(0, tuple(stays))[0]


def ranks(values):
    """The rank of each value, the mean of theirs where several are equal."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
        for value in values
    ]


def spearman(a, b):
    """Pearson's correlation of ranks, by hand."""
    a, b = ranks(list(a)), ranks(list(b))
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    sizes = [sum((x - m) ** 2 for x in v) for v, m in ((a, mean_a), (b, mean_b))]
    return covariance / np.sqrt(sizes[0] * sizes[1])


@SEEDS
@pytest.mark.parametrize("n_units", [1, 3, 5])
def test_it_is_the_rank_correlation_over_all_sets_where_they_are_few(seed, n_units):
    f, scores = outputs(seed), np.random.default_rng(seed).normal(size=n_units)
    sets = [[u for u in range(n_units) if one[u]] for one in product([0, 1], repeat=n_units)]
    expected = spearman([sum(scores[own]) for own in sets], [f(own) for own in sets])
    query, asked = query_of(f, scores)
    # A correlation of 2^n ranks, whose sums are exact: a few roundings of the last division.
    assert linear_datamodeling_score(query, n_sets=32) == pytest.approx(expected, abs=1e-12)
    assert sorted(asked) == sorted(map(tuple, sets))  # each once


@SEEDS
def test_drawn_sets_give_the_same_in_the_limit(seed):
    f, scores = outputs(seed), np.random.default_rng(seed).normal(size=4)
    every = linear_datamodeling_score(query_of(f, scores)[0], n_sets=16)
    drawn = linear_datamodeling_score(query_of(f, scores)[0], n_sets=15)
    assert drawn != every
    # Of 4 units all sets are taken once they are no more than are asked for; one unit more, and they are drawn.
    five = np.append(scores, 0.0)
    same = lambda stays: f([u for u in stays if u < 4])  # noqa: E731
    many = query_of(same, five)[0]
    exact = linear_datamodeling_score(many, n_sets=32)
    again = sum(
        linear_datamodeling_score(query_of(same, five, name=str(n))[0], n_sets=31)
        for n in range(400)
    )
    # A mean of 400 correlations of 31 draws, each off by about 1/sqrt(30): five standard errors.
    assert again / 400 == pytest.approx(exact, abs=5 / np.sqrt(30) / 20)


WEIGHTS = [3.0, -1.0, 0.5, 2.0, -0.25, 1.0, 0.125]


def test_the_models_own_weights_are_perfect_and_their_reverse_the_worst():
    f = lambda stays: float(np.exp(sum(WEIGHTS[u] for u in stays)))  # noqa: E731
    for n_sets in (20, 128):
        assert linear_datamodeling_score(query_of(f, WEIGHTS)[0], n_sets=n_sets) == 1
        reverse = query_of(f, [-w for w in WEIGHTS])[0]
        assert linear_datamodeling_score(reverse, n_sets=n_sets) == -1


def test_sets_belong_to_the_text_and_not_to_the_ranking():
    sets = []
    for scores in (WEIGHTS, WEIGHTS[::-1]):
        query, asked = query_of(outputs(0), scores)
        linear_datamodeling_score(query, n_sets=20)
        sets.append(asked)
    assert sets[0] == sets[1] and len(sets[0]) > 15


@pytest.mark.parametrize(
    ("f", "scores"),
    [(lambda stays: 1.0, WEIGHTS), (outputs(0), [0.0] * 7), (lambda stays: 1.0, [])],
)
def test_what_has_no_order_is_not_applicable(f, scores):
    with pytest.raises(NotApplicable):
        linear_datamodeling_score(query_of(f, scores, unasked)[0], n_sets=32)


def test_an_answer_that_is_no_number_is_none():
    f = lambda stays: np.nan if len(stays) == 3 else float(len(stays))  # noqa: E731
    assert np.isnan(linear_datamodeling_score(query_of(f, WEIGHTS)[0], n_sets=32))


def test_top_k_is_counted_in_units_and_not_in_a_share_of_them():
    p = {"": 0.1, "0": 0.3, "1": 0.2, "2": 0.4, "01": 0.5, "02": 0.6, "12": 0.7, "012": 0.8}
    curve = curve_of(table(p), [1, 0, 2], ["full"])
    assert top_k_log_probability_drop(curve, k=1) == pytest.approx(np.log(0.8 / 0.6))
    assert top_k_log_probability_drop(curve, k=2) == pytest.approx(np.log(0.8 / 0.4))
    with pytest.raises(NotApplicable, match="3 units"):
        top_k_log_probability_drop(curve, k=4)


TEXT = "Oslo is in Norway. Rome is in Italy. Bergen is a city. She lived in"
PASSAGES = {"a": "Oslo is in Norway.", "b": "Rome is in Italy.", "c": "Bergen is a city."}


def test_passages_of_a_prompt_are_the_units_of_both():
    model = tiny_decoder("gpt2", bpe_tokenizer())
    row = {"text": TEXT, "segments": PASSAGES}
    (one,) = sb.attribute(model, [row], "input_x_gradient", continuation=" Oslo", at="sum")
    found = sb.evaluate(
        model,
        [one],
        ["linear_datamodeling_score", "top_k_log_probability_drop", "srg"],
        removal="zero",
        granularity="segment",
    )
    assert list(found.status) == ["ok"] * 3
    ends = {unit.name: (unit.start, unit.end) for unit in one.units("segment")}

    def log_p(kept):
        """The plain model, with the rows of the passages that go set to zero."""
        import torch

        ids = torch.tensor([model.tokenizer(TEXT + " Oslo")["input_ids"]])
        n = len(one.token_ids)
        embeddings = model.module.get_input_embeddings()(ids).detach().clone()
        for place, (start, end) in enumerate(one.encoded.offsets):
            start += TEXT[start:end].startswith(" ") and TEXT[start:end] != " "
            if any(a <= start < b and name not in kept for name, (a, b) in ends.items()):
                embeddings[0, place] = 0
        logs = model.module(inputs_embeds=embeddings).logits[0].log_softmax(-1)
        return sum(logs[k - 1, ids[0, k]].item() for k in range(n, ids.shape[1]))

    score = {unit.name: unit.score for unit in one.units("segment")}
    sets = [
        [name for name, there in zip(score, one, strict=True) if there]
        for one in product([0, 1], repeat=3)
    ]
    expected = spearman(
        [sum(score[name] for name in own) for own in sets], [log_p(own) for own in sets]
    )
    assert found.value[0] == pytest.approx(expected, abs=1e-12)
    best = max(score, key=score.get)
    drop = log_p([*score]) - log_p([name for name in score if name != best])
    assert found.value[1] == pytest.approx(drop, rel=1e-9)
