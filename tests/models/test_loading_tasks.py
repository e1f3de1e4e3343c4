"""A folder is loaded for the task that it was trained for, and refused for others whose heads look alike."""

import pytest
import torch
from tiny_heads import SIZES, word_tokenizer

import saliency_bench as sb
from saliency_bench.core.errors import InputError
from saliency_bench.models.heads import HEADS, trained_for

TASKS = [
    "sequence-classification",
    "token-classification",
    "question-answering",
    "fill-mask",
]


def module_for(task):
    import transformers

    with torch.random.fork_rng(devices=[]):
        config = transformers.BertConfig(**SIZES, num_labels=2)
        return getattr(transformers, HEADS[task].auto).from_config(config)


@pytest.fixture(scope="module", params=TASKS)
def folder(request, tmp_path_factory):
    own = tmp_path_factory.mktemp(request.param)
    module_for(request.param).save_pretrained(own)
    word_tokenizer(own).save_pretrained(own)
    return request.param, str(own)


@pytest.mark.parametrize("asked", HEADS)
def test_a_model_is_loaded_for_its_own_task_alone(folder, asked):
    trained, path = folder
    if asked == trained:
        assert sb.load_model(path, task=asked, device="cpu").task == asked
        return
    with pytest.raises(InputError, match=rf"no trained .*config\.json says Bert.*task={trained}"):
        sb.load_model(path, task=asked, device="cpu")


def test_an_encoder_is_no_causal_language_model(tmp_path):
    from transformers import BertConfig, BertLMHeadModel

    for decoder in (False, True):
        own = tmp_path / str(decoder)
        own.mkdir()
        with torch.random.fork_rng(devices=[]):
            BertLMHeadModel(BertConfig(**SIZES, is_decoder=decoder)).save_pretrained(own)
        word_tokenizer(own).save_pretrained(own)
    with pytest.raises(InputError, match=r"is an encoder .*expected a decoder"):
        sb.load_model(str(tmp_path / "False"), task="text-generation", device="cpu")
    assert sb.load_model(str(tmp_path / "True"), task="text-generation", device="cpu")


@pytest.mark.parametrize(
    ("architectures", "tasks"),
    [
        ([], None),
        (["BertModel"], None),
        (["BertForPreTraining"], None),
        (["GPT2LMHeadModel"], None),
        (["LlamaForCausalLM"], {"text-generation"}),
        (["XLNetForQuestionAnsweringSimple"], {"question-answering"}),
        (["BertForMultipleChoice"], {None}),
    ],
)
def test_what_a_configuration_says_of_its_head(architectures, tasks):
    assert trained_for(architectures) == tasks
