"""Any module: how its inputs come, and its outputs look, against maps computed by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import VOCABULARY, token_inputs
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

import saliency_bench as sb
from saliency_bench.core.errors import InputError


class Classifier(nn.Module):
    """The article's shape: an encoder with a table in it, a mean over its tokens, and a head."""

    def __init__(self, give=lambda logits: logits):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.encoder = nn.Sequential(nn.Embedding(VOCABULARY, 6), nn.Linear(6, 6), nn.Tanh())
            self.head = nn.Linear(6, 3)
        self.give = give
        self.double()

    def forward(self, input_ids, attention_mask=None):
        there = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        weights = there[..., None].double() / there.sum(1)[:, None, None]
        return self.give(self.head((self.encoder(input_ids) * weights).sum(1)))


INPUTS = token_inputs(4, 7, 4)


def scores(model, inputs=INPUTS, **options):
    maps = sb.attribute(
        model, inputs, "integrated_gradients", baseline="zero", n_steps=4, **options
    )
    return [one.scores.tolist() for one in maps]


def by_hand(module, ids, loss=None):
    """Integrated gradients by the midpoints of four Gauss-Legendre nodes, without any hook."""
    table, line, squash = module.encoder
    x = table(torch.tensor(ids))
    nodes, weights = np.polynomial.legendre.leggauss(4)
    whole = module.head(squash(line(x)).mean(0))
    target = whole.argmax()
    total = torch.zeros_like(x)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        point = (node * x).detach().requires_grad_()
        logits = module.head(squash(line(point)).mean(0))
        score = logits[target] if loss is None else -loss(logits[None], target[None]).sum()
        total += weight * torch.autograd.grad(score, point)[0]
    return (total * x).sum(-1).tolist()


