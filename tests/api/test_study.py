"""A study from Python is the study of the command: the same ids, the same numbers."""

import re
import sys
import warnings
from dataclasses import replace
from html import unescape
from importlib import import_module
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from transformers import pipeline

import saliency_bench as sb
from saliency_bench.cli import main as cli
from saliency_bench.core.labels import setting_labels
from saliency_bench.store.run import read_run

TEXTS = ["the film w1 w2", "a film w3", "w4 and w5 the w6 w7", "w8 w9 a", "w1 and w2"]
METHODS = ["vanilla", {"method": "integrated_gradients", "n_steps": [2, 4]}, "random"]


@pytest.fixture(scope="module")
def model(folder):
    return sb.load_model(str(folder), device="cpu")


@pytest.fixture(scope="module")
def result(model):
    return sb.study(model, TEXTS, METHODS, ["srg", "comprehensiveness"])


def test_its_rows_are_those_of_the_command(result, folder, tmp_path, no_figures):
    pd.DataFrame({"text": TEXTS}).to_csv(tmp_path / "texts.csv", index=False)
    words = ["~experiment", "model=hub", f"model.path={folder}", "runtime.device=cpu", "data=file"]
    words += ["data.text=text", f"data.path={tmp_path / 'texts.csv'}", f"out={tmp_path / 'run'}"]
    words += ["method=[vanilla,integrated_gradients,random]", "metric=[srg,comprehensiveness]"]
    assert cli.main([*words, "method.integrated_gradients.n_steps=[2,4]"]) == 0
    run = read_run(tmp_path / "run")
    key = ["setting_id", "text", "metric", "removal"]
    tables = []
    for rows, examples in (
        (run.tables["rows"], run.tables["examples"]),
        (result.rows, result.run.tables["examples"]),
    ):
        table = rows.merge(examples[["example_id", "text"]], on="example_id")
        tables.append(table.set_index(key)["value"].sort_index())
    pd.testing.assert_series_equal(*tables, rtol=1e-5)  # float32, other blocks


def test_the_summary_has_a_line_for_each_setting_and_metric_with_what_differs(result):
    summary = result.summary()
    assert list(summary)[:6] == ["method", "metric", "mean", "low", "high", "n"]
    assert len(summary) == 4 * 2
    assert set(summary["method"]) == {"vanilla", "integrated_gradients", "random"}
    assert set(summary["n_steps"].dropna()) == {2, 4}
    assert (summary["low"] <= summary["mean"]).all()
    assert (summary["mean"] <= summary["high"]).all()
    assert (summary["n"] == len(TEXTS)).all()
    rows = result.rows
    means = rows.groupby(["setting_id", "metric"])["value"].mean()
    found = summary.set_index(["setting_id", "metric"])["mean"]
    pd.testing.assert_series_equal(found.sort_index(), means, check_names=False)


def test_a_comparison_is_antisymmetric_and_the_difference_of_means(result):
    forth, back = result.compare("vanilla", "random"), result.compare("random", "vanilla")
    assert forth["difference"].tolist() == pytest.approx((-back["difference"]).tolist())
    means = result.summary().set_index(["method", "metric"])["mean"]
    for row in forth.itertuples():
        expected = means["vanilla", row.metric] - means["random", row.metric]
        assert row.difference == pytest.approx(expected)
        assert row.low <= row.difference <= row.high


def test_where_no_method_is_chosen_the_settings_are_the_quickstarts_without_twins(model):
    from saliency_bench.cli import config

    study_from_python = import_module("saliency_bench.api.study")

    def of_ours(settings):
        return {
            (one.name, repr(sorted(one.hyper.items())))
            for one in settings
            if one.backend != "captum"
        }

    cfg = study_from_python._config(model)
    cfg.method = study_from_python._entries("method", None)
    expected = config.settings(config.load([]))
    ours = study_from_python.settings(cfg)
    assert of_ours(ours) == of_ours(expected)
    assert len(ours) == len(of_ours(expected)) < len(expected)


def test_maps_that_are_evaluated_say_in_what_their_settings_differ(model):
    maps = sb.attribute(
        model, TEXTS[:2], ["vanilla", "integrated_gradients"], n_steps=[2, 4], reduction="l2"
    )
    table = sb.evaluate(model, maps, ["srg", "sufficiency"])
    for row in table.itertuples():
        settings = {one.setting["setting_id"]: one.setting for one in maps}
        steps = settings[row.setting_id].get("n_steps")
        assert pd.isna(row.n_steps) if steps is None else row.n_steps == steps
    assert not {"reduction", "baseline", "seed"} & set(table)
    alike = sb.evaluate(model, maps[:2], ["srg"])
    assert "n_steps" not in alike


