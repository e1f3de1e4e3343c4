"""What users of the ancestors reported, by number, as laws that hold here.

Numbers without a name are of allenai/allennlp.
"""

import numpy as np
import pytest
import torch
import transformers
from tiny import FrameTokenizer, tiny_bert
from torch import nn

import saliency_bench as sb
from saliency_bench.core.errors import InputError

VOCABULARY, LENGTH = 40, 9
IDS = {"input_ids": [1, 9, 12, 7, 30, 22, 15, 8, 2]}
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "initializer_range": 0.3,
}
DISTIL = {"vocab_size": VOCABULARY, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}
GPT = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
MODULES = {
    "roberta": lambda: transformers.RobertaForSequenceClassification(
        transformers.RobertaConfig(**SIZES, num_labels=3, pad_token_id=0)
    ),
    "distilbert": lambda: transformers.DistilBertForSequenceClassification(
        transformers.DistilBertConfig(**DISTIL, initializer_range=0.3, num_labels=3)
    ),
    "gpt2": lambda: transformers.GPT2ForSequenceClassification(
        transformers.GPT2Config(**GPT, initializer_range=0.3, num_labels=3, pad_token_id=0)
    ),
}
METHODS = {
    "vanilla": {},
    "smoothgrad": {"n_samples": 4},
    "integrated_gradients": {"n_steps": 8, "baseline": "zero"},
}


def module(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODULES[name]().double().eval()


def lookup(module):
    """The layer that looks words up: the only one with a row for every word."""
    (found,) = (
        layer
        for layer in module.modules()
        if isinstance(layer, nn.Embedding) and layer.num_embeddings == VOCABULARY
    )
    return found


def gradients_at_the_lookup(module, ids, label):
    """[T D] by a backward pass written out, at the layer that looks words up."""
    kept = []

    def keep(_, __, output):
        output.retain_grad()
        kept.append(output)

    handle = lookup(module).register_forward_hook(keep)
    try:
        module(input_ids=torch.tensor([ids])).logits[0, label].backward()
    finally:
        handle.remove()
    return kept[0].grad[0].numpy()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["roberta", "distilbert"])
def test_4360_and_4703_no_architecture_gives_all_to_the_first_token(name, method):
    """Every method gave [1, 0, 0, ...] on RoBERTa: gradients were taken at the top, where only the first token counts."""
    model = sb.wrap_model(module(name))
    (found,) = sb.attribute(model, [IDS], method, **METHODS[method])
    shares = np.abs(found.scores) / np.abs(found.scores).sum()
    assert shares.max() < 0.9
    assert (shares[1:] > 1e-6).all()


@pytest.mark.parametrize("name", MODULES)
def test_4360_gradients_are_those_at_the_lookup(name):
    one = module(name)
    (found,) = sb.attribute(sb.wrap_model(one), [IDS], "vanilla", reduction="l2")
    expected = np.linalg.norm(gradients_at_the_lookup(one, IDS["input_ids"], found.target), axis=-1)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-10)


def test_5298_and_transformers_interpret_56_a_sum_that_cancels_is_refused():
    """Summed over the embedding, + and - cancel: behind LayerNorm to exactly nothing, which was normalised and shown."""
    model = sb.wrap_model(module("distilbert"))
    gradients = gradients_at_the_lookup(model.module, IDS["input_ids"], 0)
    assert np.abs(gradients.sum(-1)).max() < 1e-9 * np.abs(gradients).max()
    for method in ("vanilla", "smoothgrad"):
        with pytest.raises(InputError, match=r"sum.*l2"):
            sb.attribute(model, [IDS], method, reduction="sum")
        for reduction in ("l1", "l2"):
            (found,) = sb.attribute(model, [IDS], method, reduction=reduction)
            assert (found.scores > 0).all()


def test_5298_the_sign_is_kept_where_the_input_is_multiplied_in():
    """What the maintainer of transformers-interpret wanted of the sum."""
    (found,) = sb.attribute(
        sb.wrap_model(module("roberta")), [IDS], "integrated_gradients", baseline="zero"
    )
    assert found.setting["reduction"] == "sum"
    assert found.scores.min() < 0 < found.scores.max()
    assert found.scores.sum() == pytest.approx(
        found.output_difference, abs=1e-3 * abs(found.output_difference)
    )