def is_right(found, module, loss=None):
    for mine, one in zip(found, INPUTS, strict=True):
        # A few additions of numbers near one, in another order.
        assert mine == pytest.approx(by_hand(module, one["input_ids"], loss), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize(
    "embeddings",
    [
        None,
        "encoder.0",
        lambda module: module.encoder[0],
        lambda module: module.get_submodule("encoder.0"),
    ],
)
def test_the_embedding_layer_is_found_or_named_by_path_attribute_or_module(embeddings):
    module = Classifier()
    named = embeddings(module) if callable(embeddings) else embeddings
    is_right(scores(sb.wrap_model(module, embeddings=named)), module)


@pytest.mark.parametrize(
    "give",
    [
        lambda logits: logits,
        lambda logits: (logits, "hidden states"),
        lambda logits: [logits],
        lambda logits: SimpleNamespace(logits=logits),
        lambda logits: {"loss": None, "logits": logits},
        lambda logits: _model_output(logits),
    ],
)
def test_outputs_may_be_a_tensor_a_tuple_a_dict_or_a_model_output(give):
    module = Classifier(give)
    is_right(scores(sb.wrap_model(module)), module)


def _model_output(logits):
    from transformers.modeling_outputs import SequenceClassifierOutput

    return SequenceClassifierOutput(logits=logits)


def test_outputs_without_logits_are_refused():
    model = sb.wrap_model(Classifier(lambda logits: {"scores": logits}))
    with pytest.raises(InputError, match="forward="):
        scores(model)


def test_a_forward_of_ones_own_is_called():
    module = Classifier(lambda logits: {"answer": logits})
    model = sb.wrap_model(
        module, forward=lambda module, inputs: module(inputs["input_ids"])["answer"]
    )
    is_right(scores(model), module)


class Ids(Dataset):
    """A dataset that has a length and items, and is no iterator."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def _padded(batch):
    """Batches as the article makes them: ids and masks as tensors, padded to the longest."""
    ids = [torch.tensor(one["input_ids"]) for one in batch]
    pad = nn.utils.rnn.pad_sequence
    masks = [torch.ones_like(one) for one in ids]
    return {"input_ids": pad(ids, True), "attention_mask": pad(masks, True)}


@pytest.mark.parametrize(
    "inputs",
    [
        Ids(INPUTS),
        Ids([one["input_ids"] for one in INPUTS]),
        Ids([torch.tensor(one["input_ids"]) for one in INPUTS]),
        Ids([{"input_ids": torch.tensor(one["input_ids"])} for one in INPUTS]),
        DataLoader(INPUTS, batch_size=2, collate_fn=_padded),
        DataLoader(INPUTS, batch_size=None),
        (one for one in INPUTS),
    ],
    ids=["dicts", "lists", "tensors", "dicts of tensors", "batches", "single", "generator"],
)
def test_inputs_may_be_a_dataset_or_a_loader_of_ids(inputs):
    module = Classifier()
    is_right(scores(sb.wrap_model(module), inputs), module)


@pytest.mark.parametrize("form", [torch.tensor, np.array, list, tuple])
def test_a_row_of_ids_is_one_text(form):
    module = Classifier()
    ids = form(INPUTS[1]["input_ids"])
    (found,) = scores(sb.wrap_model(module), ids)
    assert found == pytest.approx(by_hand(module, INPUTS[1]["input_ids"]), rel=1e-12, abs=1e-14)


def test_a_loader_may_bring_tensors_of_ids_and_labels():
    module = Classifier()
    same = [one for one in INPUTS if len(one["input_ids"]) == 4]
    pairs = [(torch.tensor(one["input_ids"]), 1) for one in same]
    found = scores(sb.wrap_model(module), DataLoader(pairs, batch_size=2))
    expected = [by_hand(module, one["input_ids"]) for one in same]
    assert np.allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_users_criterion_is_explained_negated(reduction):
    module = Classifier()

    def loss(logits, classes):
        return functional.cross_entropy(logits, classes, reduction=reduction)

    is_right(scores(sb.wrap_model(module, criterion=loss)), module, loss)


def test_a_criterion_is_what_is_explained_and_no_output_stands_beside_it():
    model = sb.wrap_model(Classifier(), criterion=nn.CrossEntropyLoss())
    for output in (None, "criterion"):
        (found,) = sb.attribute(model, INPUTS[:1], "vanilla", output=output)
        assert found.setting["output"] == "criterion"
    for output in ("logit", "probability"):
        with pytest.raises(InputError, match=f"output='{output}': the model has a criterion"):
            sb.attribute(model, INPUTS, "vanilla", output=output)
    with pytest.raises(InputError, match="unknown output 'criterion'"):
        sb.attribute(sb.wrap_model(Classifier()), INPUTS, "vanilla", output="criterion")


@pytest.mark.parametrize(
    ("criterion", "said"),
    [
        (lambda logits, classes: logits, r"returned shape \(1, 3\)"),
        (lambda logits, classes: torch.tensor(1.0), "does not depend on the logits"),
    ],
)
def test_a_criterion_that_gives_no_loss_is_refused(criterion, said):
    model = sb.wrap_model(Classifier(), criterion=criterion)
    with pytest.raises(InputError, match=said):
        sb.attribute(model, INPUTS[:1], "vanilla")


LABELLED = {
    "pairs": lambda: [(torch.tensor(one["input_ids"]), 1) for one in INPUTS],
    "a loader of pairs": lambda: DataLoader(
        [(torch.tensor(one["input_ids"]), 1) for one in INPUTS], batch_size=1
    ),
    "labels": lambda: [one | {"labels": 1} for one in INPUTS],
    "label": lambda: [one | {"label": np.int64(1)} for one in INPUTS],
    "a loader of labels": lambda: DataLoader(
        [one | {"labels": torch.tensor(1)} for one in INPUTS], batch_size=2, collate_fn=_labelled
    ),
}


def _labelled(batch):
    return _padded(batch) | {"labels": torch.stack([one["labels"] for one in batch])}


@pytest.mark.parametrize("brought", LABELLED)
def test_gold_classes_come_with_batches(brought):
    model = sb.wrap_model(Classifier())
    found = sb.attribute(model, LABELLED[brought](), "vanilla", target="gold")
    assert [one.target for one in found] == [1] * len(INPUTS)
    expected = sb.attribute(model, INPUTS, "vanilla", target=1)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-12)


def test_labels_that_are_given_go_before_those_of_a_batch_and_none_is_no_gold():
    model = sb.wrap_model(Classifier())
    brought = [one | {"labels": 1} for one in INPUTS]
    found = sb.attribute(model, brought, "vanilla", target="gold", labels=[2] * len(INPUTS))
    assert {one.target for one in found} == {2}
    for none in (-1, [0, 1, 1]):
        unlabelled = [one | {"labels": none} for one in INPUTS]
        assert len(sb.attribute(model, unlabelled, "vanilla")) == len(INPUTS)
        with pytest.raises(InputError, match="target=gold needs a label"):
            sb.attribute(model, unlabelled, "vanilla", target="gold")
