"""Quantised checkpoints and modules are refused in one sentence that says what to load instead."""

import json
import shutil

import pytest
import torch
from tiny_chats import bpe_tokenizer, tiny_decoder
from torch import nn

import saliency_bench as sb
from saliency_bench.core.errors import InputError

STORED = {
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "gptq": {"quant_method": "gptq", "bits": 4},
    "awq": {"quant_method": "awq", "bits": 4},
    "fp8": {"quant_method": "fp8"},
    "compressed-tensors": {"quant_method": "compressed-tensors"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("model")
    tiny_decoder("gpt2", dtype=torch.float32).module.save_pretrained(place)
    bpe_tokenizer().save_pretrained(place)
    return place


def refused(path, named):
    with pytest.raises(InputError, match=named) as error:
        sb.load_model(str(path), task="text-generation")
    message = str(error.value)
    assert "the checkpoint that it was quantised from" in message
    assert ". " not in message


@pytest.mark.parametrize("name", STORED)
def test_a_configuration_of_quantised_weights_is_refused_by_the_quantisers_name(
    folder, tmp_path, name
):
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"quantization_config": STORED[name]}))
    refused(copy, name)


def test_an_older_configuration_says_it_by_a_flag(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"] = {"load_in_8bit": True}
    (copy / "config.json").write_text(json.dumps(config))
    refused(copy, "bitsandbytes")


@pytest.mark.parametrize("config", [True, False])
def test_gguf_is_refused_as_a_file_and_as_a_folder_of_it_alone(folder, tmp_path, config):
    (tmp_path / "model.Q4_1.gguf").write_bytes(b"GGUF")
    if config:
        shutil.copy(folder / "config.json", tmp_path)
    refused(tmp_path, r"GGUF \(model.Q4_1.gguf\)")
    refused(tmp_path / "model.Q4_1.gguf", "gguf_file='model.Q4_1.gguf'")


def test_gguf_beside_safetensors_is_not_looked_at(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "model.gguf").write_bytes(b"GGUF")
    assert sb.load_model(str(copy), task="text-generation").task == "text-generation"


def test_a_module_with_a_quantised_layer_is_refused(bert):
    class Linear4bit(nn.Linear):
        __module__ = "bitsandbytes.nn.modules"

    model = tiny_decoder("gpt2", dtype=torch.float32)
    model.module.lm_head = Linear4bit(32, 340, bias=False)
    with pytest.raises(InputError, match="lm_head of bitsandbytes computes in whole numbers"):
        sb.attribute(model, {"input_ids": [5, 6, 7]}, "vanilla")
