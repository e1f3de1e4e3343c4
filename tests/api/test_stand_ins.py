"""What stands in for what a model or a method lacks is told of, in Python as in a study."""

import warnings

import pytest
from tiny import FrameTokenizer, framed, tiny_bert, token_inputs
from tiny_chats import bpe_tokenizer, tiny_decoder

import saliency_bench as sb

INPUTS = framed(*token_inputs(5, 7))


class Unmasked(FrameTokenizer):
    mask_token_id = None


@pytest.fixture(scope="module")
def model():
    return sb.wrap_model(tiny_bert(), Unmasked())


def told(ask):
    """What is returned, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = ask()
    return found, [str(one.message) for one in caught]


@pytest.mark.parametrize("asked", [{}, {"baseline": "mask"}, {"baseline": ["zero", "mask"]}])
def test_a_baseline_that_the_model_lacks_is_replaced_with_a_warning_and_recorded(model, asked):
    maps, said = told(lambda: sb.attribute(model, INPUTS, n_steps=2, **asked))
    assert maps[-1].setting["baseline"] == "pad"
    (message,) = said
    assert message.startswith("method.integrated_gradients.baseline: ")
    assert "no mask token: pad is used instead" in message


@pytest.mark.parametrize("baseline", ["pad", "zero", "mean", "text:a film"])
def test_what_the_model_has_is_used_without_a_word(model, baseline):
    maps, said = told(lambda: sb.attribute(model, INPUTS, n_steps=2, baseline=baseline))
    assert maps[0].setting["baseline"] == baseline
    assert said == []


def test_a_removal_that_the_model_lacks_is_told_of_when_maps_are_made_and_judged(model):
    maps, said = told(lambda: sb.attribute(model, INPUTS, "leave_one_out"))
    assert [one.setting["removal"] for one in maps] == ["pad", "pad"]
    assert ["leave_one_out.removal: " in one for one in said] == [True]
    table, said = told(lambda: sb.evaluate(model, maps, ["srg"]))
    assert set(table.removal) == {"pad"}
    assert set(table.replaced_by) == {
        "the pad token"
    }  # this tokenizer does not say how it is written
    assert ["removal=mask" in one for one in said] == [True]
    _, said = told(lambda: sb.evaluate(model, maps, ["srg"], removal="pad"))
    assert said == []


def test_a_study_from_python_tells_of_all_that_is_replaced(model):
    _, said = told(
        lambda: sb.study(
            model, INPUTS, ["leave_one_out", "integrated_gradients"], ["srg"], removal="mask"
        )
    )
    places = {message.partition(":")[0] for message in said}
    assert places == {
        "method.leave_one_out.removal",
        "method.integrated_gradients.baseline",
        "evaluation.removal",
    }
    _, said = told(lambda: sb.study(model, INPUTS, ["vanilla"], ["srg"], removal="pad"))
    assert said == []


def test_references_without_a_tokenizer_are_told_of():
    model = sb.wrap_model(tiny_bert())
    maps, said = told(
        lambda: sb.attribute(
            model, INPUTS, "expected_gradients", n_samples=4, references="movie_reviews"
        )
    )
    assert maps[0].setting["references"] == "vocabulary"
    assert ["no tokenizer: vocabulary is used instead" in one for one in said] == [True]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"reduction": "l2"}, ["random gives one number per token: reduction=l2 changes nothing"]),
        ({"backend": "captum"}, ["random has no backend captum: it is computed by native"]),
        ({"backend": "native"}, []),
        ({}, []),
    ],
)
def test_what_has_no_say_in_a_method_is_told_of(model, asked, said):
    (one, _), found = told(lambda: sb.attribute(model, INPUTS, "random", **asked))
    assert (one.setting["backend"], one.setting["reduction"]) == ("none", "none")
    assert found == said


def test_every_table_names_what_replaces_the_tokens_of_a_causal_model():
    """Its tokenizer has no mask token, and its pad token ends a text."""
    model = tiny_decoder("llama", bpe_tokenizer())
    removals = ["mask", "zero", "mean", "attention", "baseline"]
    maps = sb.attribute(
        model, "The capital of France is", "integrated_gradients", n_steps=2, baseline="zero"
    )
    table, _ = told(lambda: sb.evaluate(model, maps, ["srg", "completeness_gap"], removal=removals))
    named = table[table["metric"] == "srg"].set_index("removal")["replaced_by"]
    assert named.dropna().to_dict() == {
        "pad": "<|im_end|>",
        "zero": "a zero vector",
        "mean": "the mean embedding",
        "baseline": "a zero vector",
    }
    assert named.index.tolist() == ["pad", *removals[1:]]
    assert table[table["metric"] == "completeness_gap"]["replaced_by"].isna().all()
    result, _ = told(
        lambda: sb.study(model, ["Oslo is", "Rome is the"], ["vanilla"], ["srg"], removal="mask")
    )
    assert set(result.rows["replaced_by"]) == set(result.summary()["replaced_by"]) == {"<|im_end|>"}
    assert "&lt;|im_end|&gt;" in result.report().read_text("utf-8")
