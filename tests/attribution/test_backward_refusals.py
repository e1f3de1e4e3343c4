"""What the command says of a model that a backward rule cannot be used on, and Python of the same."""

import json
import shutil

import pytest

import saliency_bench as sb
from saliency_bench.cli import main as cli
from saliency_bench.core.errors import InputError

TEXT = "w1 w2 w3"


@pytest.fixture
def place(tmp_path, monkeypatch):
    for key in cli.QUIET:  # set for the process, which outlives this test
        monkeypatch.setenv(key, cli.QUIET[key])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def changed(folder, place, **values):
    """The tiny model's folder with other values in its configuration."""
    model = shutil.copytree(folder, place / "changed")
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return model


def command_says(capfd, model, *words):
    """The message of `explain` and of a study, which is one sentence and no traceback."""
    (model.parent / "texts.csv").write_bytes(b"text,label\nthe film,LABEL_0\na w1 and w2,LABEL_1\n")
    given = ["~experiment", "model=hub", f"model.path={model}", *words]
    study = [*given, "data=file", "data.path=texts.csv", "n_examples=2", "out=results"]
    messages = []
    for command in (["explain", TEXT, *given], study):
        capfd.readouterr()
        assert cli.main(command) == 2
        message = capfd.readouterr().err.strip()
        assert "Traceback" not in message
        messages.append(message)
    assert not (model.parent / "results").exists()
    return messages


def python_says(model, method, **given):
    with pytest.raises(InputError) as refusal:
        sb.attribute(sb.load_model(str(model), device="cpu"), [TEXT], method, **given)
    return str(refusal.value)


def test_a_part_that_a_rule_does_not_know_is_named_by_both(folder, place, capfd):
    model = changed(folder, place, hidden_act="sigmoid")
    said = python_says(model, "vanilla", backward="attnlrp")
    assert "Sigmoid is not 0 at 0" in said and "Use backward=plain." in said
    words = ["method=[vanilla]", "method.vanilla.backward=attnlrp"]
    for message in command_says(capfd, model, *words):
        assert said in " ".join(message.split())


def test_a_rule_is_refused_where_it_has_no_meaning_by_both(folder, place, capfd):
    words = {
        "attention": ["method=[raw_attention]", "+method.raw_attention.backward=gim"],
        "captum": ["method=[vanilla]", "method.vanilla.backward=gim", "backend=[captum]"],
        "unknown": ["method=[vanilla]", "method.vanilla.backward=attnlpr"],
    }
    python = {
        "attention": python_says(folder, "raw_attention", backward="gim"),
        "captum": python_says(folder, "vanilla", backward="gim", backend="captum"),
        "unknown": python_says(folder, "vanilla", backward="attnlpr"),
    }
    model = changed(folder, place)
    for case, said in python.items():
        assert said.count(". ") <= 1 and "\n" not in said
        for message in command_says(capfd, model, *words[case]):
            assert said.split(".", 3)[-1].split(":")[0] in " ".join(message.split())


def test_a_quantised_checkpoint_is_refused_by_both(folder, place, capfd):
    quantised = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    model = changed(folder, place, quantization_config=quantised)
    said = python_says(model, "vanilla", backward="gim")
    assert "quanti" in said
    words = ["method=[vanilla]", "method.vanilla.backward=gim"]
    for message in command_says(capfd, model, *words):
        assert "quanti" in message


def test_what_nobody_named_is_left_out_with_the_reason_where_a_model_cannot_have_it(
    folder, place, capfd
):
    model = changed(folder, place, hidden_act="sigmoid")
    words = ["explain", TEXT, "model=hub", f"model.path={model}"]
    assert cli.main([*words, "--html=page.html"]) == 0
    said = "AttnLRP × input is left out: "
    out = capfd.readouterr().out
    assert said in out and "Sigmoid is not 0 at 0" in out and "Leave-one-out: " in out
    assert said in (place / "page.html").read_text("utf-8")
    assert cli.main([*words, "--json=article"]) == 0
    out, err = capfd.readouterr()
    assert len(json.loads(out)) == 2 and said in err
    assert cli.main([*words, "method=[leave_one_out,attnlrp]"]) == 2
    assert "Sigmoid is not 0 at 0" in capfd.readouterr().err


def test_an_error_of_the_text_is_one_error_and_no_list_of_methods(folder, place, capfd):
    assert cli.main(["explain", TEXT, "model=hub", f"model.path={folder}", "--at=w9"]) == 2
    assert "left out" not in capfd.readouterr().err
