"""What maps say of themselves: what they are of, and what their colours mean."""

import io
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from shown import attribution, read
from tiny import FrameTokenizer, framed, tiny_bert, token_inputs
from tiny_heads import tiny_head, word_tokenizer

import saliency_bench as sb
from saliency_bench.attribution.methods import ABOUT, KINDS
from saliency_bench.core.captions import Place, facts, headings, legend, place_of
from saliency_bench.core.display import page, record, records, to_rich
from saliency_bench.core.heatmap import token_map
from saliency_bench.core.method_facts import facts_of, signed
from saliency_bench.core.text import text_of_row
from saliency_bench.report.token_maps import show_maps


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tagger")
    tiny_head("token-classification", "bert").float().save_pretrained(folder)
    word_tokenizer(folder).save_pretrained(folder)
    return sb.load_model(str(folder), task="token-classification", device="cpu")


@pytest.fixture(scope="module")
def classifier():
    return sb.wrap_model(tiny_bert(), FrameTokenizer())


def test_maps_of_one_text_say_which_token_was_asked(tagger):
    maps = sb.attribute(tagger, ["the capital of france"], "vanilla", at="all")
    for one, title in zip(maps, headings(maps), strict=True):
        token = one.encoded.tokens[one.encoded.position]
        assert f" at {token} (token {one.encoded.position}): {one.label} (" in title
        assert f" at {token} " in one.to_html() and f" at {token} " in to_rich(one).plain
    assert len(set(headings(maps))) == len(maps) == 4


def test_a_text_that_is_asked_once_says_no_place(classifier):
    maps = sb.attribute(classifier, framed(*token_inputs(5)), "vanilla")
    assert " at " not in headings(maps)[0]


def test_maps_of_a_sweep_say_in_what_they_differ_and_in_nothing_else(classifier):
    texts = framed(*token_inputs(5))
    maps = sb.attribute(
        classifier, texts, "integrated_gradients", n_steps=[2, 4], reduction=["l2", "sum"]
    ) + sb.attribute(classifier, texts, "vanilla")
    assert [title.split(":")[0] for title in headings(maps)] == [
        "Integrated Gradients (reduction=l2, n_steps=2)",
        "Integrated Gradients (reduction=l2, n_steps=4)",
        "Integrated Gradients (reduction=sum, n_steps=2)",
        "Integrated Gradients (reduction=sum, n_steps=4)",
        "Vanilla gradient",
    ]


def test_our_backend_is_named_beside_another_alone():
    ours, captum = attribution(), attribution(backend="captum")
    assert [title.split(":")[0] for title in headings([ours, captum])] == [
        "Vanilla gradient (native)",
        "Vanilla gradient (captum)",
    ]
    assert [headings([map_])[0].split(":")[0] for map_ in (ours, captum)] == [
        "Vanilla gradient",
        "Vanilla gradient (captum)",
    ]


def test_every_display_names_baseline_reduction_steps_and_output(classifier):
    (one,) = sb.attribute(
        classifier, framed(*token_inputs(5)), "integrated_gradients", n_steps=3, baseline="zero"
    )
    said = ("output=logit", "reduction=sum", "baseline=zero", "n_steps=3", "gradients")
    for shown in (one.to_html(), page([one]), to_rich(one).plain):
        assert [words for words in said if words not in shown] == []


def test_a_seed_is_a_fact_of_what_is_drawn(classifier):
    texts = framed(*token_inputs(5))
    (drawn,) = sb.attribute(classifier, texts, "smoothgrad", n_samples=4, seed=7)
    (fixed,) = sb.attribute(classifier, texts, "vanilla", seed=7)
    assert "seed=7" in facts(drawn, token_map(drawn))
    assert "seed" not in facts(fixed, token_map(fixed))


def test_every_method_says_whether_its_scores_have_a_sign():
    for method, kind in KINDS.items():
        said = ABOUT[method].signed
        if kind == "token":
            assert (said is None) == (method == "file")
        else:
            assert said == (kind != "square")


@pytest.mark.parametrize(
    "method", sorted({name for name, of in ABOUT.items() if of.signed is False} - {"beam_search"})
)
def test_a_method_without_signs_has_no_negative_score(method, classifier):
    (one,) = sb.attribute(classifier, framed(*token_inputs(9)), method, target=1)
    assert (one.scores >= 0).all() and one.scores.any()
    assert not token_map(one).signed
    assert "Red" not in page([one]) and "Magnitudes have no sign" in page([one])


