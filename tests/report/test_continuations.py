"""Pages of continuations: a map for each token, one of which is selected; without a script."""

import re
from dataclasses import replace

import numpy as np
import pytest
from shown import read
from tiny_chats import bpe_tokenizer, tiny_decoder

import saliency_bench as sb
from saliency_bench.cli import main as cli
from saliency_bench.core.captions import probability
from saliency_bench.core.continuations import runs, with_token, written
from saliency_bench.core.display import page, to_rich
from saliency_bench.core.heatmap import BREAK, token_map
from saliency_bench.core.segments import segment_map
from saliency_bench.core.verdicts import Verdict, together

PROMPT = "Oslo is in Norway.\nThe king lives in"
ANSWER = " Oslo, <b>user</b> & the sea."


@pytest.fixture(scope="module")
def model():
    return tiny_decoder("gpt2", bpe_tokenizer())


@pytest.fixture(scope="module")
def maps(model):
    return sb.attribute(
        model, PROMPT, "input_x_gradient", continuation=ANSWER, reduction=["sum", "l2"]
    )


def test_maps_of_one_continuation_come_together_and_others_alone(model, maps):
    n = len(maps) // 2
    assert n > 3
    other = sb.attribute(model, [PROMPT, "Rome"], "vanilla")
    assert [len(run) for run in runs([*maps, *other])] == [n, n, 1, 1]
    # Neither the same tokens again, nor those before, go on.
    assert [len(run) for run in runs([*maps[:2], *maps[:2]])] == [2, 2]
    assert [len(run) for run in runs(maps[:3][::-1])] == [1, 1, 1]
    assert runs([]) == []


def test_the_tokens_spell_the_continuation(model, maps):
    first, _ = runs(maps)
    assert "".join(written(first)) == ANSWER
    assert "".join(written(first[2:])) == ANSWER[len("".join(written(first)[:2])) :]
    # A letter of several tokens is shown with the first, the others as the tokenizer writes them.
    (strange,) = runs(sb.attribute(model, PROMPT, "vanilla", continuation=" 愛a"))
    assert len(written(strange)) == len(strange) and all(written(strange))


def test_a_run_that_stops_early_ends_with_its_own_token(model, maps):
    first, _ = runs(maps)
    for n in range(2, len(first)):
        assert written(first[:n]) == written(first)[:n]
        last = page(first[:n]).split('<div class="pane">')[-1]
        whole = read(last[: last.index("</bdi>")]).text.replace("↵", "")
        assert whole.endswith(f"{PROMPT}\n{ANSWER}")


def test_where_no_places_are_known_tokens_are_shown_as_the_tokenizer_has_them(model, maps):
    first, _ = runs(maps)
    lost = [replace(one, encoded=unplaced(one.encoded)) for one in first]
    tokens = [*first[-1].tokens[len(first[0].tokens) :], first[-1].label]
    assert written(lost) == tokens
    for token, one in zip(tokens, lost, strict=True):
        *before, shown, later = with_token(token_map(one), one.encoded, token).spans
        assert (shown.text, later.text) == (token, "")
        assert before.count(BREAK) == 1  # between the prompt and its continuation


def unplaced(encoded):
    return replace(encoded, offsets=((-1, -1),) * len(encoded))


def test_a_page_has_an_input_for_each_token_and_no_script(maps):
    shown = page(maps)
    n = len(maps) // 2
    assert shown.count('<input type="radio"') == shown.count('class="pane"') == 2 * n
    assert shown.count(" checked>") == 2  # one of each setting
    assert len(set(re.findall(r'<input[^>]* id="([^"]*)"', shown))) == 2 * n
    labels = re.findall(r'<label for="([^"]*)"', shown)
    assert labels == re.findall(r'<input[^>]* id="([^"]*)"', shown)
    assert "<script" not in shown and "default-src 'none'" in shown
    assert "<b>user" not in shown and "user" in read(shown).text
    # On paper all are listed.
    assert ".pane { display: block !important" in shown
    for number in range(1, n + 1):
        assert f"input:nth-of-type({number}):checked ~ .panes > .pane:nth-child({number})" in shown
    assert f"nth-of-type({n + 1})" not in shown


def test_each_map_shows_its_token_behind_the_words_before_it(maps):
    first, _ = runs(maps)
    panes = re.findall(r'<div class="pane">.*?</bdi>', page(first), re.S)
    for token, pane, map_ in zip(written(first), panes, first, strict=True):
        text = read(pane).text
        assert text.endswith(ANSWER[ANSWER.index(token) :]) or token in ",.<>/&"
        assert f"{map_.label} ({probability(map_.probability)})" in text
        assert len(re.findall("border:2px", pane)) == 1
        whole = text[text.index("Oslo is in") :].replace("↵", "")
        assert whole == f"{PROMPT}\n{ANSWER}"


def test_a_page_of_single_maps_has_nothing_to_select(model):
    shown = page(sb.attribute(model, [PROMPT, "Rome"], "vanilla"))
    assert "<input" not in shown and "nth-of-type" not in shown


def test_a_text_of_many_lines_has_them(model):
    (one,) = sb.attribute(model, "Oslo\nRome\n\nParis", "vanilla")
    assert "Oslo↵\nRome↵\n↵\nParis" in read(page([one])).text


SEGMENTS = {"first": "Oslo is in Norway.", "<b>": "The king"}


