"""Published tables beside a run: which numbers are matched, what differs, and what is not claimed."""

import numpy as np
import pytest

from saliency_bench.cli import main as cli
from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import InputError
from saliency_bench.core.rows import Setting
from saliency_bench.report import published
from saliency_bench.report.analysis import analyse

DISTILBERT = "distilbert-base-uncased-finetuned-sst-2-english"


def setting(method, reduction="sum", **hyper):
    return Setting(method, method, "native", reduction, "predicted", "logit", 0, hyper)


SETTINGS = [
    setting("input_x_gradient"),
    setting("integrated_gradients", baseline="mask", n_steps=50, quadrature="gauss_legendre"),
    setting("integrated_gradients", baseline="pad", n_steps=50, quadrature="gauss_legendre"),
    setting("deep_lift", baseline="mask"),
    setting("sequential_integrated_gradients", baseline="mask", n_steps=50, quadrature="left"),
]


@pytest.fixture
def sig(make_run):
    """A run of some of SIG's settings whose comprehensiveness is DIG's."""
    run = make_run(SETTINGS, n_examples=6, metrics=("comprehensiveness",))
    run.tables["rows"]["metric"] = "dig_comprehensiveness"
    run.manifest["config"]["model"] = {"name": "hub", "path": DISTILBERT}
    return run


def rows(table):
    return [dict(zip([c.key for c in table.columns], row, strict=True)) for row in table.rows]


def test_each_setting_stands_beside_its_own_number(sig):
    table, _ = published.compare(sig, published.read("sig"))
    found = {row["method"]: row for row in rows(table)}
    assert {row["cell"] for row in rows(table)} == {"SST2 DistilBERT"}
    printed = {"GxI": 0.112, "IG": 0.445, "IG (pad)": 0.251, "DeepLIFT": 0.170, "SIG": 0.473}
    assert {name: row["published"] for name, row in found.items()} == printed
    analysis = analyse(sig)
    for name, one in zip(("GxI", "IG", "IG (pad)", "DeepLIFT", "SIG"), SETTINGS, strict=True):
        ours = analysis.estimate(one.id, "dig_comprehensiveness")
        assert found[name]["ours"] == ours
        assert found[name]["difference"] == pytest.approx(ours.mean - printed[name])
    assert "not expected to agree" not in table.caption


def test_with_another_model_only_the_order_is_compared(sig):
    sig.manifest["config"]["model"]["path"] = "somebody/else"
    table, orders = published.compare(sig, published.read("sig"))
    assert "not expected to agree" in table.caption and "somebody/else" in table.caption
    assert len({row["cell"] for row in rows(table)}) == 9
    assert len(orders.rows) == 9


def test_the_order_is_kendalls_tau_of_the_means(sig):
    wanted = {"GxI": 0.112, "IG": 0.445, "IG (pad)": 0.251, "DeepLIFT": 0.170, "SIG": 0.473}
    ours = [analyse(sig).estimate(one.id, "dig_comprehensiveness").mean for one in SETTINGS]
    theirs = [wanted[name] for name in ("GxI", "IG", "IG (pad)", "DeepLIFT", "SIG")]
    pairs = [(i, j) for i in range(5) for j in range(i)]
    signs = [np.sign((ours[i] - ours[j]) * (theirs[i] - theirs[j])) for i, j in pairs]
    _, orders = published.compare(sig, published.read("sig"), "SST2 DistilBERT")
    by_cell = {row["cell"]: row for row in rows(orders)}
    assert by_cell["SST2 DistilBERT"]["tau"] == pytest.approx(np.mean(signs))
    assert by_cell["SST2 DistilBERT"]["n"] == 5


def test_a_number_within_a_published_range_does_not_differ():
    assert published.difference(0.3, 0.2, 0.4) == 0
    assert published.difference(0.5, 0.2, 0.4) == pytest.approx(0.1)
    assert published.difference(0.1, 0.2, 0.4) == pytest.approx(-0.1)


def test_what_cannot_be_compared_is_refused(sig):
    with pytest.raises(InputError, match="sig"):
        published.read("nothing")
    with pytest.raises(InputError, match="SST2 DistilBERT"):
        published.compare(sig, published.read("sig"), "SST2")
    with pytest.raises(InputError, match="reproduce_naopc"):
        published.compare(sig, published.read("naopc"))
    assert cli.main(["compare", "somewhere"]) == 2


@pytest.mark.parametrize("name", list(published.SOURCES))
def test_published_rows_are_whole_and_their_settings_can_be_configured(name):
    found = published.read(name).rows
    assert not found.isna().any().any()
    assert (found["low"] <= found["high"]).all()
    assert not found.duplicated(["cell", "method", "metric"]).any()
    methods = {line.split("method=")[1].split()[0] for line in found["setting"]}
    assert methods <= set(conf_files.names("method"))


def test_two_methods_have_no_order_to_speak_of(make_run, sig):
    run = make_run(SETTINGS[:2], n_examples=4, metrics=("comprehensiveness",))
    run.tables["rows"]["metric"] = "dig_comprehensiveness"
    run.manifest["config"]["model"] = {"name": "hub", "path": DISTILBERT}
    assert [table.name for table in published.compare(run, published.read("sig"))] == ["published"]
