"""Words of a command line: what is text is taken as it stands, whatever Hydra's grammar makes of it."""

import pytest

from saliency_bench.cli import config
from saliency_bench.cli.hydra_words import as_hydra_reads
from saliency_bench.core.errors import InputError

ODD = [
    "a=b.csv",
    "my reviews.csv",
    "a (1).csv",
    "a(1).csv",
    "[a].csv",
    "a{1}.csv",
    "a,b.csv",
    "a#1&2;3!.csv",
    "it's.csv",
    'a"b.csv',
    "'a.csv",
    "été/日本語.csv",
    "~/a.csv",
    r"C:\x\y.csv",
    "a\\",
    "a:b.csv",
    "$HOME.csv",
    "123",
    "1e5",
    "true",
    "choice(a,b)",
    " a.csv",
]


@pytest.mark.parametrize("text", ODD)
def test_a_text_is_taken_as_it_stands(text):
    words = ["~experiment", "data=file", f"data.path={text}", f"data.text={text}", f"out={text}"]
    words += ["model=hub", f"model.path={text}", f"model.revision={text}", f"target={text}"]
    words += ["method=[file,integrated_gradients]", f"method.file.path={text}"]
    cfg = config.load([*words, f"method.integrated_gradients.baseline=text:{text}"])
    assert [cfg.data["path"], cfg.data["text"], cfg.out, cfg.target] == [text] * 4
    assert [cfg.model.path, cfg.model.revision, cfg.method["file"]["path"]] == [text] * 3
    assert cfg.method["integrated_gradients"]["baseline"] == f"text:{text}"


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("'a=b.csv'", "a=b.csv"),
        ('"a b.csv"', "a b.csv"),
        (r"a\=b\ c.csv", "a=b c.csv"),
        ("${name}.csv", "study.csv"),
    ],
)
def test_what_was_quoted_for_hydra_means_what_it_meant(word, value):
    cfg = config.load(["~experiment", "data=file", f"data.path={word}"])
    assert cfg.data["path"] == value


def test_null_is_no_text():
    assert config.load(["out=null"]).out is None
    assert config.load(["data=file", "data.path=x", "data.label=null"]).data["label"] is None


@pytest.mark.parametrize(
    ("listed", "values"),
    [
        ("[très bien,mal]", ["très bien", "mal"]),
        ("[a=b, so so!]", ["a=b", "so so!"]),
        ("[negative,positive]", ["negative", "positive"]),
        ("['a,b',\"c\"]", ["a,b", "c"]),
    ],
)
def test_names_in_a_list_may_have_any_letters(listed, values):
    cfg = config.load(["model=hub", "model.path=x", f"model.labels={listed}"])
    assert cfg.model.labels == values


def test_a_list_of_baselines_is_an_axis_of_texts():
    word = "method.integrated_gradients.baseline=[mask,text:très bien]"
    cfg = config.load(["method=[integrated_gradients]", word])
    assert cfg.method["integrated_gradients"]["baseline"] == ["mask", "text:très bien"]


def test_a_sweep_is_hydras_and_other_texts_are_quoted_in_one_too():
    words = ["data.path=a.csv,b.csv", "seed=range(1,3)", "n_examples=sort(3,1,reverse=true)"]
    assert as_hydra_reads(words, sweeps=True) == words
    assert as_hydra_reads(["data.path=a=1,b"], sweeps=True) == ["data.path='a=1,b'"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("method=[vanilla", "the bracket ] is missing"),
        ("method=[vanilla,smoothgrad", "the bracket ] is missing"),
        ("method=vanilla]", "the bracket ] closes none"),
        ("choose={split: test", "the bracket } is missing"),
        ("metric.sufficiency.grid=[0.1,(0.2]", "the bracket ] closes none"),
        ("method=vanilla,smoothgrad", "method=[vanilla,smoothgrad]"),
        ("n_examples=3,4", "-m each value is a study"),
        ("reviews.csv", "expected KEY=VALUE"),
        ("é=3", "'é' is no key"),
        ("==", "no key"),
        ("name=a(b)", "Quote what is text"),
    ],
)
def test_a_word_that_hydra_cannot_read_is_refused_in_one_sentence(word, said):
    with pytest.raises(InputError) as caught:
        config.load([word])
    message = str(caught.value)
    assert word in message
    assert said in message
    assert "\n" not in message


def test_a_word_with_a_line_break_is_refused_in_one_line():
    with pytest.raises(InputError, match=r"^name=\\n: the value could not be read") as caught:
        config.load(["name=\n"])
    assert "\n" not in str(caught.value)
