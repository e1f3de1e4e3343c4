"""Finding the embedding layer, replacing its output, leaving the model as found."""

import pytest
import torch
from tiny import VOCABULARY, tiny_bert
from torch import nn

import saliency_bench as sb
from saliency_bench.core.errors import InputError

IDS = torch.tensor([[5, 9, 7, 6], [8, 5, 11, 30]])


def classifier(config):
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config).double().eval()


def configurations():
    import transformers as t

    small = {"vocab_size": VOCABULARY, "num_labels": 2}
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    return {
        "bert": t.BertConfig(**small, **sizes),
        "roberta": t.RobertaConfig(**small, **sizes, pad_token_id=1),
        "electra": t.ElectraConfig(**small, **sizes, embedding_size=8),
        "distilbert": t.DistilBertConfig(**small, dim=16, n_layers=1, n_heads=2, hidden_dim=16),
        "gpt2": t.GPT2Config(
            **small, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
        ),
        "llama": t.LlamaConfig(
            **small, **sizes, num_key_value_heads=2, bos_token_id=0, eos_token_id=0
        ),
        "bart": t.BartConfig(
            **small,
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=2,
            decoder_start_token_id=2,
        ),
        "t5": t.T5Config(
            **small,
            d_model=16,
            d_kv=8,
            d_ff=16,
            num_layers=1,
            num_heads=2,
            decoder_start_token_id=0,
        ),
    }


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "gpt2", "llama"])
def test_embeddings_replaced_by_themselves_change_nothing(family):
    model = sb.wrap_model(classifier(configurations()[family]))
    assert isinstance(model.embedding, nn.Embedding)
    assert model.embedding.num_embeddings == VOCABULARY
    plain = model.output(IDS)
    assert torch.equal(model.output(IDS, embeddings=model.embed(IDS)), plain)
    assert not torch.equal(model.output(IDS, embeddings=model.embed(IDS) * 1.1), plain)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_without_a_pad_token_a_block_gives_what_each_text_gives_alone(family):
    module = classifier(configurations()[family])
    assert module.config.pad_token_id is None
    model = sb.wrap_model(module)
    together = model.output(IDS)
    assert module.config.pad_token_id is None
    for row, found in zip(IDS, together, strict=True):
        # One matrix product per row or for both: a few float64 rounding errors of logits of size 1.
        torch.testing.assert_close(model.output(row[None])[0], found, rtol=0, atol=1e-12)


def test_a_layer_that_is_called_twice_is_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, 4)

        def forward(self, input_ids):
            return (self.embedding(input_ids) + self.embedding(input_ids)).sum(1)

    with pytest.raises(InputError, match="embedding, embedding"):
        sb.wrap_model(Twice())


def test_a_module_without_embeddings_is_refused():
    with pytest.raises(InputError, match="embeddings="):
        sb.wrap_model(nn.Linear(3, 2))


def test_the_embedding_can_be_named_by_path_or_given():
    module = tiny_bert()
    path = "bert.embeddings.word_embeddings"
    by_path = sb.wrap_model(module, embeddings=path)
    given = sb.wrap_model(module, embeddings=module.get_submodule(path))
    assert by_path.embedding is given.embedding is sb.wrap_model(module).embedding
    with pytest.raises(InputError, match=r"did you mean 'bert\.embeddings\.word_embeddings'"):
        sb.wrap_model(module, embeddings="bert.embeddings.word_embedding")


def test_a_named_layer_that_does_not_fire_is_refused_when_used():
    module = tiny_bert()
    model = sb.wrap_model(module, embeddings=nn.Embedding(VOCABULARY, 16).double())
    with pytest.raises(InputError, match="called 0 times"):
        model.output(IDS, embeddings=torch.zeros(2, 4, 16, dtype=torch.float64))


def test_frozen_restores_modes_and_flags_also_after_an_error():
    module = tiny_bert().train()
    module.bert.pooler.eval()
    module.classifier.bias.requires_grad_(False)
    model = sb.wrap_model(module)
    modes = [layer.training for layer in module.modules()]
    flags = [weight.requires_grad for weight in module.parameters()]
    with pytest.raises(ZeroDivisionError), model.frozen():
        assert not any(layer.training for layer in module.modules())
        assert not any(weight.requires_grad for weight in module.parameters())
        raise ZeroDivisionError
    assert [layer.training for layer in module.modules()] == modes
    assert [weight.requires_grad for weight in module.parameters()] == flags


