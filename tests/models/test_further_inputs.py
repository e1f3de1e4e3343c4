"""Whatever a model's `forward` names is given to it: positions, boxes. The right values are the module's own."""

import numpy as np
import pytest
import torch
from tiny import VOCABULARY, FrameTokenizer, tiny_bert
from torch import nn

import saliency_bench as sb
from saliency_bench.core.errors import InputError
from saliency_bench.core.maps import AttributionMap
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import encoded_ids
from saliency_bench.studies.block import open_block, plan_blocks

IDS = [2, 10, 11, 12, 13, 3]
SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.4,
    "vocab_size": VOCABULARY,
    "num_labels": 2,
    "pad_token_id": 0,
}
BOXES = [[0] * 4, *([100 * i, 50, 100 * i + 80, 80] for i in range(4)), [1000] * 4]
TAGS = [
    [1, 2, 3, 4, 5],
    [1, 2, 3, 9, 9],
    [2, 2, 3, 9, 9],
    [1, 7, 3, 9, 9],
    [4, 2, 3, 9, 9],
    [0] * 5,
]

#: A family, how its small configuration differs, and what its texts come with.
KINDS = {
    "bert": ({}, {"position_ids": [5, 9, 7, 8, 6, 10]}),
    "layoutlm": ({}, {"bbox": BOXES}),
    "layoutlmv3": (
        {"coordinate_size": 4, "shape_size": 4, "visual_embed": False},
        {"bbox": BOXES},
    ),
    "lilt": ({"channel_shrink_ratio": 2}, {"bbox": BOXES}),
    "markuplm": ({"max_depth": 5}, {"xpath_tags_seq": TAGS, "xpath_subs_seq": TAGS[::-1]}),
}


def built(kind):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    options, _ = KINDS[kind]
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES, **options)
    return AutoModelForSequenceClassification.from_config(config).double().eval()


def own_logits(module, ids, extra, **others):
    """What the module says of one text, without anything of ours."""
    tensors = {name: torch.tensor([value]) for name, value in extra.items()}
    return module(input_ids=torch.tensor([ids]), **tensors, **others).logits[0]


def tiny_with_positions():
    module = tiny_bert()
    return module, sb.wrap_model(module, FrameTokenizer()), {"position_ids": [5, 9, 7, 8, 6, 10]}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_text_comes_with_is_explained_with_it(kind):
    module, (_, extra) = built(kind), KINDS[kind]
    model = sb.wrap_model(module, FrameTokenizer())
    table = model.embedding.weight
    logits = own_logits(module, IDS, extra)
    (gradient,) = torch.autograd.grad(logits.max(), table)
    without = own_logits(module, IDS, {})
    assert not torch.allclose(logits, without, rtol=1e-2)  # it has a say
    inputs = [{"input_ids": IDS}, {"input_ids": IDS} | extra]
    plain, found = sb.attribute(model, inputs, "vanilla", reduction="l2")
    # The same arithmetic in float64, in another order of rows.
    np.testing.assert_allclose(found.probability, logits.softmax(-1).max().item(), rtol=1e-10)
    np.testing.assert_allclose(plain.probability, without.softmax(-1).max().item(), rtol=1e-10)
    np.testing.assert_allclose(found.scores, gradient[IDS].norm(dim=-1), rtol=1e-8)


@pytest.mark.parametrize("kind", ["bert", "layoutlm"])
def test_removed_tokens_leave_what_the_text_comes_with(kind):
    module, (_, extra) = built(kind), KINDS[kind]
    model = sb.wrap_model(module, FrameTokenizer())
    (text,) = [encoded_ids(model, {"input_ids": IDS} | extra, "0", None, "0")]
    keep = np.array([True, True, False, True, False, True])
    with model.frozen():
        block = open_block(References(model), [text], "predicted", 1000)
        masked, hidden = (block.probe(one)(np.array([0]), [keep]) for one in ("mask", "attention"))
    instead = [
        token if kept else FrameTokenizer.mask_token_id
        for token, kept in zip(IDS, keep, strict=True)
    ]
    with torch.no_grad():
        expected = own_logits(module, instead, extra)
        unseen = own_logits(module, IDS, extra, attention_mask=torch.tensor(keep)[None].long())
    np.testing.assert_allclose(masked[0], expected, rtol=1e-8)
    np.testing.assert_allclose(hidden[0], unseen, rtol=1e-8)


