"""The report of a run: which files, which bytes, and a page that is safe and complete."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pyarrow as pa
import pytest

from saliency_bench.cli.results import _say_what_next
from saliency_bench.core.heatmap import DARK, LIGHT, bar, panel
from saliency_bench.report import build
from saliency_bench.report.analysis import analyse
from saliency_bench.report.build import build_report
from saliency_bench.report.html import _commands, caution, question, what_was_run
from saliency_bench.report.verdict import verdict
from saliency_bench.store import parquet as store_tables
from saliency_bench.store.parquet import schema_of, to_parquet
from saliency_bench.store.run import Run, Tables

NASTY = "<script>alert('x')</script>\x1b[31m \u202e{{ 7*7 }}$\\frac$"


class Page(HTMLParser):
    """Tags with their attributes, and the text, of a page."""

    VOID = ("meta", "img", "link", "br", "hr", "input")

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


@pytest.fixture(scope="module")
def page(reported):
    return Page((reported.folder / "report.html").read_text("utf-8"))


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("saliency-bench", "saliency-bench model=hub"),
        ("saliency-bench run n_examples=5 out=/x", "saliency-bench model=hub"),
        (
            "saliency-bench model=shortcuts experiment=method_comparison out='a b'",
            "saliency-bench experiment=method_comparison model=hub",
        ),
        (
            "saliency-bench suite v1 method=[vanilla] out=x",
            "saliency-bench suite v1 model=hub model.path=FOLDER_OR_HUB_ID",
        ),
    ],
)
def test_the_command_for_ones_own_model_is_of_the_same_experiment(
    make_run, make_settings, command, expected, capsys
):
    run = make_run(make_settings("vanilla"))
    run.manifest.update(command=command, config={"model": {"name": "default"}})
    assert _commands(run.manifest)["own_model"].startswith(expected)
    _say_what_next(run)
    assert capsys.readouterr().out.splitlines()[-1].strip().startswith(expected)


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_texts_as_categories_give_the_bytes_of_texts(reported, tmp_path, monkeypatch):
    """As those of tables of very many rows are read; and of maps only what is asked for."""
    for name, table in reported.tables.items():
        held = pa.Table.from_pandas(table, schema=schema_of(name), preserve_index=False)
        (tmp_path / f"{name}.parquet").write_bytes(to_parquet(held))
    monkeypatch.setattr(store_tables, "MANY", 0)
    run = replace(reported, folder=tmp_path, tables=Tables(tmp_path, [*reported.tables]))
    assert isinstance(run.tables["rows"]["metric"].dtype, pd.CategoricalDtype)
    build_report(run)
    found, expected = files(tmp_path), files(reported.folder)
    assert expected.keys() <= found.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def test_maps_have_panels_for_light_and_dark_pages_and_magnitudes_one_hue(reported):
    text = (reported.folder / "report.html").read_text("utf-8")
    assert ".map { " + panel() in text and bar(True) in text and bar(False) in text
    maps = text.split(">Token maps</h2>")[1].split("<h2")[0]
    cards = dict(re.findall(r'<div class="who"><span>([^<]*)</span>(.*?</bdi>)', maps, re.S))
    for name, card in cards.items():
        signs = not name.startswith(("Vanilla", "Random"))
        assert ("±" in card, 'title="+' in card) == (signs, signs)
        backgrounds = re.findall(r"background:light-dark\(#(\w+),#(\w+)\)", card)
        strongest = {bytes.fromhex(one) for pair in backgrounds for one in pair}
        assert ({bytes(LIGHT.size), bytes(DARK.size)} <= strongest) != signs


def test_a_report_has_its_tables_its_figures_and_its_page(reported):
    names = [
        "agreement",
        "comparison",
        "convergence",
        "headline",
        "notes",
        "parity",
        "removal_cost",
        "right_and_wrong",
        "summary",
        "timing",
    ]
    figures = ["agreement", "cost", "curves", "metric_bars"]
    assert sorted(files(reported.folder)) == sorted(
        [
            *(f"tables/{name}.{suffix}" for name in names for suffix in ("csv", "md", "tex")),
            *(f"figures/{name}.{suffix}" for name in figures for suffix in ("png", "pdf")),
            "report.html",
        ]
    )


def test_the_same_rows_give_the_same_bytes(reported, run):
    assert build_report(run) == run.folder / "report.html"
    assert files(run.folder) == files(reported.folder)


def test_what_an_earlier_report_left_is_gone(run, monkeypatch):
    monkeypatch.setattr(build, "FIGURES", {"curves": build.FIGURES["curves"]})
    (run.folder / "figures").mkdir(parents=True)
    (run.folder / "tables").mkdir()
    (run.folder / "figures" / "curves.png").write_bytes(b"old")
    (run.folder / "tables" / "sweep.csv").write_bytes(b"old")
    (run.folder / "tables" / "mine.csv").write_text("kept")
    empty = run.tables | {"curves": run.tables["curves"].iloc[:0]}
    build_report(Run(run.folder, run.manifest, run.settings, empty))
    left = files(run.folder)
    assert left.keys().isdisjoint({"figures/curves.png", "tables/sweep.csv"})
    assert "tables/mine.csv" in left


def test_the_page_needs_nothing_from_elsewhere_and_runs_only_what_its_policy_names(reported, page):
    assert not page.open
    names = [tag for tag, _ in page.tags]
    assert {*names}.isdisjoint({"link", "iframe", "object", "form"})
    assert names.count("script") == 1
    written = (reported.folder / "report.html").read_text("utf-8")
    script = written.split("<script>")[1].split("</script>")[0]
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    attributes = [(key, value) for _, attrs in page.tags for key, value in attrs.items()]
    assert not [key for key, _ in attributes if key.startswith("on")]
    sources = [value for key, value in attributes if key == "src"]
    assert len(sources) == 4 and all(s.startswith("data:image/png;base64,") for s in sources)
    links = [value for key, value in attributes if key == "href"]
    ids = {value for key, value in attributes if key == "id"}
    # All within the page, which may be moved alone; a figure's leads to itself, enlarged.
    places = {link.removeprefix("#") for link in links if link.startswith("#")}
    assert len(places) > 5 and places <= ids and "curves_full" in places
    assert [link for link in links if not link.startswith("#")] == []
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    policy += f"script-src 'sha256-{allowed}'"
    csp = {"http-equiv": "Content-Security-Policy", "content": policy}
    assert ("meta", csp) in page.tags


def test_the_page_shows_text_from_a_run_and_obeys_none_of_it(run):
    examples = run.tables["examples"].assign(text=NASTY, gold_label=NASTY, predicted_label=NASTY)
    warnings = run.tables["warnings"].assign(message=NASTY, source=NASTY)
    settings = [one | {"name": NASTY} for one in run.settings]
    manifest = run.manifest | {"name": NASTY, "command": NASTY, "split": NASTY}
    tables = run.tables | {"examples": examples, "warnings": warnings}
    page = Page(build_report(Run(run.folder, manifest, settings, tables)).read_text("utf-8"))
    assert not page.open and [tag for tag, _ in page.tags].count("script") == 1
    assert page.text.count("<script>alert('x')</script>␛[31m �{{ 7*7 }}") >= 5
    assert "\x1b" not in page.text and "\u202e" not in page.text


def test_the_page_says_its_question_and_its_result_before_anything_else(reported, page):
    analysis = analyse(reported)
    for text in (question(analysis), verdict(analysis)):
        assert text and page.text.index(text) < page.text.index("Results")


def test_the_page_has_every_mean_of_the_main_table(reported, page):
    table = (reported.folder / "tables" / "headline.md").read_text("utf-8")
    for number in re.findall(r"\d\.\d{3}", table):
        assert number in page.text


def test_sentences_are_as_many_wrong_as_right_and_say_so(page):
    # Four sentences in the fixture's configuration.
    assert page.text.count("labelled ") == 4
    tags = re.findall(r"\b(right|wrong)\b(?=\s*(?:Leave|Integrated|Vanilla|Random))", page.text)
    assert sorted(tags) == ["right", "right", "wrong", "wrong"]


def test_a_run_without_gold_labels_has_no_right_and_wrong(run, no_figures):
    examples = run.tables["examples"].assign(gold=None, gold_label=None, correct=None)
    examples["correct"] = examples["correct"].astype("boolean")
    unlabelled = Run(run.folder, run.manifest, run.settings, run.tables | {"examples": examples})
    page = Page(build_report(unlabelled).read_text("utf-8"))
    assert "Right and wrong" not in page.text and "labelled" not in page.text
    assert (
        page.text.count("p = 0.") + page.text.count("p = 1.") == 1 + 4
    )  # one of them heads the page


def test_a_run_of_nothing_but_timings_has_a_page(make_run, run):
    empty = {name: table.iloc[:0] for name, table in run.tables.items()}
    timed = Run(run.folder, run.manifest, run.settings, empty | {"timings": run.tables["timings"]})
    page = Page(build_report(timed).read_text("utf-8"))
    assert "Examples per second" in page.text and "Figures" not in page.text


def test_the_manifest_stands_on_the_page(reported, page):
    text = page.text[: page.text.index('"use strict"')]
    assert json.loads(text[text.index("{\n") : text.rindex("}") + 1]) == reported.manifest


def test_what_was_run_in_plain_words(run):
    assert what_was_run(analyse(run)) == (
        "3 methods and random rankings explained 20 texts of the test split of movie_reviews as tiny-bert "
        "classifies them: the scores are those of the predicted class, of its logit. The model is right "
        f"on {run.tables['examples']['correct'].sum()} of 20. Removed tokens are replaced by the mask token."
    )


@pytest.mark.parametrize("target", ["contrast:good|bad", ["good", "bad"]])
def test_a_class_held_against_another_is_named_in_words(run, target):
    run.manifest["config"]["target"] = target
    said = what_was_run(analyse(run))
    assert "the scores are those of class good held against class bad, of its logit" in said


def test_a_small_run_says_what_it_can_detect_and_claims_nothing(run):
    words = caution(analyse(run))
    assert re.match(
        r"With n = 20, the smallest difference in SRG that could be detected is 0\.\d", words
    )
    assert "This is a first look: it makes no claim about which method is better." in words


def test_metrics_that_remove_nothing_favour_no_baseline_and_are_called_by_their_names(run):
    rows = run.tables["rows"]
    known = rows[rows["metric"] == "srg"].assign(metric="precision_at_k", removal=None)
    found = analyse(Run(run.folder, run.manifest, run.settings, run.tables | {"rows": known}))
    assert "with the mask token, which" not in caution(found)
    assert "replaced by" not in what_was_run(found)
    assert "the smallest difference in Precision at k that" in caution(found)


def test_a_baseline_that_also_replaces_removed_tokens_is_said(run):
    assert "Integrated Gradients" in caution(analyse(run))
    assert "with the mask token, which is also" in caution(analyse(run))
    run.manifest["config"]["evaluation"]["removal"] = "zero"
    assert "with the mask token, which" not in caution(analyse(run))
