"""Adapters: those of PEFT that can be merged into the weights, and nothing that their folders name elsewhere."""

import json

import pytest
import torch
from tiny import tiny_bert

import saliency_bench as sb
from saliency_bench.core.errors import InputError
from saliency_bench.models.adapters import merge_adapter
from saliency_bench.models.folders import MERGED, check_adapter

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # PEFT's

IDS = torch.tensor([[3, 6, 7, 8, 4]])
#: What a type needs to fit a layer of 16 x 16.
OPTIONS = {
    "ADALORA": {"total_step": 10},
    "OFT": {"oft_block_size": 4},
    "BOFT": {"boft_block_size": 4},
    "IA3": {"feedforward_modules": []},
    "FOURIERFT": {"n_frequency": 10},
    "LN_TUNING": {"target_modules": ["LayerNorm"]},
    "VBLORA": {"vector_length": 8, "num_vectors": 4},
    "SHIRA": {"r": 2},
    "C3A": {"block_size": 4},
    "ROAD": {"group_size": 4},
    "MISS": {"r": 2},
    "WAVEFT": {"n_frequency": 10},
    "TRAINABLE_TOKENS": {"target_modules": ["word_embeddings"], "token_indices": [6, 7]},
}


def adapted(kind, folder):
    """A model with a random adapter, which is saved."""
    from peft import get_peft_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    options = {"task_type": "SEQ_CLS", "target_modules": ["query"]} | OPTIONS.get(kind, {})
    model = get_peft_model(tiny_bert(torch.float32), PEFT_TYPE_TO_CONFIG_MAPPING[kind](**options))
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.3 * torch.randn(weight.shape))
    model.save_pretrained(folder)
    return model.eval()


def outputs(module):
    with torch.no_grad():
        return module(input_ids=IDS).logits


@pytest.mark.parametrize("kind", MERGED)
def test_every_type_that_is_taken_merges_to_what_peft_itself_computes(kind, tmp_path):
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    if kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
        pytest.skip(f"this version of PEFT has no {kind}")
    right = outputs(adapted(kind, tmp_path))
    merged = merge_adapter(tiny_bert(torch.float32), tmp_path).eval()
    assert (right - outputs(tiny_bert(torch.float32))).abs().max() > 0.01
    # The product is rounded once where it is formed, and not with each input: some units in the last place of 1.
    assert torch.allclose(outputs(merged), right, atol=1e-5)


def rewritten(folder, **keys):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    return folder


def no_reading(*_, **__):
    raise AssertionError("PEFT was asked")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {
                "peft_type": "MULTITASK_PROMPT_TUNING",
                "prompt_tuning_init": "EXACT_SOURCE_TASK",
                "prompt_tuning_init_state_dict_path": "/no/such/file.bin",
            },
            "peft_type is 'MULTITASK_PROMPT_TUNING'",
        ),
        ({"peft_type": "XLORA", "adapters": {"0": "someone/else"}}, "peft_type is 'XLORA'"),
        ({"peft_type": "SHADOW", "shadow_model": "someone/else"}, "peft_type is 'SHADOW'"),
        ({"peft_type": "PROMPT_TUNING"}, "peft_type is 'PROMPT_TUNING'.*merged.*LORA"),
        ({"peft_type": ["LORA"]}, "peft_type is "),
        ({"corda_config": {"cache_file": "x"}}, "cache_file"),
        ({"lora_ga_config": [{"deep": {"cache_file": "x"}}]}, "cache_file"),
        ({"tokenizer_name_or_path": "x"}, "tokenizer_name_or_path"),
        ({"later": "someone/else"}, "later"),
        ({"later": {"more": ["C:\\x"]}}, "more"),
    ],
)
def test_what_is_not_merged_or_names_files_is_refused_before_peft_reads_it(
    keys, said, tmp_path, monkeypatch
):
    import peft

    adapted("LORA", tmp_path)
    rewritten(tmp_path, **keys)
    monkeypatch.setattr(peft.PeftModel, "from_pretrained", no_reading)
    monkeypatch.setattr(torch, "load", no_reading)
    with pytest.raises(InputError, match=said):
        merge_adapter(tiny_bert(torch.float32), tmp_path)


def test_a_configuration_as_deep_as_json_can_be_is_read(tmp_path):
    adapted("LORA", tmp_path)
    deep: object = "someone/else"
    for _ in range(400):
        deep = {"deeper": deep}
    with pytest.raises(InputError, match="deeper"):
        check_adapter(rewritten(tmp_path, deep=deep))


def test_where_an_adapter_is_from_is_neither_read_nor_refused(tmp_path, monkeypatch):
    import peft

    # The file is read once, by what checks it: PEFT is given what was found.
    monkeypatch.setattr(peft.PeftConfig, "from_json_file", no_reading)
    right = outputs(adapted("LORA", tmp_path))
    rewritten(
        tmp_path,
        base_model_name_or_path="/home/somebody/model",
        revision="refs/pr/1",
        auto_mapping={"parent_library": "nowhere"},
        target_modules=r".*attention\.self\.query",
    )
    merged = merge_adapter(tiny_bert(torch.float32), tmp_path).eval()
    assert torch.allclose(outputs(merged), right, atol=1e-5)


def test_a_configuration_that_is_a_link_out_of_its_folder_is_refused(tmp_path):
    folder = tmp_path / "adapter"
    adapted("LORA", folder)
    path = folder / "adapter_config.json"
    path.symlink_to(path.rename(tmp_path / "elsewhere.json"))
    with pytest.raises(InputError, match=r"adapter_config.json is a link to .*elsewhere"):
        check_adapter(folder)


@pytest.mark.parametrize("kind", ["LORA", "TRAINABLE_TOKENS"])
def test_an_adapter_of_the_embeddings_that_is_not_merged_is_named_as_the_cause(kind, tmp_path):
    from peft import LoraConfig, get_peft_model

    if kind == "LORA":
        config = LoraConfig(r=2, target_modules=["word_embeddings"], init_lora_weights=False)
        module = get_peft_model(tiny_bert(), config).double().eval()
    else:
        module = adapted(kind, tmp_path)
    text = {"input_ids": IDS[0].tolist()}
    with pytest.raises(InputError, match=r"adapter of PEFT that is not merged.*merge_and_unload"):
        sb.attribute(sb.wrap_model(module), text, "vanilla", reduction="l2")
    merged = sb.wrap_model(module.merge_and_unload())
    assert sb.attribute(merged, text, "vanilla", reduction="l2")


def test_an_adapter_elsewhere_may_stay_as_it_is(tmp_path):
    module = adapted("LORA", tmp_path)
    assert sb.attribute(
        sb.wrap_model(module), {"input_ids": IDS[0].tolist()}, "vanilla", reduction="l2"
    )
