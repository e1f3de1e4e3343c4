"""Memory that runs out at any one call of the model: fewer rows are asked, or the run ends with exit code 5 and goes on."""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BertForSequenceClassification

from saliency_bench.cli import config
from saliency_bench.cli import main as cli
from saliency_bench.studies import run as runner

#: As PyTorch says it on a GPU, and on a CPU.
ERRORS = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory"),
    "cpu": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
}
#: Every call, and for the other wording some of them.
STRIDES = {"cuda": 1, "cpu": 6}
#: float32 products in other batches are rounded in another order.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def words(folder, tmp_path_factory):
    """A study of five texts in four blocks that uses gradients, removal and leave-one-out."""
    data = tmp_path_factory.mktemp("data") / "texts.csv"
    texts = ["the film", "a film", "w1 w2 the", "w3 and w4 w5", "a w6 w7 and the"]
    data.write_text("text\n" + "\n".join(texts) + "\n", "utf-8")
    return [
        *["~experiment", "model=hub", f"model.path={folder}", "data=file"],
        *[f"data.path={data}", "method=[integrated_gradients,smoothgrad,leave_one_out]"],
        *["method.integrated_gradients.n_steps=4", "method.smoothgrad.n_samples=4", "metric=[srg]"],
        *["convergence.n_examples=0", "runtime.threads=1"],
    ]


@pytest.fixture
def failing(monkeypatch):
    """A function that makes one call of the model run out of memory; it returns the list of the calls' rows."""
    forward = BertForSequenceClassification.forward

    def arm(at, error):
        calls = []

        def fails(self, *args, **kwargs):
            calls.append(len(kwargs["input_ids"]))
            if len(calls) == at:
                raise error()
            return forward(self, *args, **kwargs)

        monkeypatch.setattr(BertForSequenceClassification, "forward", fails)
        return calls

    return arm


def ended(words, out):
    """How the study ends, the report apart: exit code and message."""
    cfg = composed(tuple(words))
    try:
        runner.run(replace(cfg, out=str(out)), config.settings(cfg), ["saliency-bench", *words])
    except Exception as error:
        return cli._outcome(error)
    return 0, ""


@cache
def composed(words):
    """The configuration, composed once: a hundred studies differ in their folder alone."""
    cfg = config.load(words)
    config.validate(cfg)
    return cfg


def values(folder):
    keys = ["setting_id", "example_id", "metric"]
    rows = pd.read_parquet(folder / "rows.parquet").set_index(keys)
    return rows["value"].astype(float)


@pytest.mark.timeout(900)
@pytest.mark.slow
@pytest.mark.parametrize("kind", ERRORS)
def test_memory_that_runs_out_at_any_call_costs_no_number(
    kind, words, tmp_path, failing, record_property
):
    calls = failing(0, ERRORS[kind])
    whole = tmp_path / "whole"
    assert ended(words, whole) == (0, "")
    expected, n_calls = values(whole), len(calls)
    assert np.isfinite(expected).all()
    codes = []
    for at in range(1, n_calls + 1, STRIDES[kind]):
        out = tmp_path / f"at{at}"
        failing(at, ERRORS[kind])
        code, said = ended(words, out)
        assert code in (0, 5), said
        codes.append(code)
        if code == 5:
            assert said.startswith("out of memory")
            failing(0, ERRORS[kind])
            assert ended(words, out) == (0, "")
            assert (out / "rows.parquet").read_bytes() == (whole / "rows.parquet").read_bytes()
        else:
            pd.testing.assert_series_equal(values(out), expected, rtol=0, atol=TOLERANCE)
    assert {0, 5} == set(codes)  # both ways have been gone
    record_property("faults: memory that ran out at a call of the model", len(codes))
