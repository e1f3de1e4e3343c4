"""How texts are put together in blocks, and that this changes no number."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws.oracles import bert, encoded
from tiny import FrameTokenizer, framed, token_inputs
from torch import nn

import saliency_bench as sb
from saliency_bench.attribution.gradient import GradientEngine
from saliency_bench.cli import config
from saliency_bench.evaluation.metrics import INFO, METRICS
from saliency_bench.studies import block as blocks
from saliency_bench.studies.block import BLOCK_TOKENS, EQUAL, Packing, packing_for, plan_blocks
from saliency_bench.studies.block_tables import pieces_of
from saliency_bench.studies.prepare import Inputs, prepare

#: Several at once, where the order in which numbers are added up differs: a thousand rounding errors.
CLOSE = {"float64": 1e-12, "float32": 2e-5}


@pytest.fixture(scope="module")
def model():
    return replace(bert(torch.float64), tokenizer=FrameTokenizer())


def texts_of(lengths):
    model = replace(bert(torch.float64), tokenizer=FrameTokenizer())
    return encoded(model, framed(*token_inputs(*lengths)))


@given(
    st.lists(st.integers(1, 8), min_size=1, max_size=30),
    st.integers(1, 60),
    st.sampled_from([1.0, 0.9, 0.5]),
)
def test_blocks_hold_every_text_once_fill_passes_and_pad_no_more_than_is_allowed(
    lengths, tokens, least
):
    texts = texts_of(lengths)
    planned = plan_blocks(texts, Packing(tokens, least))
    assert sorted(index for block in planned for index in block.indices) == list(range(len(texts)))
    assert len({block.name for block in planned}) == len(planned)
    widths = [[len(texts[index]) for index in block.indices] for block in planned]
    for own in widths:
        padded = len(own) * max(own)
        assert len(own) == 1 or (padded <= tokens and sum(own) >= least * padded)
    ends = [length for own in widths for length in own]
    assert ends == sorted(ends)
    for own, following in itertools.pairwise(widths):  # none could have taken one more
        wider = [*own, following[0]]
        padded = len(wider) * max(wider)
        assert padded > tokens or sum(wider) < least * padded


def test_equal_lengths_are_the_rule_where_nothing_else_is_asked_for():
    for block in plan_blocks(texts_of([3, 6, 3, 4, 3, 6])):
        assert len({len(texts_of([3, 6, 3, 4, 3, 6])[index]) for index in block.indices}) == 1


def test_neighbours_in_length_share_blocks_where_padding_is_proved_to_change_nothing(
    model, monkeypatch
):
    neighbours, equal = texts_of([20, 21]), texts_of([20, 20])
    assert packing_for(model, 10**5, neighbours) == Packing(10**5, blocks.LEAST_FILLED)
    assert packing_for(model, 10, neighbours).tokens == BLOCK_TOKENS
    monkeypatch.setattr(sb.models.model.Model, "pads_exactly", lambda *_: False)
    assert packing_for(model, 10**5, neighbours) == EQUAL
    assert packing_for(model, 10**5, equal).least_filled < 1  # there is nothing to pad


@pytest.mark.parametrize(
    ("device", "pieces"), [("cpu", [[20, 20], [21]]), ("cuda", [[20, 20, 21]])]
)
def test_neighbours_in_length_share_the_pieces_of_a_study_on_a_gpu_and_equals_alone_on_a_cpu(
    model, monkeypatch, device, pieces
):
    texts = texts_of([18, 19, 18])
    cfg = config.load(["evaluation.removal=zero", "method=vanilla", "runtime.token_budget=2048"])
    study = prepare(cfg, config.settings(cfg), inputs=Inputs(model, texts, [""] * len(texts)))
    monkeypatch.setattr(sb.models.model.Model, "device", torch.device(device))
    monkeypatch.setattr(sb.models.model.Model, "pads_exactly", lambda *_: True)
    lengths = [[len(texts[index]) for index in piece.indices] for piece in pieces_of(study)]
    assert lengths == pieces


def test_padding_is_proved_for_as_many_pads_as_a_block_has(model, monkeypatch):
    asked = []
    monkeypatch.setattr(
        sb.models.model.Model, "pads_exactly", lambda _, n_pads: asked.append(n_pads) or True
    )
    packing_for(model, 10**5, texts_of([28, 34, 36, 60]))  # 28 + 34 + 36 of 108; 60 by itself
    assert asked == [8]


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("integrated_gradients", {"n_steps": 50, "quadrature": "gauss_legendre"}),
        ("smoothgrad", {"n_samples": 48}),
    ],
)
def test_passes_of_64_mixed_sentences_are_full(model, method, options, monkeypatch):
    budget, lengths = 1024, np.random.default_rng(0).integers(8, 48, 64).tolist()
    passes, take = [], GradientEngine._gradients

    def watched(engine, points, rows):
        passes.append(points.shape[0] * points.shape[1])
        return take(engine, points, rows)

    monkeypatch.setattr(GradientEngine, "_gradients", watched)
    sb.attribute(model, framed(*token_inputs(*lengths)), method, token_budget=budget, **options)
    assert max(passes) <= budget
    assert sum(passes) / len(passes) >= 0.9 * budget
    # Nearly no pass mixes more than two lengths that are neighbours.
    needed = sum(length + 2 for length in lengths) * next(iter(options.values()))
    assert needed <= sum(passes) <= 1.05 * needed


class Averaging(nn.Module):
    """A mean over all positions, padded ones too unless told by the mask."""

    def __init__(self, masked):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head, self.masked = nn.Embedding(20, 4), nn.Linear(4, 2), masked

    def forward(self, input_ids, attention_mask=None):
        hidden = torch.tanh(self.words(input_ids))
        if attention_mask is None or not self.masked:
            return self.head(hidden.mean(1))
        real = attention_mask[:, :, None].to(hidden.dtype)
        return self.head((hidden * real).sum(1) / real.sum(1))


@pytest.mark.parametrize("masked", [True, False])
def test_padding_is_exact_where_the_mask_is_heeded(masked):
    made = sb.wrap_model(Averaging(masked), tokenizer=FrameTokenizer(), embeddings="words")
    with made.frozen():
        assert made.pads_exactly() is masked


def test_without_a_pad_token_nothing_is_padded():
    made = sb.wrap_model(Averaging(True), embeddings="words")
    assert made.pad_token_id is None
    with made.frozen():
        assert not made.pads_exactly()


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("removal", ["mask", "attention", "delete"])
def test_metrics_of_texts_that_share_padded_blocks_are_those_of_equal_lengths(
    dtype, removal, monkeypatch
):
    made = replace(bert(getattr(torch, dtype)), tokenizer=FrameTokenizer())
    inputs = framed(*token_inputs(3, 6, 3, 4, 5))
    metrics = [name for name in METRICS.names() if INFO[name].reads == "curve"]

    def values():
        maps = sb.attribute(made, inputs, "integrated_gradients", baseline="mask", n_steps=4)
        table = sb.evaluate(made, maps, metrics=metrics, removal=removal)
        return np.concatenate([one.scores for one in maps]), table

    monkeypatch.setattr(blocks, "packing_for", lambda *_: EQUAL)
    scores, table = values()
    monkeypatch.setattr(blocks, "packing_for", lambda *_: Packing(10**4, 0.1))
    packed_scores, packed = values()
    assert len(plan_blocks(encoded(made, inputs), Packing(10**4, 0.1))) == 1
    largest = np.abs(scores).max()
    assert np.abs(packed_scores - scores).max() <= CLOSE[dtype] * largest
    assert (packed.status == table.status).all()
    apart = np.abs(packed.value.to_numpy(float) - table.value.to_numpy(float))
    assert np.nanmax(apart) <= CLOSE[dtype] * 10  # of sums of up to ten probabilities