def test_deleting_tokens_has_rows_with_a_reason_where_it_is_not_known_what_moves():
    _, model, extra = tiny_with_positions()
    made = sb.attribute(model, [{"input_ids": IDS} | extra], "vanilla", reduction="l2")
    rows = sb.evaluate(model, made, ["comprehensiveness", "srg"], removal=["delete", "mask"])
    deleted = rows[rows["removal"] == "delete"]
    assert deleted["status"].tolist() == ["not_applicable"] * 2
    assert deleted["reason"].str.contains(r"further inputs position_ids.*use removal mask").all()
    assert rows.loc[rows["removal"] == "mask", "status"].tolist() == ["ok"] * 2


def test_a_saved_map_keeps_what_its_text_came_with(tmp_path):
    _, model, extra = tiny_with_positions()
    (made,) = sb.attribute(model, [{"input_ids": IDS} | extra], "vanilla", reduction="l2")
    made.save(tmp_path / "map.json")
    loaded = AttributionMap.load(tmp_path / "map.json")
    assert loaded.encoded == made.encoded
    values = [sb.evaluate(model, [one], "srg")["value"] for one in (made, loaded)]
    assert values[0].equals(values[1])


@pytest.mark.parametrize("batched", [True, False])
def test_padding_is_stripped_of_what_has_a_row_for_each_token(batched):
    module, model, extra = tiny_with_positions()
    padded = {
        "input_ids": [*IDS, 0, 0],
        "attention_mask": [1] * len(IDS) + [0, 0],
        "position_ids": [*extra["position_ids"], 1, 1],
    }
    if batched:
        padded = {name: torch.tensor([value, value]) for name, value in padded.items()}
    found = sb.attribute(model, padded, "vanilla", reduction="l2")
    expected = own_logits(module, IDS, extra).softmax(-1).max().item()
    assert [one.encoded.extra for one in found] == [(("position_ids", (5, 9, 7, 8, 6, 10)),)] * len(
        found
    )
    np.testing.assert_allclose([one.probability for one in found], expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"foo": [1] * 6}, "inputs.0. has foo"),
        ({"bbox": BOXES, "idx": 4}, "has bbox, idx"),
        ({"inputs_embeds": [[0.0] * 16] * 6}, "has inputs_embeds"),
        ({"position_ids": [[1, 2], [3]]}, "position_ids is no array"),
        ({"position_ids": 3}, "expected an array"),
    ],
)
def test_what_a_model_does_not_take_is_refused_by_name(more, said):
    _, model, _ = tiny_with_positions()
    with pytest.raises(InputError, match=said):
        sb.attribute(model, [{"input_ids": IDS} | more], "vanilla", reduction="l2")


def test_columns_of_a_dataset_that_are_no_inputs_do_not_matter():
    _, model, _ = tiny_with_positions()
    row = {"text": "a b c d", "label": 1, "special_tokens_mask": [1, 0, 0, 0, 0, 1], "id": None}
    (plain,) = sb.attribute(model, [{"input_ids": IDS}], "vanilla", reduction="l2")
    (found,) = sb.attribute(model, [row | {"input_ids": IDS}], "vanilla", reduction="l2")
    assert found.encoded.extra == ()
    assert np.array_equal(found.scores, plain.scores)