@pytest.mark.parametrize("method", ["vanilla", "integrated_gradients", "leave_one_out"])
def test_a_reduction_decides_for_a_method_with_signs(method, classifier):
    (one,) = sb.attribute(classifier, framed(*token_inputs(9)), method)
    assert token_map(one).signed == (method != "vanilla")  # by default its length


def test_scores_from_elsewhere_are_signed_if_one_is_negative():
    assert facts_of({"method": "file"}).signed is None
    assert signed({"method": "file"}, [0.1, -0.1]) and not signed({"method": "file"}, [0.1, 0.0])
    assert signed({"method": "vanilla", "reduction": "dot"}, [0.1])  # whatever the scores
    assert not signed({"method": "vanilla", "reduction": "l1"}, [-0.1])


def test_a_page_explains_the_colours_that_it_has():
    signs, sizes = attribution(reduction="dot"), attribution(reduction="l2")
    footers = [read(page(maps)).text.split("Colours are")[0] for maps in ([signs], [sizes])]
    assert "Red: for the class" in footers[0] and "Purple" not in footers[0]
    assert "Purple" in footers[1] and "Red" not in footers[1]
    both = read(page([signs, sizes, signs])).text
    assert both.count("Red: for the class") == both.count("Purple: ") == 1
    loss = attribution(reduction="dot", output="cross_entropy")
    assert "speaks against it" in legend(loss, True)


def test_what_is_left_without_a_colour_is_said_not_to_be_zero():
    for one in (attribution(reduction="dot"), attribution(reduction="l2")):
        for shown in (one.to_html(top=1), page([one], top=1)):
            assert "Only the largest 1 of a map are coloured" in shown
        assert "Only the largest" not in one.to_html()


def test_a_terminal_shows_headings_facts_and_what_its_colours_mean():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, color_system="truecolor", width=200)
    sweep = [attribution(reduction="dot", n_steps=n, output="logit") for n in (2, 4)]
    show_maps([*sweep, attribution(reduction="l2")], console, top=1, special_tokens=True)
    text = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    for words in ("n_steps=2)", "reduction=dot, n_steps=4", "[CLS] good film [SEP]"):
        assert words in text
    assert text.count("Red: for the class; blue: against it; white: 0.") == 1
    assert text.count("Purple: ") == 1
    assert len(re.findall(r"48;2;\d+;\d+;\d+", stream.getvalue())) == 3  # one word of each map


def test_a_record_says_what_it_is_of(tagger):
    maps = sb.attribute(
        tagger, ["the capital of france"], "smoothgrad", at="france", n_samples=4, seed=3
    )
    found = records(maps, "allennlp")["instance_1"]
    assert found == maps[0].to_record("allennlp") == record(maps[0], "allennlp")
    assert (found["method"], found["backend"], found["seed"]) == ("smoothgrad", "native", 3)
    assert found["setting"]["n_samples"] == 4 and found["setting"]["reduction"] == "l2"
    assert found["place"] == {"token": maps[0].encoded.position, "written": "france"}
    assert found["class"] == maps[0].label and found["text"] == ["the capital of france"]
    assert found["versions"]["saliency_bench"] == sb.__version__ and found["versions"]["torch"]
    assert maps[0].to_record()["tokens_input_1"] == list(maps[0].tokens)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_record_of_what_is_no_number_is_json():
    one = attribution(scores=(0.0, math.nan, -0.5, 1.5))
    found = json.loads(json.dumps(one.to_record(), allow_nan=False))
    assert found["grad_input_1"] == [0.0, None, 0.25, 0.75]
    assert found["reason"] == "no number in 1 of 4 scores: null"
    assert attribution().to_record()["reason"] is None
    lost = replace(one, scores=np.full(4, np.nan), probability=math.nan).to_record()
    assert lost["grad_input_1"] == [None] * 4 and lost["prob_input_1"] is None


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("1", Place(1, "film")),
        ("0", Place(0, "[CLS]")),
        ("start", Place(None, "start")),
        ("", None),
        ("2", None),
        ("9" * 5000, None),
    ],
)
def test_a_row_names_the_token_that_its_question_is_about_if_there_is_one(question, expected):
    row = {
        "tokens": ["[CLS]", "film"],
        "token_ids": [1, 2],
        "attributable": [False, True],
        "segments": [-1, 0],
        "words": [-1, 0],
        "starts": [-1, 2],
        "ends": [-1, 6],
    }
    example = {"example_id": "x", "text": "a film", "text_pair": None}
    assert place_of(text_of_row(row, example, question)) == expected
