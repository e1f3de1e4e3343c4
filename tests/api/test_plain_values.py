"""Numbers of numpy, torch and pandas mean what the same numbers of Python do, wherever `attribute` takes one."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import FrameTokenizer, framed, tiny_bert, token_inputs

import saliency_bench as sb

INPUTS = framed(*token_inputs(5, 7))
LABELS = ("no", "perhaps", "yes")


@pytest.fixture(scope="module")
def model():
    return sb.wrap_model(tiny_bert(), FrameTokenizer(), labels=LABELS)


def facts(maps):
    return [
        (one.input_index, one.target, one.against, one.setting["setting_id"], one.scores.tolist())
        for one in maps
    ]


def same(model, plain, other, method="vanilla", inputs=INPUTS):
    expected, found = (sb.attribute(model, inputs, method, **asked) for asked in (plain, other))
    assert facts(found) == facts(expected)


@pytest.mark.parametrize(
    ("plain", "other"),
    [
        (1, torch.tensor(1)),
        (1, torch.tensor([1])),
        (1, torch.tensor([[1]])),
        (1, np.array(1)),
        (1, np.int64(1)),
        (1, torch.tensor([0.1, 0.9, 0.2]).argmax()),
        (1, torch.tensor([[0.1, 0.9, 0.2]]).argmax(-1, keepdim=True)),
        ("yes", np.array("yes")),
        ("yes", np.str_("yes")),
        ([0, 2], torch.tensor([0, 2])),
        ([0, 2], np.array([0, 2])),
        ([0, 2], pd.Series([0, 2], index=[5, 1])),
        ([0, 2], [torch.tensor(0), np.array([2])]),
        ([0, 2], range(0, 3, 2)),
        (["yes", "no"], np.array(["yes", "no"])),
        ((2, 0), (torch.tensor(2), np.array([0]))),
        ([(2, 0), 1], [(np.int64(2), torch.tensor([0])), torch.tensor(1)]),
    ],
)
def test_a_target_is_the_same_number_whatever_holds_it(model, plain, other):
    same(model, {"target": plain}, {"target": other})


@pytest.mark.parametrize(
    "target", [torch.tensor(1.0), np.array([True]), torch.tensor([[0, 1]]), torch.tensor([])]
)
def test_what_is_no_class_is_refused_in_one_sentence(model, target):
    with pytest.raises(sb.InputError, match="expected predicted"):
        sb.attribute(model, INPUTS, "vanilla", target=target)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    "other",
    [
        torch.tensor([2, 0]),
        np.array([2, 0]),
        pd.Series([2, 0], index=[9, 4]),
        [torch.tensor(2), np.int64(0)],
        (torch.tensor([2])[0], 0),
    ],
)
def test_labels_are_the_same_classes_in_the_same_order(model, named, other):
    if not named:
        model = sb.wrap_model(tiny_bert(), FrameTokenizer())
    same(model, {"target": "gold", "labels": [2, 0]}, {"target": "gold", "labels": other})


@pytest.mark.parametrize("other", [2, torch.tensor(2), np.array(2), np.array([2]), "yes"])
def test_the_only_text_has_the_only_label(model, other):
    same(
        model,
        {"target": "gold", "labels": [2]},
        {"target": "gold", "labels": other},
        inputs=INPUTS[:1],
    )


@pytest.mark.parametrize(
    ("plain", "other"),
    [
        ({"n_steps": 3}, {"n_steps": np.int64(3)}),
        ({"n_steps": 3}, {"n_steps": torch.tensor(3)}),
        ({"n_steps": [2, 3]}, {"n_steps": np.array([2, 3])}),
        ({"n_steps": [2, 3]}, {"n_steps": torch.tensor([2, 3])}),
        ({"n_steps": [2, 3]}, {"n_steps": [np.int64(2), torch.tensor(3)]}),
        ({"seed": 5}, {"seed": np.int64(5)}),
        ({"seed": [5, 6]}, {"seed": torch.tensor([5, 6])}),
        ({"reduction": ["l1", "sum"]}, {"reduction": np.array(["l1", "sum"])}),
        ({"token_budget": 64}, {"token_budget": np.int64(64)}),
    ],
)
def test_a_hyperparameter_is_the_same_number_whatever_holds_it(model, plain, other):
    fixed = {"baseline": "pad", "n_steps": 2}
    same(model, fixed | plain, fixed | other, "integrated_gradients")


@pytest.mark.parametrize(
    ("plain", "other"), [(2, np.int64(2)), (2, torch.tensor(2)), ([2, 3], torch.tensor([2, 3]))]
)
def test_a_place_is_the_same_place_whatever_holds_it(plain, other):
    from tiny_heads import tiny_model

    model = tiny_model("token-classification", "bert")
    same(model, {"at": plain}, {"at": other}, inputs=[{"input_ids": [5, 6, 7, 8, 9]}])


def test_a_grid_is_the_same_fractions_whatever_holds_it(model):
    maps = sb.attribute(model, INPUTS, "vanilla")
    expected, *others = (
        sb.evaluate(model, maps, "comprehensiveness", removal="pad", grid=grid)
        for grid in ([0.2, 0.5], np.array([0.2, 0.5]), torch.tensor([0.2, 0.5]).double())
    )
    for found in others:
        pd.testing.assert_frame_equal(found, expected)


def test_one_map_is_evaluated_as_a_list_of_it(model):
    (alone,) = sb.attribute(model, INPUTS[:1], "vanilla")
    assert sb.evaluate(model, alone, "srg").equals(sb.evaluate(model, [alone], "srg"))


def test_an_empty_list_is_refused_where_it_would_give_an_empty_table(model):
    maps = sb.attribute(model, "the film w1", "vanilla")
    for call, name in (
        (lambda: sb.attribute(model, "the film w1", method=[]), "method"),
        (lambda: sb.evaluate(model, maps, metrics=[]), "metrics"),
        (lambda: sb.evaluate(model, maps, removal=[]), "removal"),
        (lambda: sb.evaluate(model, []), "maps"),
        (lambda: sb.study(model, "the film w1", methods=[]), "methods"),
    ):
        with pytest.raises(sb.InputError, match=f"^{name} is empty: expected at least one"):
            call()


@pytest.mark.parametrize("maps", ["a text", ["a text"], None, [None], 3])
def test_what_is_no_map_is_refused_with_what_is(model, maps, without_type_checks):
    with pytest.raises(sb.InputError, match=r"maps: expected what attribute\(\)"):
        sb.evaluate(model, maps, "srg")
