"""Studies of every task: metrics, timings and a report, as for classifiers; what makes no sense is a row with its reason."""

import json
import re

import pandas as pd
import pytest
import torch
from tiny_chats import bpe_tokenizer, tiny_decoder
from tiny_heads import tiny_head, word_tokenizer

import saliency_bench as sb
from saliency_bench.attribution.settings import expand
from saliency_bench.cli import main as cli
from saliency_bench.core.conf import method_defaults
from saliency_bench.store.run import read_run
from saliency_bench.studies.prepare import fit_settings

LINES = {
    "token-classification": ["text", "the capital of france is paris .", "what is a w1 of rome"],
    "question-answering": [
        "text,text_pair",
        "what is the capital ?,the capital of france is paris .",
        "what ?,a w1 is a w2",
    ],
    "fill-mask": ["text", "the capital of france is [MASK] .", "w1 [MASK] w2"],
    "text-generation": ["text", "the capital of france is", "what is a"],
}
KINDS = dict.fromkeys(LINES, "bert") | {"text-generation": "llama"}


@pytest.mark.parametrize("task", LINES)
def test_a_study_has_metrics_timings_and_a_report(task, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    if task != "token-classification":  # figures are drawn alike for all tasks
        monkeypatch.setattr("saliency_bench.report.build.FIGURES", {})
    tiny_head(task, KINDS[task]).float().save_pretrained(tmp_path / "model")
    tokenizer = word_tokenizer(tmp_path / "model")
    tokenizer.model_input_names = ["input_ids", "attention_mask"] + (
        ["token_type_ids"] if KINDS[task] == "bert" else []
    )
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "texts.csv").write_text("\n".join(LINES[task]) + "\n", "utf-8")
    pair = ["data.text_pair=text_pair"] if "," in LINES[task][0] else []
    words = ["~experiment", "model=hub", "model.path=model", f"model.task={task}", "data=file"]
    words += ["data.path=texts.csv", "method=[integrated_gradients,vanilla,random]", *pair]
    words += ["method.integrated_gradients.quadrature=midpoint", "metric=[srg,completeness_gap]"]
    words += ["evaluation.removal=[mask,delete]", "convergence.n_examples=1", "runtime.threads=1"]
    words += ["timing.enabled=true", "timing.n_examples=1", "timing.n_repeats=2", "out=run"]
    if task == "text-generation":
        words += ["method.integrated_gradients.baseline=zero"]
    assert cli.main(words) == 0, capfd.readouterr().err
    run = read_run(tmp_path / "run")
    rows = run.tables["rows"].query("metric == 'srg'")
    replaced, deleted = (rows[rows["removal"] == name] for name in ("mask", "delete"))
    assert run.manifest["replaced_by"]["mask"] == "[MASK]"
    assert (replaced["status"] == "ok").all() and replaced["value"].notna().all()
    expected = "ok" if task == "fill-mask" else "not_applicable"
    assert (deleted["status"] == expected).all()
    assert len(run.tables["timings"]) > 0
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    underlined = re.findall(r'<span style="text-decoration:underline;[^>]*>([^<]*)</span>', page)
    assert underlined  # the token that was asked about, in every map that shows it
    if task != "question-answering":
        asked = re.findall(r'<h3>([^<]*) <span class="soft">\(token (\d+)\)</span>: ', page)
        examples = run.tables["examples"]
        assert len(asked) == min(8, len(examples))
        known = {
            (row["tokens"][place], str(place))
            for row in run.tables["maps"].to_dict("records")
            for place in [int(row["example_id"].rpartition("@")[2])]
        }
        assert set(asked) <= known
    again = pd.read_parquet(tmp_path / "run" / "rows.parquet")
    assert cli.main(["resume", "run"]) == 0
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "run" / "rows.parquet"), again)


def test_where_nodes_cannot_be_calibrated_those_of_gauss_legendre_are_taken_and_it_is_said():
    entry = method_defaults("integrated_gradients") | {"quadrature": "calibrated", "n_steps": 18}
    model = sb.wrap_model(tiny_head("fill-mask", "bert"), task="fill-mask")
    (setting,), warnings = fit_settings(model, expand({"ig": entry | {"baseline": "zero"}}))
    assert (setting.hyper["quadrature"], setting.hyper["n_steps"]) == ("gauss_legendre", 50)
    assert [one["source"] for one in warnings] == ["method.ig.quadrature"]


@pytest.mark.parametrize("kind", ["options", "messages", "passages"])
def test_a_study_asks_options_and_chats_of_a_file(kind, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("saliency_bench.report.build.FIGURES", {})
    tokenizer = bpe_tokenizer()
    tiny_decoder("llama", dtype=torch.float32).module.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    options = {"options": [" Oslo", " Bergen, by the sea"], "label": "Oslo"}
    chat = [{"role": "user", "content": "The capital of Norway?"}]
    passages = {"first": "The king lives in Oslo.", "second": "It rains in Bergen."}
    question = " ".join([*passages.values(), "Where does the king live?"])
    row = {
        "passages": {
            "messages": [{"role": "user", "content": question, "segments": passages}],
            **options,
        },
        "options": {"text": "The capital of Norway is", **options},
        "messages": {"messages": chat, **options},
    }[kind]
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    words = [
        "~experiment",
        "model=hub",
        "model.path=model",
        "model.task=text-generation",
        "data=file",
    ]
    words += ["data.path=rows.jsonl", "data.options=options", "data.label=label", "target=gold"]
    words += ["data.messages=messages"] if kind != "options" else []
    words += ["evaluation.granularity=segment"] if kind == "passages" else []
    words += ["method=[vanilla,random]", "metric=[srg]", "evaluation.removal=[zero]", "out=run"]
    words += ["convergence.n_examples=0", "timing.enabled=false", "runtime.threads=1"]
    assert cli.main(words) == 0, capfd.readouterr().err
    run = read_run(tmp_path / "run")
    assert (run.tables["rows"]["status"] == "ok").all()
    assert run.tables["examples"]["example_id"].str.endswith("@mean").all()
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "␣Oslo" in page
    assert all((f">{name}</span>" in page) == (kind == "passages") for name in passages)
