"""What is known of a model does not depend on what it is wrapped in. The right values are the bare module's own."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import VOCABULARY, FrameTokenizer, tiny_bert, token_inputs
from torch import nn

import saliency_bench as sb
from saliency_bench.core.errors import InputError

IDS = [2, 10, 11, 12, 13, 3]
TEXT = {"input_ids": IDS}


class Inside(nn.Module):
    """A module of one's own around another."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        """The inner module's logits."""
        return self.inner(input_ids, attention_mask, token_type_ids).logits * self.scale


class HandsOn(nn.Module):
    """A wrapper that hands on whatever it is given, and has a configuration of another kind."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.config = SimpleNamespace(dropout=0.1)

    def forward(self, *args, **named):
        """Whatever the inner module returns."""
        return self.inner(*args, **named)


WRAPPERS = [nn.DataParallel, Inside, HandsOn, lambda one: nn.DataParallel(Inside(one))]


def multi_label():
    module = tiny_bert()
    module.config.problem_type = "multi_label_classification"
    module.config.id2label = {0: "joy", 1: "anger", 2: "fear"}
    module.config.pad_token_id = 0
    return module


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_facts_are_those_of_the_model_inside(wrapper):
    bare = multi_label()
    expected = bare(torch.tensor([IDS])).logits[0].sigmoid().max().item()
    model, plain = (sb.wrap_model(one, FrameTokenizer()) for one in (wrapper(bare), bare))
    assert (model.multi_label, model.labels) == (True, ("joy", "anger", "fear"))
    assert (model.max_length, model.pad_token_id) == (plain.max_length, plain.pad_token_id)
    assert sb.wrap_model(wrapper(bare)).pad_token_id == 0
    (found,) = sb.attribute(model, [TEXT], "vanilla", reduction="l2")
    np.testing.assert_allclose(found.probability, expected, rtol=1e-12)
    with pytest.raises(InputError, match=r"65 tokens, but .* takes 64"):
        sb.attribute(model, [{"input_ids": [5] * 65}], "vanilla", reduction="l2")


@pytest.mark.parametrize("wrapper", [nn.DataParallel, HandsOn])
def test_inputs_that_a_wrapper_hands_on_are_the_inner_models(wrapper):
    bare = tiny_bert()
    places = [5, 9, 7, 8, 6, 10]
    expected = bare(torch.tensor([IDS]), position_ids=torch.tensor([places])).logits[0]
    model = sb.wrap_model(wrapper(bare), FrameTokenizer())
    given = [TEXT | {"position_ids": places}]
    (found,) = sb.attribute(model, given, "vanilla", reduction="l2")
    np.testing.assert_allclose(found.probability, expected.softmax(-1).max().item(), rtol=1e-12)


def test_a_wrapped_model_without_a_pad_token_takes_blocks():
    from transformers import GPT2Config, GPT2ForSequenceClassification

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    bare = GPT2ForSequenceClassification(config).double().eval()
    inputs = token_inputs(6, 6)
    plain = sb.attribute(sb.wrap_model(bare), inputs, "vanilla", reduction="l2")
    found = sb.attribute(sb.wrap_model(nn.DataParallel(bare)), inputs, "vanilla", reduction="l2")
    for one, other in zip(plain, found, strict=True):
        assert np.array_equal(one.scores, other.scores)
    assert config.pad_token_id is None