def test_a_hyperparameter_called_like_a_column_leaves_the_column_as_it_is(model):
    entry = {"method": "leave_one_out", "removal": ["mask", "pad"]}
    result = sb.study(model, TEXTS[:2], [entry], ["srg"], removal=["unk", "mask"])
    assert set(result.rows["removal"]) == {"unk", "mask"}
    assert set(result.rows["method_removal"]) == {"mask", "pad"}


def test_a_model_says_on_one_line_what_it_is(model):
    line = repr(model)
    assert "\n" not in line and len(line) < 200
    for part in ("sequence-classification", "LABEL_0", "float32", "cpu"):
        assert part in line
    many = replace(model, labels=tuple(f"class {place}" for place in range(93)))
    assert "\n" not in repr(many) and len(repr(many)) < 200
    assert "93 classes" in repr(many)


def test_a_comparison_has_metrics_in_their_order_and_refuses_a_method_against_itself(model, result):
    both = sb.study(model, TEXTS, ["vanilla", "random"], "srg", removal=["mask", "attention"])
    asked = both.compare("vanilla", "random")["metric"].tolist()
    assert asked == ["srg", "srg (attention)"]
    with pytest.raises(sb.InputError, match="vanilla and vanilla are the same setting"):
        result.compare("vanilla", "vanilla")


def test_a_study_says_how_far_it_is_where_somebody_reads_and_nothing_elsewhere(
    model, capsys, monkeypatch
):
    many = [f"the film w{place} w{place % 7}" for place in range(40)]

    def said(**options):
        sb.study(model, many, "vanilla", "srg", **options)
        return capsys.readouterr().err

    assert said() == ""
    assert re.search(r"^blocks: 0 of \d+$", said(progress=True), re.M)
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    assert "blocks: " in said()
    assert said(progress=False) == ""
    monkeypatch.delitem(sys.modules, "ipykernel")
    monkeypatch.setattr("saliency_bench.studies.run.LONG_SECONDS", 0.0)
    announced = said(progress=True)
    assert re.search(r"^About .* gradients of .* tokens", announced, re.M)
    assert "then the report" not in announced
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert "blocks" in said()


def test_of_a_method_with_several_settings_one_must_be_named(result):
    with pytest.raises(sb.InputError, match="integrated_gradients has 2 settings") as error:
        result.compare("integrated_gradients", "random")
    setting = re.search(r"\b[0-9a-f]{12}\b", str(error.value))[0]
    assert len(result.compare(setting, "random")) == 2


def test_a_setting_is_named_by_its_id_or_as_the_tables_show_it(result):
    labels = setting_labels(result.run.settings)
    (key,) = [key for key, label in labels.items() if "n_steps=2" in label]
    pd.testing.assert_frame_equal(
        result.compare(labels[key], "Vanilla gradient"), result.compare(key, "vanilla")
    )
    with pytest.raises(sb.InputError, match="did you mean 'vanilla'"):
        result.compare("vanila", "random")


def test_it_shows_its_main_table_and_draws_and_reports(result):
    assert "Integrated Gradients (n_steps=2)" in repr(result)
    assert "<td>Vanilla gradient</td>" in result._repr_html_()
    assert "a first look, no claim" in repr(result) and "a first look" in result._repr_html_()
    assert f"In {result.folder}" in repr(result) and ".summary()" in repr(result)
    assert result.plot().axes
    assert result.plot()._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(sb.InputError, match="nothing to draw"):
        result.plot("noise_map")
    page = result.report().read_text("utf-8")
    assert "best on your texts?" in page and "of memory" not in page
    assert r"\begin{tabular}" in result.to_latex()


def test_in_a_notebook_its_text_is_text(result, monkeypatch):
    """Where rich takes itself to be in a notebook it would show a second table there, with the folder under it."""
    from rich import console

    monkeypatch.setattr(console, "_is_jupyter", lambda: True)
    assert "Integrated Gradients (n_steps=2)" in repr(result)


def test_the_same_call_with_the_same_folder_computes_nothing_again(model, tmp_path):
    calls = [0]
    handle = model.module.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    try:
        first = sb.study(model, TEXTS, "vanilla", "srg", out=tmp_path / "run")
        spent, calls[0] = calls[0], 0
        again = sb.study(model, TEXTS, "vanilla", "srg", out=tmp_path / "run")
    finally:
        handle.remove()
    assert calls[0] < spent  # the probe of the model alone
    pd.testing.assert_frame_equal(first.rows, again.rows)
    with pytest.raises(sb.InputError, match="holds another run"):
        sb.study(model, TEXTS[:2], "vanilla", "srg", out=tmp_path / "run")


