"""Metrics judged together and apart: the same values, at another cost."""

from dataclasses import replace

import pytest
import torch
from tiny import FrameTokenizer, framed, tiny_bert, token_inputs

import saliency_bench as sb
from saliency_bench.core import conf as conf_files
from saliency_bench.experiments.throughput.evaluation_contestants import evaluation_contestants
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import encoded_ids

METRICS = ("aopc_comprehensiveness_full", "aopc_sufficiency_full", "deletion_auc", "insertion_auc")
METHODS = ("vanilla", "input_x_gradient", "smoothgrad")


@pytest.fixture
def model():
    return replace(sb.wrap_model(tiny_bert()), tokenizer=FrameTokenizer())


@pytest.mark.parametrize("removal", ["attention", "mask", "delete"])
def test_together_and_apart_give_the_same_values_and_together_costs_less(model, removal):
    inputs = framed(*token_inputs(9, 6, 9))
    encoded = [encoded_ids(model, one, str(i), None, "") for i, one in enumerate(inputs)]
    maps = {method: sb.attribute(model, inputs, method) for method in METHODS}
    entries = {name: conf_files.metric_defaults(name) for name in METRICS}
    tokens = []
    model.module.bert.encoder.register_forward_pre_hook(
        lambda _, args: tokens.append(args[0].shape[0] * args[0].shape[1])
    )
    found, cost = {}, {}
    with model.frozen():
        ways = evaluation_contestants(References(model), encoded, maps, entries, removal, 500)
        for name, run in ways.items():
            tokens.clear()
            found[name] = run()
            cost[name] = sum(tokens)
    for shared, separate in zip(found["shared"], found["separate"], strict=True):
        assert len(set(shared)) > len(METHODS)
        assert len(shared) == len(METHODS) * len(METRICS)
        # Means of float64 probabilities, whose logits were computed in another order.
        assert shared == pytest.approx(separate, rel=0, abs=1e-12)
    # Four metrics read two curves: what one curve asks, three others ask too.
    assert cost["separate"] > (4 if removal == "attention" else 2) * cost["shared"]
    assert torch.is_grad_enabled()
