"""A layer that adds positions and token types to its words: what is removed or a baseline is a token, as by its id.

The oracle is the plain module, asked about ids in which the token was exchanged.
"""

import numpy as np
import pytest
import torch
from tiny_heads import SIZES, word_tokenizer
from torch import nn

import saliency_bench as sb
from saliency_bench.core.errors import InputError
from saliency_bench.models.references import References

TEXT = "the capital of france is"
PAIR = ("the capital of france", "paris is a rome")
COMPOSITES = {"encoder": "bert"}, {"embeddings": "bert.embeddings"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return word_tokenizer(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def module():
    from transformers import BertConfig, BertForSequenceClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return BertForSequenceClassification(BertConfig(**SIZES, num_labels=3)).double().eval()


@pytest.fixture(params=COMPOSITES, ids=["encoder", "embeddings"])
def composite(request, module, tokenizer):
    return sb.wrap_model(module, tokenizer, **request.param)


@torch.no_grad()
def said(module, tokenizer, text, *, masked=()):
    """The plain module's logits of a text with [MASK] at some places."""
    given = tokenizer(*([text] if isinstance(text, str) else text), return_tensors="pt")
    given["input_ids"][0, list(masked)] = tokenizer.mask_token_id
    return module(**given).logits[0]


@pytest.mark.parametrize("text", [TEXT, PAIR], ids=["single", "pair"])
def test_leaving_one_out_is_exchanging_its_id(composite, module, tokenizer, text):
    (found,) = sb.attribute(
        composite, [text], "leave_one_out", removal="mask", output="logit", target=0
    )
    whole = said(module, tokenizer, text)[0]
    for place, free in enumerate(found.attributable):
        expected = whole - said(module, tokenizer, text, masked=[place])[0] if free else 0.0
        # Both are the same passes but for how embeddings come in: a few roundings of logits near one.
        assert found.scores[place] == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("text", [TEXT, PAIR], ids=["single", "pair"])
@pytest.mark.parametrize("special", ["keep", "replace"])
def test_a_path_from_the_mask_starts_where_the_ids_are_masks(
    composite, module, tokenizer, text, special
):
    (found,) = sb.attribute(
        composite, [text], baseline="mask", baseline_special_tokens=special, target=0, n_steps=64
    )
    places = [p for p, free in enumerate(found.attributable) if free or special == "replace"]
    change = said(module, tokenizer, text)[0] - said(module, tokenizer, text, masked=places)[0]
    assert found.output_difference == pytest.approx(float(change), abs=1e-12)
    # What 64 Gauss-Legendre nodes leave over in a model as sharp as this one is far below what a wrong start gives.
    assert abs(found.completeness_gap) < 1e-3


def test_integrated_gradients_from_the_mask_are_those_of_the_layers_output(
    composite, module, tokenizer
):
    """Written out: a hook that moves the layer's output from that of masks to that of the text."""
    (found,) = sb.attribute(composite, [PAIR], baseline="mask", target=0, n_steps=3)
    given = dict(tokenizer(*PAIR, return_tensors="pt"))
    layer = module.bert.embeddings
    free = torch.tensor(found.attributable)
    masked = given["input_ids"].masked_fill(free, tokenizer.mask_token_id)
    with torch.no_grad():
        end, start = (
            layer(input_ids=ids, token_type_ids=given["token_type_ids"])
            for ids in (given["input_ids"], masked)
        )
    nodes, weights = np.polynomial.legendre.leggauss(3)
    total = torch.zeros_like(end)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        point = (start + node * (end - start)).requires_grad_()
        handle = layer.register_forward_hook(lambda *_, point=point: point)
        score = module(**given).logits[0, 0]
        handle.remove()
        total += weight * torch.autograd.grad(score, point)[0]
    expected = (total * (end - start))[0].sum(-1)
    np.testing.assert_allclose(found.scores, expected.numpy(), rtol=1e-9, atol=1e-12)


def test_judging_by_removal_asks_about_exchanged_ids(composite, module, tokenizer):
    maps = sb.attribute(composite, [TEXT, PAIR], "vanilla", target=0)
    table = sb.evaluate(composite, maps, ["comprehensiveness"], removal="mask", grid=[0.5])
    for one, value in zip(maps, table["value"], strict=True):
        text = (TEXT, PAIR)[one.input_index]
        free = np.flatnonzero(one.attributable)
        top = free[np.argsort(-one.scores[free])][: -(-len(free) // 2)]
        whole, without = (
            said(module, tokenizer, text, masked=masked).softmax(-1)[0] for masked in ([], top)
        )
        assert value == pytest.approx(float(whole - without), abs=1e-12)


def test_a_pair_is_explained_alike_alone_and_after_a_single_text(composite):
    alone = sb.attribute(composite, [PAIR], "vanilla")
    beside = sb.attribute(composite, [TEXT, PAIR], "vanilla")
    assert beside[1].scores.tolist() == alone[0].scores.tolist()
    assert beside[1].probability == alone[0].probability


def test_words_as_a_baseline_and_texts_as_references_stand_at_their_places(composite, module):
    """Of two texts of one length, the path from the one to the other ends at the other's logits."""
    (other,) = sb.attribute(composite, ["a rome is what of"], "vanilla", target=0)
    (found,) = sb.attribute(composite, [TEXT], baseline="text:a rome is what of", target=0)
    with torch.no_grad():
        change = [
            module(input_ids=torch.tensor([one.token_ids])).logits[0, 0] for one in (found, other)
        ]
    assert found.output_difference == pytest.approx(float(change[0] - change[1]), abs=1e-12)


def test_the_unit_of_noise_is_the_deviation_of_the_layers_outputs(composite, module):
    with torch.no_grad():
        ids = torch.arange(SIZES["vocab_size"]).view(-1, 5)
        expected = float(module.bert.embeddings(input_ids=ids).std(correction=0))
    assert References(composite).embedding_std == pytest.approx(expected, rel=1e-12)
    assert np.isfinite(sb.attribute(composite, [TEXT], "smoothgrad")[0].scores).all()


def test_the_vocabulary_is_embedded_without_what_lies_behind_the_layer(composite, module):
    _ = composite.vocabulary  # seen in a whole pass, once
    calls = []
    with module.classifier.register_forward_hook(lambda *_: calls.append(1)):
        assert composite.each_token().shape == (SIZES["vocab_size"], SIZES["hidden_size"])
    assert calls == []


@pytest.mark.parametrize("baseline", ["mean", "uniform", "max_entropy"])
def test_what_is_of_a_table_of_vectors_is_refused(composite, baseline):
    with pytest.raises(InputError, match="another vector at each place"):
        sb.attribute(composite, [TEXT], baseline=baseline)


class Mixing(nn.Module):
    """Embeddings in which a token's vector depends on its neighbour's id."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(40, 8)

    def forward(self, input_ids):
        own = self.words(input_ids)
        return own + own.roll(1, 1)


class Reader(nn.Module):
    """A classifier over them."""

    def __init__(self):
        super().__init__()
        self.embeddings = Mixing()
        self.head = nn.Linear(8, 3)

    def forward(self, input_ids, **_):
        return self.head(self.embeddings(input_ids).tanh().mean(1))


def test_a_layer_that_mixes_tokens_has_no_vector_for_one(tokenizer):
    torch.manual_seed(0)
    model = sb.wrap_model(Reader(), tokenizer, embeddings="embeddings")
    assert len(sb.attribute(model, [TEXT], "vanilla")) == 1
    with pytest.raises(InputError, match="which tokens stand beside it"):
        sb.attribute(model, [TEXT], baseline="mask")


def test_ids_beyond_the_table_beneath_are_refused(composite):
    with pytest.raises(InputError, match=r"0 \.\.\. 39"):
        sb.attribute(composite, [{"input_ids": [2, 40, 3]}], "vanilla")