def test_any_form_of_the_texts_gives_the_same_rows(model, result):
    from datasets import Dataset

    labels = [0, 1, 0, 1, 1]
    frame = pd.DataFrame({"text": TEXTS, "label": labels})
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, labels, strict=True)]
    forms = [frame, rows, Dataset.from_list(rows), frame["text"]]
    tables = [sb.study(model, form, ["vanilla"], ["srg"]).rows for form in forms]
    expected = result.rows.query("method == 'vanilla' and metric == 'srg'")["value"].tolist()
    for table in tables:
        assert table["value"].tolist() == expected
    gold = sb.study(model, frame, ["vanilla"], ["srg"], target="gold").run.tables["examples"]
    assert gold["gold"].tolist() == labels


def test_n_texts_are_chosen_by_their_words_whatever_their_order(model):
    ids = [
        set(sb.study(model, texts, ["random"], ["srg"], n=3).run.tables["examples"]["text"])
        for texts in (TEXTS, TEXTS[::-1])
    ]
    assert ids[0] == ids[1]
    assert len(ids[0]) == 3


def test_a_model_in_memory_and_a_pipeline_give_the_maps_of_the_folder(model, folder):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    module = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    whole = pipeline("text-classification", model=module, tokenizer=tokenizer, device="cpu")
    expected = sb.attribute(model, TEXTS, "vanilla")
    for loaded in (sb.load_model(module, tokenizer), sb.load_model(whole), whole, str(folder)):
        maps = sb.attribute(loaded, TEXTS, "vanilla")
        for one, other in zip(maps, expected, strict=True):
            assert one.scores == pytest.approx(other.scores, rel=1e-5)
            assert one.label == other.label


def test_several_methods_at_once_are_those_one_by_one(model):
    methods = ["vanilla", "integrated_gradients", "smoothgrad"]
    maps = sb.attribute(model, TEXTS[:2], methods, n_steps=[2, 4], n_samples=4)
    alone = [
        sb.attribute(model, TEXTS[:2], "vanilla"),
        sb.attribute(model, TEXTS[:2], "integrated_gradients", n_steps=[2, 4]),
        sb.attribute(model, TEXTS[:2], "smoothgrad", n_samples=4),
    ]
    expected = [one for text in (0, 1) for of in alone for one in of if one.input_index == text]
    assert [one.setting for one in maps] == [one.setting for one in expected]
    for one, other in zip(maps, expected, strict=True):
        assert one.scores == pytest.approx(other.scores, rel=1e-5)
    with pytest.raises(TypeError, match="n_stepz"):
        sb.attribute(model, TEXTS[:1], methods, n_stepz=2)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"data": []}, "inputs is empty"),
        ({"methods": ["vanila"]}, "did you mean 'vanilla'"),
        ({"methods": ["vanilla", "vanilla"]}, "two entries are called vanilla"),
        ({"methods": [{"n_steps": 3}]}, "expected a name, or a mapping with 'method'"),
        ({"methods": [{"method": "vanilla", "n_steps": 3}]}, "n_steps"),
        ({"metrics": ["srgg"]}, "did you mean 'srg'"),
        ({"removal": "msk"}, "did you mean 'mask'"),
        ({"data": pd.DataFrame({"t": ["a"]})}, "none of them called text"),
        ({"n": 0}, "n=0: expected a whole number, at least 1"),
        ({"methods": ["ig"]}, "did you mean 'integrated_gradients'"),
        ({"target": "nobody"}, "none of the model's classes"),
        ({"output": "logits"}, "did you mean 'logit'"),
    ],
)
def test_what_is_not_usable_is_refused_by_one_sentence(model, arguments, sentence):
    with pytest.raises((sb.InputError, TypeError), match=sentence) as error:
        sb.study(model, **{"data": TEXTS} | arguments)
    assert "\n" not in str(error.value)


def test_a_pipeline_is_studied_and_evaluated_as_its_model_is(model, folder):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    module = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    whole = pipeline("text-classification", model=module, tokenizer=tokenizer, device="cpu")
    of_model, of_pipeline = (
        sb.study(one, TEXTS, ["vanilla", "random"], ["srg"]).summary() for one in (model, whole)
    )
    assert of_pipeline["mean"].to_numpy() == pytest.approx(of_model["mean"].to_numpy(), abs=1e-5)
    maps = sb.attribute(whole, TEXTS[:2], "vanilla")
    values = [sb.evaluate(one, maps, ["srg"])["value"].to_numpy() for one in (model, whole)]
    assert values[0] == pytest.approx(values[1], abs=1e-5)
    with pytest.raises(sb.InputError, match="give its tokenizer too"):
        sb.study(module, TEXTS, ["vanilla"], ["srg"])


