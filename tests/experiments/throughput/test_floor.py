"""The floor is counted, and checked against PyTorch's own counter on a real encoder."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from saliency_bench.experiments.throughput.floor import gradient_flops

LAYERS, HIDDEN, FFN, HEADS = 2, 16, 40, 4


@pytest.fixture(scope="module")
def encoder():
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=50,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=FFN,
        attn_implementation="eager",  # its products are plain bmm, which the counter counts
    )
    # Nothing but the encoder multiplies matrices then: the counts must agree exactly.
    return BertModel(config, add_pooling_layer=False).eval().requires_grad_(False)


def embedded(batch, length):
    return torch.zeros(batch, length, HIDDEN, requires_grad=True)


def test_one_token_in_one_layer_by_hand():
    # h = 2, f = 3, L = 1: Q, K, V, O have 2 x 2 weights each, the FFN twice 2 x 3: 28
    # multiplications and as many additions. QK' and PV: 2 each, so 4 and 4.
    # Backward: the weights once more, and twice as many products in attention.
    assert gradient_flops(1, 2, 3, [1], 1) == 2 * 28 + 2 * 4 + 2 * 28 + 4 * 4


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 7), (3, 5)])
def test_the_gradient_count_is_pytorchs(encoder, batch, length):
    inputs = embedded(batch, length)
    with FlopCounterMode(display=False) as counter:
        scores = encoder(inputs_embeds=inputs).last_hidden_state.sum()
        torch.autograd.grad(scores, inputs)
    assert counter.get_total_flops() == gradient_flops(LAYERS, HIDDEN, FFN, [length] * batch, 1)


def test_the_count_adds_up_over_sequences_and_gradients():
    apart = sum(gradient_flops(2, 8, 16, [length], 1) for length in (3, 9))
    assert gradient_flops(2, 8, 16, [3, 9], 5) == 5 * apart
    assert gradient_flops(2, 8, 16, [], 5) == 0