def test_3442_smoothgrad_gives_the_same_scores_every_time():
    """Every run gave other scores, and nothing could be seeded."""
    model = sb.wrap_model(module("roberta"))
    scores = []
    for state in (1, 2):
        torch.manual_seed(state)
        scores.append(sb.attribute(model, [IDS], "smoothgrad", n_samples=4)[0].scores)
    np.testing.assert_array_equal(*scores)
    (other,) = sb.attribute(model, [IDS], "smoothgrad", n_samples=4, seed=1)
    assert not np.allclose(other.scores, scores[0], rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_4745_gpt2_has_a_score_for_every_token(method):
    """Embeddings and gradients of GPT-2 were of different number."""
    (found,) = sb.attribute(sb.wrap_model(module("gpt2")), [IDS], method, **METHODS[method])
    assert found.scores.shape == (LENGTH,) == (len(found.token_ids),)
    assert (np.abs(found.scores) > 0).all()


def count_at_the_first_block(module):
    """What passes from the embeddings to the first block, and what comes back: rows and tokens of each."""
    embeddings, gradients = [], []

    def watch(_, inputs):
        if inputs[0].requires_grad:
            embeddings.append(tuple(inputs[0].shape[:2]))
            inputs[0].register_hook(lambda gradient: gradients.append(tuple(gradient.shape[:2])))

    module.transformer.h[0].register_forward_pre_hook(watch)
    return embeddings, gradients


@pytest.mark.parametrize("method", METHODS)
def test_4745_gpt2_that_predicts_the_next_token_has_a_gradient_for_every_embedding(method):
    """The report was about the language model, whose lookup has the weights of its output too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = GPT | {"initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2}
        one = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).double().eval()
    assert one.lm_head.weight is one.transformer.wte.weight
    model = sb.wrap_model(one, task="text-generation")
    ids = {"input_ids": IDS["input_ids"][:-1]}
    (found,) = sb.attribute(model, [ids], "vanilla", reduction="l2")
    kept, length = [], len(ids["input_ids"])

    def keep(_, __, output):
        output.retain_grad()
        kept.append(output)

    handle = one.transformer.wte.register_forward_hook(keep)
    one(input_ids=torch.tensor([ids["input_ids"]])).logits[0, -1, found.target].backward()
    handle.remove()
    expected = np.linalg.norm(kept[0].grad[0].numpy(), axis=-1)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-10)
    embeddings, gradients = count_at_the_first_block(one)
    (found,) = sb.attribute(model, [ids], method, **METHODS[method])
    assert found.scores.shape == (length,) == (len(found.token_ids),)
    assert (np.abs(found.scores) > 0).all()
    assert gradients and sorted(gradients) == sorted(embeddings)
    assert {n_tokens for _, n_tokens in gradients} == {length}


def test_5582_a_model_says_of_a_text_what_it_says_without_us(folder):
    """Loaded to be explained, a model of transformers answered otherwise, and it took much code."""
    model = sb.load_model(str(folder), device="cpu")
    (found,) = sb.attribute(model, ["the film and w1 w2"], "vanilla")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = plain(**tokenizer("the film and w1 w2", return_tensors="pt")).logits[0]
    assert found.target == int(logits.argmax())
    assert found.probability == pytest.approx(float(logits.softmax(-1).max()), rel=1e-6)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
            ],
        ),
    ],
)
def test_5652_words_and_scores_are_on_the_host_wherever_the_model_is(folder, device):
    """Scores of word pieces were joined by .numpy() on a tensor of the GPU."""
    model = sb.load_model(str(folder), device=device)
    (found,) = sb.attribute(model, ["the film and w1 w2"], "integrated_gradients", n_steps=4)
    assert isinstance(found.scores, np.ndarray) and found.scores.dtype == np.float64
    inner = sum(score for (_, score), own in zip(found, found.attributable, strict=True) if own)
    assert sum(word.score for word in found.words()) == pytest.approx(inner, rel=1e-9)


def test_3679_and_3756_a_frozen_embedding_still_has_gradients():
    """Gradients came back empty where the embedding was not trained."""
    one = tiny_bert()
    model = sb.wrap_model(one, FrameTokenizer())
    (free,) = sb.attribute(model, [IDS], "vanilla")
    one.requires_grad_(False)
    (frozen,) = sb.attribute(model, [IDS], "vanilla")
    np.testing.assert_array_equal(frozen.scores, free.scores)
    assert not any(weight.requires_grad for weight in one.parameters())


def test_4778_no_hook_is_left_when_the_model_fails(monkeypatch):
    """After an exception the hooks stayed, and spoilt every later answer."""
    one = tiny_bert()
    model = sb.wrap_model(one, FrameTokenizer())
    (before,) = sb.attribute(model, [IDS], "smoothgrad", n_samples=4)
    calls = []
    forward = type(one).forward

    def fails_later(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > 5:
            raise RuntimeError("the model broke")
        return forward(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(type(one), "forward", fails_later)
        with pytest.raises(RuntimeError, match="broke"):
            sb.attribute(model, [IDS], "smoothgrad", n_samples=4, token_budget=LENGTH)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in one.modules())
    (after,) = sb.attribute(model, [IDS], "smoothgrad", n_samples=4)
    np.testing.assert_array_equal(after.scores, before.scores)
