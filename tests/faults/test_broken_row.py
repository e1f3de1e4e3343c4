"""A token whose embedding is no number fails the texts that it is in, and no others."""

import re

import numpy as np
import pytest
from tiny import FrameTokenizer, framed, tiny_bert, token_inputs
from tiny_heads import word_tokenizer

import saliency_bench as sb
from saliency_bench.cli import main as cli
from saliency_bench.core import conf as conf_files
from saliency_bench.core.registry import REMOVALS
from saliency_bench.models.references import References

BROKEN = 7
WELL = [
    {"input_ids": [8 if token == BROKEN else token for token in one["input_ids"]]}
    for one in framed(*token_inputs(5, 6, 5))
]
#: The first text is touched: it is the one that a model is probed on.
TOUCHED = {"input_ids": [*WELL[0]["input_ids"][:2], BROKEN, *WELL[0]["input_ids"][3:]]}
INPUTS = [TOUCHED, *WELL]
#: What draws its references from the whole vocabulary may meet the token in any text.
DRAWN = ("expected_gradients", "gradient_shap", "random", "file")
#: Its scores are rounding noise after LayerNorm.
NOISE = ("allennlp_smooth_gradient",)


def broken(value=float("nan")):
    module = tiny_bert()
    module.get_input_embeddings().weight.data[BROKEN, 3] = value
    return module


@pytest.mark.parametrize("name", [one for one in conf_files.names("method") if one not in DRAWN])
def test_only_the_texts_with_the_token_have_no_scores(name):
    if name == "partition_shap":
        pytest.importorskip("shap", reason="shap, the extra of that name, is not installed")
    model = sb.wrap_model(broken(), FrameTokenizer())
    small = {"n_steps": 4, "n_samples": 4, "max_steps": 64}
    entry = conf_files.method_defaults(name)
    options = {key: value for key, value in small.items() if key in entry}
    if "relative_error" in entry:
        options |= {"relative_error": None, "max_samples": None}
    maps = sb.attribute(model, INPUTS, name, **options)
    assert [one.finite for one in maps] == [False, True, True, True]
    alone = sb.attribute(model, WELL, name, **options)
    if name in NOISE:
        return
    for a, b in zip(maps[1:], alone, strict=True):
        np.testing.assert_allclose(a.scores, b.scores, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("removal", REMOVALS.names())
def test_only_their_metrics_fail(removal):
    model = sb.wrap_model(broken(), FrameTokenizer())
    maps = sb.attribute(model, INPUTS, "vanilla")
    metrics = ["srg", "leave_one_out_tau", "decision_flip_fraction"]
    table = sb.evaluate(model, maps, metrics, removal=removal)
    touched = table.input_index == 0
    assert set(table.status[touched]) == {"failed"}
    assert table.reason[touched].str.contains("finite").all()
    assert set(table.status[~touched]) <= {"ok", "not_applicable"}
    assert (table.status == "ok").sum() >= 6


def test_the_unit_of_noise_is_that_of_the_other_rows():
    model = sb.wrap_model(broken(), FrameTokenizer())
    table = np.delete(model.module.get_input_embeddings().weight.detach().numpy(), BROKEN, 0)
    assert References(model).embedding_std == pytest.approx(table.std(), rel=1e-12)
    np.testing.assert_allclose(References(model).vector("mean").numpy(), table.mean(0), rtol=1e-12)


def test_a_model_that_is_broken_throughout_is_refused():
    module = broken()
    module.classifier.weight.data[:] = float("nan")
    with pytest.raises(sb.InputError, match="not finite"):
        sb.attribute(sb.wrap_model(module, FrameTokenizer()), INPUTS, "vanilla")


@pytest.mark.usefixtures("no_figures")
def test_a_study_goes_on(tmp_path, monkeypatch, capfd):
    from saliency_bench.store.run import read_run

    monkeypatch.chdir(tmp_path)
    tokenizer = word_tokenizer(tmp_path)
    module = broken().float()
    row = tokenizer.convert_tokens_to_ids("rome")
    module.get_input_embeddings().weight.data[row] = float("nan")
    module.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "texts.csv").write_text(
        "text,label\nrome is a capital,0\nwhat is paris,0\nthe w15,1\n", "utf-8"
    )
    words = ["~experiment", "model=hub", "model.path=model", "data=file", "data.path=texts.csv"]
    words += [
        "data.text=text",
        "data.label=label",
        "report.n_examples=3",
        "method=[vanilla,smoothgrad,leave_one_out,beam_search,random]",
    ]
    words += ["metric=[srg,completeness_gap]", "name=t", "out=run", "runtime.device=cpu"]
    words += ["statistics.n_resamples=100", "runtime.threads=1"]
    code = cli.main(words)
    said = capfd.readouterr().err
    assert code in (0, 1), said
    assert "Traceback" not in said
    rows, examples = (read_run(tmp_path / "run").tables[name] for name in ("rows", "examples"))
    srg = rows[rows.metric == "srg"].groupby("example_id").status.agg(set)
    assert sorted(map(tuple, srg)) == [("failed",), ("ok",), ("ok",)]
    # A text without outputs is neither right nor wrong.
    touched = examples.text == "rome is a capital"
    told = ["predicted", "predicted_label", "probability", "correct"]
    assert touched.sum() == 1
    assert examples.loc[touched, told].isna().all(axis=None)
    assert examples.loc[~touched, told].notna().all(axis=None)
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert re.search(r"The model is right on \d of 2\.", page)
    assert "its outputs are not finite" in page