def test_segments_have_names_in_the_text_and_sums_under_it(model):
    (one,) = sb.attribute(
        model, [{"text": PROMPT, "segments": SEGMENTS}], "input_x_gradient", target=5
    )
    sums = segment_map(one)
    assert [span.score for span in sums.spans if span.score is not None] == [
        unit.score for unit in one.units("segment")
    ]
    for shown in (read(page([one])).text, read(one.to_html()).text):
        assert re.search(r"firstOslo is in Norway\.↵?\n?<b>", shown)
        assert re.search(r"Segments:\s+first [+-][\d.e-]+\s+<b> [+-]", shown)
    plain = to_rich(one).plain
    assert "[first] Oslo is in" in plain and "Segments:  first" in plain
    (without,) = sb.attribute(model, PROMPT, "input_x_gradient", target=5)
    assert segment_map(without) is None and "Segments" not in page([without])


def test_a_chats_messages_are_named_by_its_template_alone(model):
    chat = [{"role": "user", "content": "Oslo?"}, {"role": "assistant", "content": "It is."}]
    maps = sb.attribute(model, [chat], "vanilla")
    shown = page(maps)
    assert "opacity:.65" in shown  # the template's own words are grey
    assert "font-size:.7em" not in page(maps[:1])
    assert "assistant" in read(re.findall(r'<div class="pane">.*?</bdi>', shown, re.S)[-1]).text


def test_a_verdict_of_many_tokens_is_one():
    good, bad = (Verdict("IG", passed, why, None) for passed, why in ((True, "fine"), (False, "x")))
    none = Verdict("IG", None, "nothing to check it by", None)
    assert together([good]) is good
    assert together([none, none]) == none
    # Tokens without a check of their own have passed none.
    for judged, passed, why in (
        ([good, good], True, "2 passed of 2 tokens; token 1: fine"),
        ([none, good, none], True, "1 passed of 3 tokens; token 2: fine"),
        ([good, bad, good], False, "1 failed of 3 tokens; token 2: x"),
        ([none, bad, good], False, "1 failed of 3 tokens; token 2: x"),
    ):
        assert together(judged) == Verdict("IG", passed, why, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    where = tmp_path_factory.mktemp("decoder")
    model.module.float().save_pretrained(where)
    model.tokenizer.save_pretrained(where)
    model.module.double()
    return where


def explain(folder, *words):
    given = [f"model.path={folder}", "model=hub", "model.task=text-generation", "method=[vanilla]"]
    return cli.main(["explain", *words, *given, "runtime.device=cpu"])


def test_the_command_explains_continuations_chats_and_passages(folder, tmp_path, capsys):
    file = tmp_path / "page.html"
    assert explain(folder, PROMPT, f"--pair={ANSWER}", f"--html={file}") == 0
    assert file.read_text("utf-8").count('class="pane"') > 3
    assert capsys.readouterr().out.count("nothing to check it by") == 1
    passages = ["--segment=first=Oslo is in Norway.", "--segment=The king"]
    assert explain(folder, PROMPT, "--pair= Oslo", "--at=sum", *passages) == 0
    said = capsys.readouterr().out
    assert "[first] Os" in said and "[2] T" in said and "Segments:" in said
    assert "not measured" in said  # of a study of a classifier
    assert explain(folder, "Oslo?", "--chat", "--pair=Rome.", f"--html={file}") == 0
    assert "&lt;|im_start|&gt;user↵" in file.read_text("utf-8")
    chat = '[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Oslo?"}]'
    assert explain(folder, chat, "--chat") == 0
    assert "system" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["[1", "--chat"], "a JSON list of messages"),
        (["[1]", "--chat"], "role and content"),
        (["Oslo", "--segment=Rome"], "not in the text"),
        (["Oslo is", "--segment=a=Oslo", "--segment=a=is"], "two segments are called a"),
        (["Oslo", "--chat", "--segment=Rome"], "message 1: segment 1, 'Rome', is not in the text"),
        (["Oslo", "--segment="], "got nothing"),
        (["O", "--pair=slo"], "joins the end of the prompt"),
        (["Oslo", "--option= Rome"], "at least two"),
        (["Oslo", "--option= Rome", "--option="], "got nothing"),
        (["Oslo " * 200, "--pair= Rome"], "takes 256"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(folder, words, reason, capsys):
    assert explain(folder, *words) == 2
    assert reason in capsys.readouterr().err


def test_scores_that_are_no_numbers_are_shown_as_such(maps):
    lost = [replace(one, scores=np.full(len(one.scores), np.nan)) for one in maps]
    assert "no number" in page(lost)


def test_a_study_page_names_the_segments_of_a_text(make_run, make_settings):
    from saliency_bench.report.analysis import analyse
    from saliency_bench.report.html import page as study_page

    run = make_run(make_settings("vanilla", "random"), 6)
    examples = run.tables["examples"]
    assert 'class="sums"' not in study_page(analyse(run), {}, {})  # nor do runs of earlier versions
    firsts = [len(text.split()[0]) for text in examples["text"]]
    examples["part_names"] = [np.array(["a <b>", "rest"])] * len(examples)
    examples["part_segments"] = [np.array([0, 0])] * len(examples)
    examples["part_starts"] = [np.array([0, first + 1]) for first in firsts]
    examples["part_ends"] = [
        np.array([first, len(text)]) for first, text in zip(firsts, examples["text"], strict=True)
    ]
    shown = study_page(analyse(run), {}, {})
    found = re.findall(r" a <b> ([+-]?[\d.e+-]+) ", read(shown).text)
    assert len(found) == shown.count('class="sums"') == shown.count('class="map"') > 2
    sums = [scores[1] for scores in run.tables["maps"]["scores"]]  # of one word, behind [CLS]
    for number in found:
        assert min(abs(float(number) - score) for score in sums) <= 5.01e-4 * abs(
            float(number)
        )  # four digits
    for wrong in ([None, 0], ["x", 0], [0, 0, 0]):  # somebody else's folder
        examples["part_starts"] = [np.array(wrong, dtype=object)] * len(examples)
        assert 'class="sums"' not in study_page(analyse(run), {}, {})
