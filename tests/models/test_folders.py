"""What is asked for the folder of a model: its own files, the attention that it has, and the hub once."""

import shutil
import socket
import threading
from contextlib import suppress

import pytest
import torch
from tiny import VOCABULARY, tiny_bert

import saliency_bench as sb
from saliency_bench.core.errors import InputError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]


def save(module, folder):
    from transformers import BertTokenizer

    module.save_pretrained(folder)
    vocabulary = WORDS + [f"w{index}" for index in range(VOCABULARY - len(WORDS))]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return save(tiny_bert(torch.float32), tmp_path_factory.mktemp("original"))


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "folder")


FILES = ("model.safetensors", "vocab.txt", "tokenizer.json", "tokenizer_config.json", "config.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("outside", [False, True], ids=["in its folder", "out of it"])
def test_a_file_may_be_a_link_inside_its_folder_and_not_out_of_it(folder, tmp_path, name, outside):
    path = folder / name
    path.symlink_to(path.rename((tmp_path if outside else folder) / f"other-{name}"))
    if outside:
        with pytest.raises(InputError, match=f"{name} is a link to .*other-{name}, out of its"):
            sb.load_model(str(folder))
    else:
        assert sb.load_model(str(folder)).labels


def test_a_folder_of_templates_that_is_a_link_is_refused(folder, tmp_path):
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "x.jinja").write_text("secret")
    (folder / "additional_chat_templates").symlink_to(templates)
    with pytest.raises(InputError, match=r"x\.jinja is a link"):
        sb.load_model(str(folder))


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "current").symlink_to(folder)
    assert sb.load_model(str(tmp_path / "current")).labels


@pytest.mark.parametrize("kind", ["DebertaV2", "MPNet", "Longformer"])
def test_a_model_without_sdpa_is_loaded_with_eager_and_a_note(kind, tmp_path):
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        num_labels=2,
        **({"attention_window": 4} if kind == "Longformer" else {}),
    )
    save(getattr(transformers, f"{kind}ForSequenceClassification")(config), tmp_path)
    with pytest.warns(UserWarning, match=r"no sdpa attention: eager is used.*attention=eager"):
        model = sb.load_model(str(tmp_path))
    asked = sb.load_model(str(tmp_path), attention="eager")
    ids = torch.tensor([[2, 5, 6, 3]])
    with model.frozen(), asked.frozen():
        assert torch.equal(model.output(ids), asked.output(ids))
    assert model.facts["attention"] == "eager"
    assert "attention" not in asked.facts


def test_a_model_with_sdpa_says_nothing_of_its_attention(folder):
    assert "attention" not in sb.load_model(str(folder)).facts


def test_advice_at_the_end_of_a_long_error_is_said(folder, monkeypatch):
    import transformers

    def failing(*_, **__):
        raise ValueError("it cannot be loaded, " + "since " * 500 + "so do this")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", failing)
    with pytest.raises(InputError, match=r"could not be loaded .*so do this$"):
        sb.load_model(str(folder))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that hangs up at once: the list of who called."""
    from huggingface_hub import constants

    called = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            with suppress(OSError):
                while True:
                    connection, who = server.accept()
                    called.append(who)
                    connection.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        template = f"http://127.0.0.1:{server.getsockname()[1]}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield called
        server.shutdown(socket.SHUT_RDWR)
        thread.join(60)


def test_a_mistyped_folder_asks_the_hub_once_and_names_the_folder_of_nearly_that_name(
    hub, original, tmp_path, monkeypatch
):
    shutil.copytree(original, tmp_path / "models" / "my-model")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=r"models/my-modle is neither.*did you mean 'models/my-model'"
    ):
        sb.load_model("models/my-modle")
    assert len(hub) == 1
