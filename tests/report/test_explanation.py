"""Maps for people: a page that is complete in itself, and records in the shapes of older tools."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from tiny_heads import tiny_head, word_tokenizer

import saliency_bench as sb
from saliency_bench.cli import main as cli
from saliency_bench.core.display import page, records
from saliency_bench.core.errors import InputError
from saliency_bench.core.verdicts import Verdict
from saliency_bench.models.loading import load_model


@pytest.fixture
def maps(folder):
    model = load_model(str(folder), device="cpu")
    texts = ["the film w1 and w2", ("a film", "the w3 <script>alert(1)</script>")]
    return sb.attribute(model, texts, "input_x_gradient", reduction="sum")


class Tags(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.titles = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.titles += [value for key, value in attributes if key == "title"]

    def handle_data(self, data):
        self.text += data


def test_the_page_shows_every_text_as_written_and_obeys_none(maps):
    shown = Tags(page(maps, top=None, special_tokens=False))
    assert "the film w1 and w2" in shown.text
    assert "<script>alert(1)</script>" in shown.text
    assert "script" not in shown.tags
    assert len(shown.titles) == sum(sum(one.attributable) for one in maps)
    assert "default-src 'none'" in page(maps, top=None, special_tokens=False)


def test_a_page_says_which_maps_to_trust_where_that_is_known(maps):
    said = Verdict("<b>One</b>", None, "nothing & more", None)
    shown = page(maps, verdicts=[said], result=["A <u>word</u>.", "", "Trust <i>none</i>."])
    text = Tags(shown).text
    assert "<b>One</b>" in text and "nothing & more" in text and "Trust <i>none</i>." in text
    assert not {"b", "i", "u"} & {*Tags(shown).tags}
    assert (
        text.index("A <u>word</u>.") < text.index("Trust <i>none</i>.") < text.index("the film w1")
    )
    assert "Which of these maps to trust" in text
    assert "Which of these maps to trust" not in Tags(page(maps)).text


def test_a_page_names_what_made_it(maps):
    text = Tags(page(maps, made={"Model": "<b>mine</b>", "Command": "explain 'a & b'"})).text
    assert "Model: <b>mine</b>" in text and "Command: explain 'a & b'" in text
    assert f"Made by saliency_bench {sb.__version__}." in text


def test_special_tokens_are_shown_where_they_are_asked_for(maps):
    assert "[CLS]" not in Tags(page(maps, top=None, special_tokens=False)).text
    assert "[CLS]" in Tags(page(maps, top=None, special_tokens=True)).text


def test_records_are_magnitudes_that_sum_to_one_with_what_they_are_of(maps):
    found = records(maps, "article")
    assert list(found) == ["instance_1", "instance_2"]
    for one, record in zip(maps, found.values(), strict=True):
        assert list(record)[:4] == [
            "grad_input_1",
            "tokens_input_1",
            "label_input_1",
            "prob_input_1",
        ]
        assert sum(record["grad_input_1"]) == pytest.approx(1, abs=1e-12)
        expected = np.abs(one.scores) / np.abs(one.scores).sum()
        np.testing.assert_allclose(record["grad_input_1"], expected, rtol=1e-12)
        assert record["tokens_input_1"] == list(one.tokens)
        assert (record["label_input_1"], record["prob_input_1"]) == (one.target, one.probability)
    # Readers of AllenNLP's shape take every key of an input by its ending.
    assert {
        key for record in records(maps, "allennlp").values() for key in record if "_input_" in key
    } == {"grad_input_1"}
    with pytest.raises(InputError, match="'article'"):
        records(maps, "artcle")


def test_explain_writes_a_page_and_prints_records(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["explain", "the film w1", "model=hub", f"model.path={folder}", "method=[vanilla]"]
    words += ["runtime.device=cpu"]
    assert cli.main([*words, "--html=page.html", "--top=1"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    shown = (tmp_path / "page.html").read_text("utf-8")
    for said in (
        "Words that matter most: ",
        "Vanilla gradient has an SRG (symmetric relevance gain) of",
        "0.232 [0.209, 0.255]",
    ):
        assert said in printed and said in Tags(shown).text
    assert "Your model was not in that study" in printed and "Page: page.html" in printed
    for said in (
        f"Model: {folder.name}",
        "Command: saliency-bench explain 'the film w1' model=hub",
    ):
        assert said in Tags(shown).text
    assert len(Tags(shown).titles) == 3  # numbers stay where colours go
    assert shown.count("border-radius:2px") == 1
    assert cli.main([*words, "--json=article"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["instance_1"]["tokens_input_1"][0] == "[CLS]"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--json=xml", "'xml'"),
        ("--json", "--json=SHAPE"),
        ("--html", "--html=FILE"),
        ("--top=0", "at least 1"),
        ("--top=x", "at least 1"),
        ("--special-tokens=yes", "--special-tokens"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(option, said, capsys):
    assert cli.main(["explain", "a film", option]) == 2
    assert said in capsys.readouterr().err


def test_a_pair_is_explained_as_a_pair(folder, capfd):
    words = [f"model.path={folder}", "model=hub", "method=[vanilla]", "--json=article"]
    assert cli.main(["explain", "the film", "--pair=a w2", *words]) == 0
    shown = json.loads(capfd.readouterr().out)
    tokens = shown["instance_1"]["tokens_input_1"]
    assert tokens == ["[CLS]", "the", "film", "[SEP]", "a", "w2", "[SEP]"]


def test_another_task_is_explained_where_it_is_asked(tmp_path, capfd):
    module = tiny_head("token-classification", "bert").float()
    module.save_pretrained(tmp_path / "model")
    word_tokenizer(tmp_path / "model").save_pretrained(tmp_path / "model")
    words = [f"model.path={tmp_path / 'model'}", "model=hub", "model.task=token-classification"]
    explain = ["explain", "the capital of france", *words, "method=[vanilla]", "--json=article"]
    assert cli.main([*explain, "--at=france"]) == 0
    assert len(json.loads(capfd.readouterr().out)) == 1
    assert cli.main([*explain, "--at=all"]) == 0
    every = json.loads(capfd.readouterr().out)
    assert len(every) == 4
    for at, places in (("2", [2]), ("1,3", [1, 3]), ("4, 1", [1, 4])):
        assert cli.main([*explain, f"--at={at}"]) == 0
        found = json.loads(capfd.readouterr().out)
        # A text's maps come in the order of their places.
        own = [one["grad_input_1"] for one in found.values()]
        assert sorted(own) == sorted(every[f"instance_{place}"]["grad_input_1"] for place in places)


def test_a_terminal_shows_the_tokens_that_are_asked_for(folder, capsys):
    words = ["explain", "the film w1", "model=hub", f"model.path={folder}", "method=[vanilla]"]
    assert cli.main(words) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.count("(") == 3 and "[CLS]" not in line
    assert cli.main([*words, "--top=1"]) == 0
    assert capsys.readouterr().out.splitlines()[1].count("(") == 1
    assert cli.main([*words, "--special-tokens"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("[CLS](")