class OwnHead(nn.Module):
    """A head of one's own on an encoder that was fine-tuned for something else."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(16, 3, dtype=torch.float64)

    def forward(self, input_ids, attention_mask=None):
        """[B 3]."""
        return self.head(self.encoder(input_ids, attention_mask).last_hidden_state[:, 0])


def test_an_encoder_says_nothing_of_a_head_that_is_not_its_own():
    model = sb.wrap_model(OwnHead(multi_label().bert))
    assert not model.multi_label
    assert model.labels == ()
    assert model.max_length == 64


class Ensemble(nn.Module):
    """The mean of two classifiers."""

    def __init__(self, one, other):
        super().__init__()
        self.one, self.other = one, other

    def forward(self, input_ids):
        """[B C]."""
        embeddings = self.one.bert.embeddings.word_embeddings(input_ids)
        return (
            self.one(inputs_embeds=embeddings).logits + self.other(inputs_embeds=embeddings).logits
        )


def test_what_two_models_inside_say_differently_is_not_known():
    one, other = multi_label(), multi_label()
    other.config.id2label = {0: "a", 1: "b", 2: "c"}
    model = sb.wrap_model(Ensemble(one, other))
    assert model.multi_label
    assert model.labels == ()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({str(i): f"class{i}" for i in range(12)}, [f"class{i}" for i in range(12)]),
        ({11 - i: f"class{11 - i}" for i in range(12)}, [f"class{i}" for i in range(12)]),
        ({i + 1: f"class{i}" for i in range(12)}, [f"LABEL_{i}" for i in range(12)]),
        ({f"c{i}": f"class{i}" for i in range(12)}, [f"LABEL_{i}" for i in range(12)]),
    ],
)
def test_a_class_has_the_name_of_its_number(names, expected):
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        num_labels=12,
    )
    module = BertForSequenceClassification(config).double().eval()
    module.config.id2label = names  # as json.load gives them
    found = sb.attribute(sb.wrap_model(module), [TEXT], "vanilla", reduction="l2", target="all")
    assert [one.label for one in found] == expected


SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": VOCABULARY,
    "num_labels": 2,
    "max_position_embeddings": 20,
    "pad_token_id": 1,
}
#: Families that count positions from 0, from the pad id, and in tables that pad themselves.
COUNTING = [
    "bert",
    "roberta",
    "xlm-roberta-xl",
    "roberta-prelayernorm",
    "longformer",
    "data2vec-text",
    "mpnet",
]


@pytest.mark.parametrize("wrapper", [lambda one: one, nn.DataParallel])
@pytest.mark.parametrize("kind", COUNTING)
def test_the_longest_text_is_the_longest_that_the_model_takes(kind, wrapper):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    more = {"attention_window": [4]} if kind == "longformer" else {}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES, **more)
    config.max_position_embeddings = 20
    module = AutoModelForSequenceClassification.from_config(config).eval()

    def takes(length):
        try:
            with torch.no_grad():
                module(input_ids=torch.full((1, length), 7))
        except (IndexError, RuntimeError):
            return False
        return True

    longest = max(length for length in range(5, 25) if takes(length))
    assert sb.wrap_model(wrapper(module)).max_length == longest


class Probabilities(nn.Module):
    """A classifier whose outputs go through a function first."""

    def __init__(self, of):
        super().__init__()
        self.inner, self.of = tiny_bert(), of

    def forward(self, input_ids, attention_mask=None):
        """Whatever `of` makes of the logits."""
        return self.of(self.inner(input_ids, attention_mask).logits)


def halves(logits):
    """Both probabilities of one logit."""
    yes = logits[:, 0].sigmoid()
    return torch.stack([1 - yes, yes], 1)


@pytest.mark.parametrize("of", [lambda x: x.softmax(-1), lambda x: x.sigmoid(), halves])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_probabilities_are_not_taken_for_logits(of, dtype):
    model = sb.wrap_model(Probabilities(of).to(dtype))
    with pytest.raises(InputError, match="are probabilities"):
        sb.attribute(model, [TEXT], "vanilla", reduction="l2")


@pytest.mark.parametrize(
    "of", [lambda x: x.sigmoid() * 2, lambda x: x * 1e-3 + 0.5, lambda x: x.log_softmax(-1)]
)
def test_logits_may_lie_between_0_and_1(of):
    model = sb.wrap_model(Probabilities(of))
    assert sb.attribute(model, [TEXT], "vanilla", reduction="l2")


def test_the_logarithm_of_probabilities_is_a_logit():
    """softmax(log p) = p: what the refusal says to do gives the model's own numbers."""
    module = Probabilities(lambda x: x.softmax(-1))
    log = sb.wrap_model(module, forward=lambda module, inputs: module(**inputs).log())
    plain = sb.wrap_model(module.inner)
    for output in ("probability", "log_probability"):
        found, expected = (
            sb.attribute(one, [TEXT], "integrated_gradients", output=output, baseline="zero")[0]
            for one in (log, plain)
        )
        np.testing.assert_allclose(found.probability, expected.probability, rtol=1e-12)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-8, atol=1e-12)


def reranker():
    """A model of transformers with one output."""
    from transformers import BertForSequenceClassification

    config = tiny_bert().config
    config.num_labels = 1
    torch.manual_seed(0)
    return BertForSequenceClassification(config).double().eval()


@pytest.mark.parametrize(
    ("build", "read"),
    [
        (lambda: Probabilities(lambda x: x[:, :1]), lambda out: out[0, 0]),
        (lambda: Probabilities(lambda x: x[:, 0]), lambda out: out[0]),
        (reranker, lambda out: out.logits[0, 0]),
    ],
)
def test_one_output_is_refused_with_the_way_that_works(build, read):
    module = build()
    with pytest.raises(InputError, match=r"give \[0, z\]") as refused:
        sb.attribute(sb.wrap_model(module), [TEXT], "vanilla", reduction="l2")
    line = str(refused.value).partition("forward=")[2]
    model = sb.wrap_model(module, forward=eval(line, {"torch": torch}))  # as the message has it
    (found,) = sb.attribute(model, [TEXT], "vanilla", reduction="l2", target=1)
    z = read(module(torch.tensor([IDS])))
    np.testing.assert_allclose(found.probability, z.sigmoid().item(), rtol=1e-10)


class Extra(nn.Module):
    """A module whose state is no tensor alone."""

    def __init__(self):
        super().__init__()
        self.inner = tiny_bert()

    def get_extra_state(self):
        """Anything."""
        return {"step": 3}

    def set_extra_state(self, state):
        """Nothing."""

    def forward(self, input_ids):
        """[B C]."""
        return self.inner(input_ids).logits


class Counting(nn.Module):
    """A module whose first parameter is a whole number."""

    def __init__(self):
        super().__init__()
        self.steps = nn.Parameter(torch.ones(1, dtype=torch.int64), requires_grad=False)
        self.inner = tiny_bert()

    def forward(self, input_ids):
        """[B C]."""
        return self.inner(input_ids).logits


