"""DIG's search for words: what it keeps in memory."""

import numpy as np
import torch
from tiny import FrameTokenizer, tiny_bert, token_inputs

import saliency_bench as sb
from saliency_bench.attribution import anchors
from saliency_bench.attribution.anchors import Anchors, Kept
from saliency_bench.attribution.methods import discretized


def test_no_more_is_kept_than_asked_for_and_the_oldest_goes_first():
    kept = Kept(most_bytes=3 * 80)
    computed = []

    def tensor(key):
        computed.append(key)
        return torch.full((10,), float(key), dtype=torch.float64)

    for key in (1, 2, 3, 1, 4, 2, 1):
        assert float(kept.get(key, lambda key=key: tensor(key))[0]) == key
        assert sum(one.nbytes for one in kept._tensors.values()) == kept.size <= 240
    assert computed == [1, 2, 3, 4, 1]
    assert len(kept.get(9, lambda: torch.zeros(1000))) == 1000  # the last one always


def test_neighbours_hold_no_memory_of_the_whole_table(monkeypatch):
    table = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0))
    whole = Anchors(table)
    near = whole.nearest(7, 4)
    assert near.untyped_storage().nbytes() == 4 * near.element_size()
    distances = (table.double() - table[7].double()).square().sum(1)
    distances[7] = torch.inf
    assert near.tolist() == distances.argsort()[:4].tolist()
    monkeypatch.setattr(anchors, "ROWS", 7)
    assert torch.equal(Anchors(table).squares, whole.squares)


def test_a_map_is_the_same_when_nothing_is_kept(monkeypatch):
    model = sb.wrap_model(tiny_bert(), FrameTokenizer(), labels=("a", "b", "c"))
    inputs = [*token_inputs(5, 6, 5), *token_inputs(5)]
    options = {"baseline": "mask", "n_steps": 4, "factor": 1, "neighbours": 6}
    expected = sb.attribute(model, inputs, "dig", **options)
    for module in (anchors, discretized):
        monkeypatch.setattr(module, "MOST_BYTES", 1)
    found = sb.attribute(model, inputs, "dig", **options)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
