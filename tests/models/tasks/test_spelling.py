"""What a word or a number that is asked for means, to the letter: by the plain model's own gradients.

The vocabulary is byte-level, as GPT-2's: a word and the same word after a space are two tokens, and digits are tokens.
"""

import numpy as np
import pytest
import torch
from tiny_heads import GPT2, SIZES, gradient_lengths, tiny_head, tiny_model, word_tokenizer

import saliency_bench as sb
from saliency_bench.api.arguments import plain_targets
from saliency_bench.core.errors import InputError
from saliency_bench.models.loading import wrap_model

PROMPT = "She lived in"
CORPUS = [
    "She lived in London",
    "London Paris",
    "Paris London",
    "in Paris She lived in London",
    "a|b |",
] * 20


def byte_level_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", bos_token="<|end|>")


@pytest.fixture(scope="module")
def model():
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = byte_level_tokenizer()
    torch.manual_seed(0)
    sizes = SIZES | GPT2 | {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 0}
    module = GPT2LMHeadModel(GPT2Config(**sizes)).double().eval()
    return wrap_model(module, tokenizer, task="text-generation")


def token(model, written):
    """The id of what is one token as it is written."""
    (found,) = model.tokenizer(written)["input_ids"]
    return found


def check_contrast(model, target, own, against):
    """The map of a target is the plain gradient of one logit minus another."""
    (one,) = sb.attribute(model, PROMPT, "vanilla", target=target)
    score = gradient_lengths(
        model.module, one.token_ids, lambda out: out.logits[0, -1, own] - out.logits[0, -1, against]
    )
    assert one.target == own
    np.testing.assert_allclose(one.scores, score, rtol=1e-9)
    return one


@pytest.mark.parametrize("form", [lambda a, b: (a, b), lambda a, b: f"contrast:{a}|{b}"])
@pytest.mark.parametrize(
    ("own", "against"), [(" London", " Paris"), ("London", " London"), ("London", "Paris")]
)
def test_words_of_a_contrast_are_the_tokens_as_they_are_written(model, form, own, against):
    check_contrast(model, form(own, against), token(model, own), token(model, against))


def test_numbers_of_a_contrast_are_ids_and_not_the_digits_of_that_name(model):
    assert token(model, "3") != 3
    check_contrast(model, (3, 4), 3, 4)
    check_contrast(model, ("3", "4"), token(model, "3"), token(model, "4"))


def test_a_token_may_be_the_bar_that_parts_a_contrast(model):
    check_contrast(model, (" |", " Paris"), token(model, " |"), token(model, " Paris"))
    check_contrast(model, ("|", " |"), token(model, "|"), token(model, " |"))


def test_words_of_the_targets_language_may_stand_in_a_contrast(model):
    (plain,) = sb.attribute(model, PROMPT, "vanilla")
    for target in (("predicted", " Paris"), "contrast:predicted| Paris"):
        check_contrast(model, target, plain.target, token(model, " Paris"))


def test_labels_tell_a_word_from_the_same_word_after_a_space(model):
    (one,) = sb.attribute(model, PROMPT, "vanilla", target=(" London", "London"))
    assert one.label == "␣London - London"
    every = [model.tokenizer.decode([index]) for index in range(len(model.tokenizer))]
    maps = sb.attribute(model, PROMPT, "random", target=list(range(len(every))))
    assert len({one.label for one in maps}) == len(every)


def test_the_space_that_a_decoder_drops_is_read_off_the_token():
    from saliency_bench.models.tasks.task import word_of

    class Sentencepiece:
        def convert_ids_to_tokens(self, index):
            return ["▁London", "London", "▁"][index]

        def decode(self, ids):
            return ["London", "London", ""][ids[0]]

    model = wrap_model(tiny_head("text-generation", "llama"), task="text-generation")
    object.__setattr__(model, "tokenizer", Sentencepiece())
    assert [word_of(model, index) for index in range(3)] == ["␣London", "London", "▁"]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return word_tokenizer(tmp_path_factory.mktemp("words"))


@pytest.mark.parametrize(
    ("task", "kind", "text", "options", "own", "against", "labels"),
    [
        ("fill-mask", "bert", "the [MASK] of france", {}, 10, 11, ()),
        ("question-answering", "bert", ("what ?", "a w1 is rome"), {"at": "start"}, 5, 6, ()),
        ("token-classification", "bert", "rome is", {"at": 1}, 2, 0, ("1", "0", "2")),
    ],
)
def test_numbers_of_a_contrast_are_classes_in_every_task(
    words, task, kind, text, options, own, against, labels
):
    """The difference of the maps of either number; classes called "0" and "1" do not come between."""
    model = tiny_model(task, kind, words, **({"labels": labels} if labels else {}))
    first, second, both = sb.attribute(
        model, [text], "input_x_gradient", target=[own, against, (own, against)], **options
    )
    assert (both.target, second.target) == (own, against)
    np.testing.assert_allclose(both.scores, first.scores - second.scores, atol=1e-12)


def test_a_class_may_have_a_bar_in_its_name(words):
    model = tiny_model("token-classification", "bert", words, labels=("a|b", "c", "contrast"))
    one, other, both = sb.attribute(
        model, "rome is", "input_x_gradient", target=["a|b", "c", ("a|b", "c")], at=1
    )
    np.testing.assert_allclose(both.scores, one.scores - other.scores, atol=1e-12)
    with pytest.raises(InputError, match="in Python a tuple"):
        sb.attribute(model, "rome is", "vanilla", target="contrast:a|b|c", at=1)


def test_a_saved_contrast_is_the_same_target_again(model, tmp_path):
    (one,) = sb.attribute(model, PROMPT, "vanilla", target=(" London", 4))
    one.save(tmp_path / "map.json")
    read = sb.AttributionMap.load(tmp_path / "map.json")
    assert read.setting == one.setting
    (again,) = sb.attribute(model, PROMPT, "vanilla", target=read.setting["target"])
    assert again.setting == one.setting
    np.testing.assert_array_equal(again.scores, one.scores)


@pytest.mark.parametrize("target", [1.5, None, ("a", None), (("a", "b"), "c"), [[1, 2]]])
def test_what_is_no_target_is_refused(target):
    with pytest.raises(InputError, match="a class by index or name"):
        plain_targets(target)


def test_whole_numbers_of_numpy_are_numbers():
    assert plain_targets(np.int64(3)) == [3]
    assert plain_targets([np.int32(3), (np.int64(3), "3")]) == [3, (3, "3")]
