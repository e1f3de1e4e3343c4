"""Any module, however its embedding layer is named, it is called, fed or answers: the same maps."""

import numpy as np
import pytest
import torch
from tiny import FrameTokenizer
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers.modeling_outputs import SequenceClassifierOutput

import saliency_bench as sb
from saliency_bench.core.errors import InputError

TEXTS = [[1, 9, 12, 7, 30, 2], [1, 5, 8, 2], [1, 22, 21, 20, 19, 2], [1, 33, 2]]


class Embeddings(nn.Module):
    """Words and positions, as a BERT's `embeddings` are."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(40, 8)
        self.positions = nn.Embedding(16, 8)

    def forward(self, input_ids):
        return self.word_embeddings(input_ids) + self.positions.weight[: input_ids.shape[1]]


class Encoder(nn.Module):
    """An encoder with an `embeddings` attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = Embeddings()
        self.mix = nn.Linear(8, 8)

    def forward(self, input_ids, attention_mask):
        hidden = torch.tanh(self.mix(self.embeddings(input_ids)).cumsum(1))
        weights = attention_mask[..., None].to(hidden)
        return (hidden * weights).sum(1) / weights.sum(1)


class Classifier(nn.Module):
    """A classifier of one's own, which answers as it is told to."""

    def __init__(self, answer=lambda logits: logits) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.bert = Encoder()
            self.head = nn.Linear(8, 3)
        self.double().eval()
        self.answer = answer

    def forward(self, input_ids, attention_mask=None):
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self.answer(self.head(self.bert(input_ids, mask)))


class Renamed(Classifier):
    """The same with arguments of other names."""

    def forward(self, words, there):
        return super().forward(words, there)


class Texts(Dataset):
    """A plain dataset of ids."""

    def __init__(self, length=None):
        self.length = length

    def __len__(self):
        return len(TEXTS)

    def __getitem__(self, index):
        ids = TEXTS[index]
        pad = (self.length or len(ids)) - len(ids)
        mask = [1] * len(ids) + [0] * pad
        return {"input_ids": torch.tensor(ids + [0] * pad), "attention_mask": torch.tensor(mask)}


def expected(answer=lambda logits: logits, layer="bert.embeddings.word_embeddings"):
    """∇ of the largest logit at the layer's output, by a backward pass for each text written out."""
    found = []
    for ids in TEXTS:
        module, kept = Classifier(answer), []

        def keep(_, __, output, kept=kept):
            output.retain_grad()
            kept.append(output)

        module.get_submodule(layer).register_forward_hook(keep)
        module.head(module.bert(torch.tensor([ids]), torch.ones(1, len(ids)))).max().backward()
        found.append(kept[0].grad[0].norm(dim=-1).numpy())
    return found


def maps(model, inputs=None):
    given = [{"input_ids": ids} for ids in TEXTS] if inputs is None else inputs
    return [one.scores for one in sb.attribute(model, given, "vanilla", reduction="l2")]


def assert_same(found, wanted):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


NAMED = {
    "found by watching": {},
    "a dotted path": {"embeddings": "bert.embeddings.word_embeddings"},
    "the layer": {"embeddings": lambda module: module.bert.embeddings.word_embeddings},
    "the path of a module that adds positions": {"embeddings": "bert.embeddings"},
    "encoder=": {"encoder": "bert"},
}


@pytest.mark.parametrize("named", NAMED)
def test_however_the_embedding_layer_is_named(named):
    module = Classifier()
    options = {
        key: value(module) if callable(value) else value for key, value in NAMED[named].items()
    }
    # Positions are added: the gradient at the sum is that at its words.
    assert_same(maps(sb.wrap_model(module, FrameTokenizer(), **options)), expected())


class Positions(nn.Embedding):
    """Positions that are handed the ids, for their shape alone; of ids alone they are not asked."""

    def __init__(self, calls_on_ids) -> None:
        super().__init__(16, 8)
        self.calls_on_ids = calls_on_ids

    def forward(self, input_ids, place=None):
        if place is None and not self.calls_on_ids:
            raise ValueError("not enough values to unpack")
        return (
            super().forward(torch.arange(input_ids.shape[1]))
            if place is None
            else super().forward(place)
        )