def test_a_forward_of_ones_own_is_given_everything():
    module = tiny_bert()

    def forward(module, inputs):
        return module(input_ids=inputs["input_ids"], position_ids=inputs["places"]).logits

    model = sb.wrap_model(module, embeddings="bert.embeddings.word_embeddings", forward=forward)
    places = [5, 9, 7, 8, 6, 10]
    (found,) = sb.attribute(
        model, [{"input_ids": IDS, "places": places}], "vanilla", reduction="l2"
    )
    expected = own_logits(module, IDS, {"position_ids": places}).softmax(-1).max().item()
    np.testing.assert_allclose(found.probability, expected, rtol=1e-10)


class WithPositions(FrameTokenizer):
    """A tokenizer that says where tokens stand, and something that no model takes."""

    def __call__(self, text, **options):
        """As `FrameTokenizer`."""
        found = super().__call__(text, **options)
        if isinstance(text, str):
            length = len(found["input_ids"])
            found["position_ids"] = list(range(7, 7 + length))
            found["bytes"] = [1] * length
        return found


def test_what_the_tokenizer_makes_is_passed_on_as_transformers_does():
    module = tiny_bert()
    model = sb.wrap_model(module, WithPositions())
    (found,) = sb.attribute(model, ["a bb ccc"], "vanilla", reduction="l2")
    places = list(range(7, 7 + len(found.token_ids)))
    expected = own_logits(module, list(found.token_ids), {"position_ids": places})
    np.testing.assert_allclose(found.probability, expected.softmax(-1).max().item(), rtol=1e-10)


def test_a_baseline_that_is_searched_for_reads_what_the_text_comes_with():
    module, model, extra = tiny_with_positions()
    inputs = [{"input_ids": IDS}, {"input_ids": IDS} | extra]
    plain, found = sb.attribute(
        model, inputs, "integrated_gradients", baseline="max_entropy", n_steps=4
    )
    assert plain.output_difference != found.output_difference
    assert found.probability == pytest.approx(
        own_logits(module, IDS, extra).softmax(-1).max().item(), rel=1e-10
    )


def test_texts_with_other_inputs_beside_are_blocks_of_their_own():
    _, model, extra = tiny_with_positions()
    texts = [
        encoded_ids(model, {"input_ids": IDS} | more, str(index), None, "test")
        for index, more in enumerate([{}, extra, {}, extra])
    ]
    blocks = plan_blocks(texts)
    assert sorted(one.indices for one in blocks) == [(0, 2), (1, 3)]
    assert len({one.name for one in blocks}) == 2


class Layer(nn.Module):
    """An embedding layer of one's own that adds boxes to words."""

    def __init__(self):
        super().__init__()
        self.words, self.boxes = nn.Embedding(VOCABULARY, 4), nn.Linear(2, 4)

    def forward(self, input_ids, boxes):
        """[B T 4]."""
        return self.words(input_ids) + self.boxes(boxes)


class Boxed(nn.Module):
    """A classifier that must be given boxes, real numbers."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = Layer(), nn.Linear(4, 2)

    def forward(self, input_ids, boxes=None):
        """[B 2]."""
        if boxes is None:
            boxes = torch.zeros(*input_ids.shape, 2, dtype=self.head.weight.dtype)
        return self.head(self.layer(input_ids, boxes).tanh().mean(1))


def test_an_embedding_layer_that_reads_them_is_given_them():
    torch.manual_seed(0)
    module = Boxed().double()
    model = sb.wrap_model(module, embeddings="layer")
    boxes = [[0.5 * i, -0.25 * i] for i in range(len(IDS))]
    (found,) = sb.attribute(model, [{"input_ids": IDS, "boxes": boxes}], "vanilla", reduction="l2")
    layer = module.layer(torch.tensor([IDS]), torch.tensor([boxes]).double()).detach()
    layer.requires_grad_()
    logits = module.head(layer.tanh().mean(1))[0]
    (gradient,) = torch.autograd.grad(logits.max(), layer)
    np.testing.assert_allclose(found.probability, logits.softmax(-1).max().item(), rtol=1e-10)
    np.testing.assert_allclose(found.scores, gradient[0].norm(dim=-1), rtol=1e-8)
