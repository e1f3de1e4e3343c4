"""One text of 64 for which the model gives no number: its row says so, and the others are what they were, bit by bit."""

import numpy as np
import pytest
import torch
from tiny import FrameTokenizer, framed, scored_by, token_inputs

import saliency_bench as sb

POISON = 40  # the id of the token that makes one text's numbers NaN or infinite
INPUTS = framed(*token_inputs(*(3 + place % 6 for place in range(64))))
BAD = 23
METHODS = {
    "vanilla": {},
    "smoothgrad": {"n_samples": 4, "noise_absolute": 0.1},
    "integrated_gradients": {"n_steps": 4, "baseline": "zero"},
    "leave_one_out": {"removal": "zero"},
}


def poisoned():
    ids = [
        {"input_ids": [token if token != POISON else 41 for token in one["input_ids"]]}
        for one in INPUTS
    ]
    ids[BAD]["input_ids"][2] = POISON
    return ids


def model(value):
    def score(embeddings):
        own = torch.tanh(embeddings).sum(-1).cumsum(-1).sin().sum(-1)
        factor = torch.ones_like(own)
        factor[(embeddings[..., 0] > 50).any(-1)] = value
        return own * factor  # not torch.where, whose gradient would be NaN for all

    made = scored_by(score, tokenizer=FrameTokenizer())
    made.module.embedding.weight.data[POISON, 0] = 100
    return made


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", METHODS)
def test_one_row_without_a_number_is_flagged_and_the_others_are_bit_equal(
    method, value, record_property
):
    inputs, options = poisoned(), METHODS[method]
    ill, well = (
        sb.attribute(model(one), inputs, method, target=0, **options) for one in (value, 1.0)
    )
    tables = [
        sb.evaluate(model(one), maps, ["srg", "deletion_auc"], removal="zero", output="logit")
        for one, maps in ((value, ill), (1.0, well))
    ]
    for place, (a, b) in enumerate(zip(ill, well, strict=True)):
        assert (place == BAD) != bool(np.array_equal(a.scores, b.scores))
    rows = [table.set_index(["input_index", "metric"]) for table in tables]
    bad = rows[0].loc[BAD]
    assert (bad["status"] == "failed").all()
    assert bad["reason"].str.contains("finite").all()
    assert bad["value"].isna().all()
    others = [table.drop(index=BAD, level=0)["value"].tolist() for table in rows]
    assert others[0] == others[1]
    record_property("faults: a text of 64 without a number", 1)