@pytest.mark.parametrize("calls_on_ids", [True, False])
def test_a_table_of_positions_that_is_handed_the_ids_is_not_the_embedding_layer(calls_on_ids):
    module = Classifier()
    embeddings, positions = module.bert.embeddings, Positions(calls_on_ids).double()
    positions.load_state_dict(embeddings.positions.state_dict())
    embeddings.positions = positions
    embeddings.forward = lambda ids: (
        embeddings.word_embeddings(ids) + positions(ids, place=torch.arange(ids.shape[1]))
    )
    assert_same(maps(sb.wrap_model(module, FrameTokenizer())), expected())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"encoder": "bart"}, r"embeddings.*bart\.embeddings.*bert\.embeddings\.word_embeddings"),
        ({"encoder": "bert", "embeddings": "bert.embeddings"}, "not both"),
        ({"embeddings": "bert.embedings"}, "did you mean"),
    ],
)
def test_a_layer_that_is_not_there_is_refused_with_those_that_are(options, said):
    with pytest.raises(InputError, match=said):
        sb.wrap_model(Classifier(), FrameTokenizer(), **options)


ANSWERS = {
    "a tensor": lambda logits: logits,
    "a tuple": lambda logits: (logits, None),
    "a ModelOutput": lambda logits: SequenceClassifierOutput(logits=logits),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_whatever_the_module_returns(answer):
    model = sb.wrap_model(Classifier(ANSWERS[answer]), FrameTokenizer(), encoder="bert")
    assert_same(maps(model), expected())


def test_what_is_no_logits_is_refused():
    with pytest.raises(InputError, match="expected logits"):
        maps(sb.wrap_model(Classifier(lambda logits: {"scores": logits}), encoder="bert"))


def test_a_module_that_is_called_in_another_way():
    model = sb.wrap_model(
        Renamed(),
        FrameTokenizer(),
        encoder="bert",
        forward=lambda module, inputs: module(
            inputs["input_ids"], inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
        ),
    )
    assert_same(maps(model), expected())


FED = {
    "a list": lambda: [{"input_ids": ids} for ids in TEXTS],
    "a generator": lambda: ({"input_ids": ids} for ids in TEXTS),
    "a Dataset": Texts,
    "a padded Dataset": lambda: Texts(length=9),
    "a DataLoader of single texts": lambda: DataLoader(Texts(), batch_size=1),
    "a DataLoader of padded batches": lambda: DataLoader(Texts(length=9), batch_size=3),
    "a DataLoader without batches": lambda: DataLoader(Texts(), batch_size=None),
}


@pytest.mark.parametrize("fed", FED)
def test_however_texts_are_fed(fed):
    model = sb.wrap_model(Classifier(), FrameTokenizer(), encoder="bert")
    assert_same(maps(model, FED[fed]()), expected())


def test_a_loss_of_ones_own_is_explained_with_the_sign_of_what_speaks_for_the_class():
    """Of the cross-entropy the gradient is p - 1 times that of the margin; a criterion's negative is explained."""
    with_loss, with_output = (
        sb.wrap_model(Classifier(), FrameTokenizer(), encoder="bert", **options)
        for options in ({"criterion": nn.CrossEntropyLoss(reduction="none")}, {})
    )
    for a, b in zip(
        sb.attribute(with_loss, [{"input_ids": one} for one in TEXTS], "vanilla", reduction="l2"),
        sb.attribute(
            with_output,
            [{"input_ids": one} for one in TEXTS],
            "vanilla",
            reduction="l2",
            output="log_probability",
        ),
        strict=True,
    ):
        np.testing.assert_allclose(a.scores, b.scores, rtol=1e-10)


class Plain(Classifier):
    """A classifier that takes ids, and a mask or not."""

    def forward(self, input_ids):
        return super().forward(input_ids)


class WithKeywords(Classifier):
    """One that takes whatever comes, and says what did."""

    def forward(self, input_ids, **others):
        self.came = set(others)
        return super().forward(input_ids)


@pytest.mark.parametrize("kind", [Classifier, Plain, WithKeywords])
def test_a_module_is_given_what_its_forward_takes(kind):
    model = sb.wrap_model(kind(), FrameTokenizer(), encoder="bert")
    typed = [{"input_ids": ids, "token_type_ids": [0] * len(ids)} for ids in TEXTS]
    assert_same(maps(model, typed), expected())
    if kind is WithKeywords:
        assert "token_type_ids" in model.module.came