class Buffered(nn.Module):
    """A module of buffers alone."""

    def __init__(self):
        super().__init__()
        self.inner = tiny_bert()
        for part in self.inner.modules():
            for name, one in list(part.named_parameters(recurse=False)):
                delattr(part, name)
                part.register_buffer(name, one.detach())

    def forward(self, input_ids):
        """[B C]."""
        return self.inner(input_ids).logits


@pytest.mark.parametrize("kind", [Extra, Counting, Buffered])
def test_a_state_of_any_kind_is_no_obstacle(kind):
    module = kind()
    (expected,) = sb.attribute(sb.wrap_model(tiny_bert()), [TEXT], "smoothgrad", reduction="l2")
    model = sb.wrap_model(module)
    assert model.dtype == torch.float64
    (found,) = sb.attribute(model, [TEXT], "smoothgrad", reduction="l2")
    assert np.array_equal(found.scores, expected.scores)
    assert sb.evaluate(model, [found], "srg", removal="zero")["status"].eq("ok").all()


#: Families that look token types up as words, and how their configuration calls its sizes.
TYPED = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "initializer_range": 0.4},
    "openai-gpt": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "ctrl": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "dff": 16},
    "gptj": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "rotary_dim": 4},
}


@pytest.mark.parametrize("wrapper", [lambda one: one, nn.DataParallel])
@pytest.mark.parametrize("kind", TYPED)
def test_token_types_that_are_looked_up_as_words_stay_what_they_are(kind, wrapper):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=VOCABULARY, num_labels=2, pad_token_id=0, **TYPED[kind]
    )
    module = AutoModelForSequenceClassification.from_config(config).double().eval()
    types = [0, 0, 0, 1, 1, 1]
    model = sb.wrap_model(wrapper(module))
    table = model.embedding.weight
    logits = module(torch.tensor([IDS]), token_type_ids=torch.tensor([types])).logits[0]
    # Types are 0 and 1 and no token is, so that the rows of the text's tokens are met by these alone.
    (gradient,) = torch.autograd.grad(logits.max(), table)
    scale = model.embed(torch.tensor([IDS]))[0].norm() / table[IDS].norm()
    given = [TEXT | {"token_type_ids": types}]
    (found,) = sb.attribute(model, given, "vanilla", reduction="l2")
    np.testing.assert_allclose(found.probability, logits.softmax(-1).max().item(), rtol=1e-10)
    np.testing.assert_allclose(
        found.scores, (gradient[IDS] / scale).norm(dim=-1).detach(), rtol=1e-8
    )
    table.requires_grad_(False)


class Longer(FrameTokenizer):
    """A tokenizer to which a word, a mask and a pad token were added."""

    pad_token_id, mask_token_id, unk_token_id = VOCABULARY + 1, VOCABULARY + 2, 4
    unk_token = "[UNK]"
    all_special_ids = (1, 2, VOCABULARY + 1, VOCABULARY + 2)

    def __call__(self, text, **options):
        """As `FrameTokenizer`; a word of nine letters is the new one, of eight unknown."""
        found = super().__call__(text, **options)
        if isinstance(text, str):
            ids = found["input_ids"]
            new = {9: VOCABULARY, 8: self.unk_token_id}
            start = int(options.get("add_special_tokens", True))
            for place, word in enumerate(text.split()):
                ids[start + place] = new.get(len(word), ids[start + place])
        return found


def test_tokens_without_an_embedding_are_refused_by_name():
    model = sb.wrap_model(tiny_bert(), Longer())
    with pytest.raises(InputError, match=r"inputs\[1\].*50 \(t50\).*resize_token_embeddings"):
        sb.attribute(model, ["good film", "good ninechars"], "vanilla", reduction="l2")
    with pytest.raises(InputError, match=r"inputs\[0\].*resize_token_embeddings"):
        sb.attribute(model, [{"input_ids": [5, VOCABULARY]}], "vanilla", reduction="l2")
    with pytest.raises(InputError, match="resize_token_embeddings"):
        sb.attribute(model, ["good film"], "integrated_gradients", baseline="text:ninechars")


def test_a_pad_or_mask_token_without_an_embedding_is_none():
    module = tiny_bert()
    module.config.pad_token_id = None
    model = sb.wrap_model(module, Longer())
    assert model.pad_token_id is None
    (found,) = sb.attribute(model, ["good film"], "integrated_gradients", baseline="mask")
    assert found.setting["baseline"] == "zero"
    judged = sb.evaluate(model, [found], "srg", removal="mask")
    assert judged["removal"].tolist() == ["zero"]
    assert judged["status"].tolist() == ["ok"]


@pytest.mark.parametrize(("text", "told"), [("eightlet eightlet b", True), ("eightlet a b", False)])
def test_texts_that_the_tokenizer_does_not_know_are_said(text, told):
    model = sb.wrap_model(tiny_bert(), Longer())
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        sb.attribute(model, [text], "vanilla", reduction="l2")
    assert any("2 of 3 tokens are [UNK]" in str(one.message) for one in seen) == told
