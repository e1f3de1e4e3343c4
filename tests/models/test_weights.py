"""Weights are multiplied while a context is open, and are the same memory and the same bits afterwards."""

import threading

import pytest
import torch
from tiny import FrameTokenizer, framed, tiny_bert, token_inputs
from torch import nn

import saliency_bench as sb
from saliency_bench.core.errors import InputError
from saliency_bench.models.weights import multiplied_weights, used_weights

TABLE = "bert.embeddings.word_embeddings.weight"


def memory(module):
    return {name: (one.data_ptr(), one.tolist()) for name, one in module.state_dict().items()}


def doubled(name, weight):
    return torch.full_like(weight, 2.0)


def test_weights_are_multiplied_and_come_back_to_the_bit():
    module = tiny_bert()
    model, before = sb.wrap_model(module), memory(module)
    with multiplied_weights(model, doubled):
        for name, now in module.state_dict().items():
            was = torch.tensor(before[name][1], dtype=now.dtype)
            factor = 1 if name == TABLE or not now.is_floating_point() else 2
            assert torch.equal(now, factor * was), name
    assert memory(module) == before


@pytest.mark.parametrize("fails", ["inside", "while a factor is made"])
def test_weights_come_back_after_an_error(fails):
    module = tiny_bert()
    model, before = sb.wrap_model(module), memory(module)
    names = list(used_weights(model))

    def factor(name, weight):
        if fails != "inside" and name == names[7]:
            raise RuntimeError("the bomb")
        return doubled(name, weight)

    with pytest.raises(RuntimeError, match="the bomb"), multiplied_weights(model, factor):
        raise RuntimeError("the bomb")
    assert memory(module) == before


def test_a_weight_that_two_parts_share_is_multiplied_once_also_where_one_is_the_embedding_layer():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(50, 6)
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
            self.second.weight = self.first.weight
            self.out = nn.Linear(6, 50)
            self.out.weight = self.table.weight

        def forward(self, input_ids, **_):
            return self.out(self.second(self.first(self.table(input_ids).mean(1))))

    module = Tied()
    model, before = sb.wrap_model(module, embeddings="table"), memory(module)
    with multiplied_weights(model, doubled):
        for name in ("first.weight", "out.weight", "first.bias"):
            assert torch.equal(module.state_dict()[name], 2 * torch.tensor(before[name][1])), name
    assert memory(module) == before


def test_weights_without_a_point_are_refused_by_name():
    module = tiny_bert()
    whole = nn.Parameter(torch.ones(3, 16, dtype=torch.int8), requires_grad=False)
    module.classifier.extra = whole
    with pytest.raises(InputError, match=r"classifier\.extra holds torch\.int8.*smoothgrad"):
        sb.attribute(sb.wrap_model(module), token_inputs(4), "noisegrad")


@pytest.mark.parametrize("method", ["noisegrad", "fusiongrad"])
def test_other_threads_that_explain_the_model_never_meet_its_noise(method):
    inputs = framed(*token_inputs(3, 5))
    model = sb.wrap_model(tiny_bert(), FrameTokenizer())
    options = {"n_samples": 4, "sampler": "iid"}
    alone = {
        "vanilla": [one.scores for one in sb.attribute(model, inputs, "vanilla")],
        method: [one.scores for one in sb.attribute(model, inputs, method, **options)],
    }
    found = []

    def explain(name):
        own = options if name == method else {}
        found.append((name, [one.scores for one in sb.attribute(model, inputs, name, **own)]))

    names = [method, "vanilla"] * 4
    threads = [threading.Thread(target=explain, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(names)
    for name, scores in found:
        assert all((a == b).all() for a, b in zip(scores, alone[name], strict=True)), name
