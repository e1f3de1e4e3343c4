"""Random weights: which, from where, and that the trained model stays as it is."""

import pytest
import torch
from tiny import tiny_bert, token_inputs
from torch import nn

from saliency_bench.core.errors import InputError
from saliency_bench.models.loading import wrap_model
from saliency_bench.models.randomisation import fresh_weights, randomised, stages


class Plain(nn.Module):
    """A classifier that transformers knows nothing of."""

    def __init__(self, keeps_reset=True):
        super().__init__()
        self.words = nn.Embedding(20, 4)
        self.hidden = nn.Linear(4, 4)
        self.out = nn.Linear(4, 2)
        if not keeps_reset:
            self.scale = nn.Parameter(torch.ones(4))

    def forward(self, input_ids):
        return self.out(torch.tanh(self.hidden(self.words(input_ids))).mean(1))


def test_stages_go_from_the_output_to_the_input_and_hold_every_weight_once():
    module = tiny_bert()
    found = stages(module)
    assert [one.name for one in found] == ["head", "layer 2", "layer 1", "embeddings"]
    names = [name for one in found for name in one.parameters]
    assert sorted(names) == sorted(name for name, _ in module.named_parameters())
    assert all(name.startswith("bert.encoder.layer.1.") for name in found[1].parameters)
    assert "bert.embeddings.word_embeddings.weight" in found[-1].parameters
    assert {"classifier.weight", "bert.pooler.dense.weight"} <= set(found[0].parameters)


def test_an_encoder_and_a_decoder_have_layers_of_their_own():
    from transformers import T5Config, T5ForSequenceClassification

    config = T5Config(
        vocab_size=30, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_decoder_layers=1, num_heads=2
    )
    module = T5ForSequenceClassification(config)
    names = [one.name for one in stages(module)]
    assert names[0] == "head"
    assert names[-1] == "embeddings"
    assert len(names) == 5
    assert names[1].startswith("transformer.decoder")
    assert names[2].startswith("transformer.encoder")


def test_a_module_without_lists_is_taken_apart_into_its_children():
    assert [one.name for one in stages(Plain())] == ["out", "hidden", "words"]


@pytest.mark.parametrize("build", [tiny_bert, Plain])
def test_all_stages_together_are_a_new_model_and_none_is_the_model_itself(build):
    model = wrap_model(build())
    ids = torch.tensor([token_inputs(5)[0]["input_ids"]]) % 20
    before = {name: one.clone() for name, one in model.module.named_parameters()}
    fresh, parts = fresh_weights(model.module, 3), stages(model.module)
    new, same = randomised(model, parts, fresh), randomised(model, [], fresh)
    with torch.no_grad():
        own, other = model.output(ids), new.output(ids)
        assert torch.equal(own, same.output(ids))
        assert not torch.allclose(own, other)
    for name, one in new.module.named_parameters():
        assert torch.equal(one, fresh[name])
    for name, one in model.module.named_parameters():
        assert torch.equal(one, before[name])


def test_one_stage_changes_that_stage_alone():
    model = wrap_model(tiny_bert())
    fresh = fresh_weights(model.module, 3)
    part = stages(model.module)[1]
    changed = dict(randomised(model, [part], fresh).module.named_parameters())
    for name, one in model.module.named_parameters():
        assert torch.equal(changed[name], one) == (name not in part.parameters or _constant(one))


def _constant(weight):
    return bool((weight == weight.flatten()[0]).all())  # biases and scales start where they stay


def test_fresh_weights_depend_on_the_seed_alone_and_leave_the_generator_alone():
    module = tiny_bert()
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    a, b, c = (fresh_weights(module, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)
    assert {one.dtype for one in a.values()} == {torch.float64}


def test_fresh_weights_of_transformers_are_those_of_a_new_model():
    module = tiny_bert()
    found = fresh_weights(module, 7)
    torch.manual_seed(7)
    twin = type(module)(module.config)
    assert all(torch.equal(found[name], one.double()) for name, one in twin.named_parameters())


def test_weights_that_cannot_be_initialised_anew_are_refused():
    with pytest.raises(InputError, match="scale"):
        fresh_weights(Plain(keeps_reset=False), 0)


def test_the_new_model_reads_its_own_embeddings():
    model = wrap_model(tiny_bert())
    parts = stages(model.module)
    new = randomised(model, parts[-1:], fresh_weights(model.module, 3))
    ids = torch.tensor([[5, 6, 7]])
    assert not torch.equal(new.embed(ids), model.embed(ids))
    assert new.embedding is not model.embedding