def test_methods_that_share_a_letter_do_not_differ_and_few_texts_have_none(model):
    few = sb.study(model, TEXTS, ["vanilla", "random"], ["srg"])
    assert set(few.summary()["group"]) == {""}
    texts = [f"the film w{i % 30} and w{i % 29} w{i % 7}" for i in range(100)]
    many = sb.study(model, texts, ["vanilla", "integrated_gradients", "random"], ["srg", "morf"])
    summary = many.summary()
    letters = summary[summary["metric"] == "srg"].set_index("method")["group"]
    assert (letters.str.len() > 0).all()
    assert (summary[summary["metric"] != "srg"]["group"] == "").all()
    assert dict(letters) == {
        setting["method"]: many._analysis.groups[setting["setting_id"]]
        for setting in many._analysis.settings
    }


def test_what_is_no_model_is_refused(folder):
    with pytest.raises(sb.InputError, match="got 3"):
        sb.load_model(3)
    with pytest.raises(sb.InputError, match="give its tokenizer too"):
        sb.load_model(torch.nn.Linear(2, 2))


def test_a_study_of_what_was_in_memory_is_not_resumed_by_the_command(model, tmp_path, capsys):
    sb.study(model, TEXTS[:2], "vanilla", "srg", out=tmp_path / "run")
    (tmp_path / "run" / "manifest.json").unlink()
    (tmp_path / "run" / "config.json").write_text(
        '{"model": {"name": "memory", "task": "sequence-classification"}}'
    )
    assert cli.main(["resume", str(tmp_path / "run")]) == 2
    assert "begun from Python" in capsys.readouterr().err


def test_its_page_names_the_call_as_it_can_be_typed_and_no_command_for_another_model(
    result, no_figures, capsys
):
    page = unescape(result.report().read_text("utf-8"))
    call = re.search(r"<pre>(sb\.study\(.*?)</pre>", page)[1]
    said = {}
    eval(
        call, {"sb": SimpleNamespace(study=lambda *a, **k: said.update(k)), "model": 0, "texts": 0}
    )
    assert said == {"methods": METHODS, "metrics": ["srg", "comprehensiveness"]}
    assert 'sb.study(sb.load_model("FOLDER_OR_HUB_ID"), texts)' in page
    assert "saliency-bench model=hub" not in page
    assert cli.main(["report", str(result.folder)]) == 0
    assert "explain" not in capsys.readouterr().out


def test_one_thing_has_no_plural(model, no_figures, capsys):
    one = sb.study(model, TEXTS[:1], "vanilla", "srg")
    page = re.sub(
        r"<(script|style).*?</\1>|<[^>]*>", "", one.report().read_text("utf-8"), flags=re.S
    )
    said = [repr(one), page, *(path.read_text() for path in one.folder.glob("tables/*.md"))]
    assert cli.main(["report", str(one.folder)]) == 0
    words = " ".join([*said, capsys.readouterr().out])
    found = re.findall(r"(?<![\d.,=-])1 \w+s\b(?<!is)", words)
    assert found == [], found
    assert "1 text" in words and "1 example" in words


def test_the_parts_are_listed_with_what_they_are():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        methods, metrics = sb.methods(), sb.metrics()
    assert "smoothgrad" in set(methods["name"])
    assert (methods["about"] != "").all()
    assert (metrics["source"] != "").all()
    for table in (methods, metrics):
        shown = repr(table).splitlines()
        assert max(map(len, shown)) <= 100
        assert re.search(rf"^{table['name'][0]} +{table['about'][0][:20]}", "\n".join(shown), re.M)
        assert "Its other columns: " in shown[-1]
        assert repr(table[["name"]]) == repr(pd.DataFrame(table[["name"]]))
    parameters = sb.explain_parameters("smoothgrad").set_index("parameter")
    assert parameters.loc["noise_std", "default"] == 0.1
    assert "standard deviations" in parameters.loc["noise_std", "meaning"]
    assert (parameters["meaning"] != "").all()
    with pytest.raises(sb.InputError, match="did you mean 'smoothgrad'"):
        sb.explain_parameters("smothgrad")