def test_a_custom_forward_is_called_instead():
    module = tiny_bert()
    calls = []

    def forward(module, inputs):
        calls.append(sorted(inputs))
        return module(**inputs).logits * 2

    model = sb.wrap_model(module, forward=forward)
    plain = sb.wrap_model(module).output(IDS)
    assert torch.equal(model.output(IDS, torch.ones_like(IDS).bool()), plain * 2)
    assert calls[-1] == ["attention_mask", "input_ids"]


def test_a_model_that_pools_at_the_end_of_the_text_is_watched_with_one():
    model = sb.wrap_model(classifier(configurations()["bart"]))
    ids = torch.tensor([[5, 9, 7, 2]])
    assert torch.equal(model.output(ids, embeddings=model.embed(ids)), model.output(ids))


def test_watching_leaves_a_training_module_as_it_was():
    class Normalized(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, 4)
            self.norm = nn.BatchNorm1d(4)

        def forward(self, input_ids):
            return self.norm(self.embedding(input_ids).mean(1))

    module = Normalized().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    random_state = torch.get_rng_state()
    sb.wrap_model(module)  # its digest takes 0-dimensional buffers too
    assert module.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_module_that_must_have_a_mask_gets_one():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, 2)

        def forward(self, input_ids, attention_mask):
            return (self.embedding(input_ids) * attention_mask[:, :, None]).tanh().sum(1)

    plain = sb.wrap_model(Masked())
    custom = sb.wrap_model(
        plain.module,
        forward=lambda module, inputs: module(inputs["input_ids"], inputs["attention_mask"]),
    )
    inputs = [{"input_ids": [5, 6, 7]}]
    (one,), (other,) = (
        sb.attribute(model, inputs, baseline="zero", n_steps=2) for model in (plain, custom)
    )
    assert one.scores.tolist() == other.scores.tolist()


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_text_that_is_read_twice_is_replaced_twice(family):
    """What its embeddings say is all that a model knows of a text: other ids beneath them change nothing."""
    model = sb.wrap_model(classifier(configurations()[family]))
    assert len(model.intake.echoes) == 1
    end = model.module.config.eos_token_id
    ids, other = torch.tensor([[5, 9, 7, 6, end], [5, 11, 30, 8, end]])[:, None]
    read = model.output(ids, embeddings=model.embed(other))
    torch.testing.assert_close(read, model.output(other), rtol=0, atol=1e-12)


@pytest.mark.parametrize("end", [3, 10, 17, 24, 31])
def test_it_is_so_whichever_token_ends_a_text(end):
    """BART refuses rows that do not hold it equally often, so that nothing would be seen of how it reads."""
    config = configurations()["bart"]
    config.eos_token_id = end
    assert len(sb.wrap_model(classifier(config)).intake.echoes) == 1


class Unusual(nn.Module):
    """Embeddings [T B D], or longer than the text, or edited in place."""

    def __init__(self, way):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 4).double()
        self.way = way

    def forward(self, input_ids):
        if self.way == "time first":
            return self.embedding(input_ids.T).transpose(0, 1).cumsum(1).tanh().sum(1)
        if self.way == "padded":
            longer = nn.functional.pad(input_ids, (0, 3))
            return self.embedding(longer).cumsum(1).tanh().sum(1)
        embeddings = self.embedding(input_ids)
        embeddings *= 2
        return embeddings.cumsum(1).tanh().sum(1)


@pytest.mark.parametrize("way", ["time first", "padded", "in place"])
@pytest.mark.parametrize("length", [2, 5])  # two rows: of two tokens [T B] looks like [B T]
def test_unusual_embeddings_are_replaced_too(way, length):
    model = sb.wrap_model(Unusual(way))
    ids = torch.arange(1, 2 * length + 1).reshape(2, length)
    other = ids.flip(0, 1)
    with model.frozen(), torch.enable_grad():
        embeddings = model.embed(other).requires_grad_()
        before = embeddings.detach().clone()
        found = model.output(ids, embeddings=embeddings)
        found.sum().backward()
    assert torch.equal(found, model.output(other))
    assert torch.equal(embeddings, before)
    assert (embeddings.grad != 0).any(-1).all()
