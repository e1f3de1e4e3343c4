"""What trimming the last layer leaves: all ways have the same gradients, and each computes what its name says."""

import torch

from benchmarks import pooled_row, rounds


def test_every_way_has_the_gradients_of_the_whole_and_computes_the_rows_of_its_name(
    default_model, monkeypatch
):
    monkeypatch.setattr(pooled_row, "N_TOKENS", 16)
    last = default_model.module.bert.encoder.layer[-1]
    parts = {"query": last.attention.self.query, "output": last.output.dense}
    n_rows, watched = {}, {}
    handles = [
        part.register_forward_hook(lambda *call, key=key: n_rows.update({key: call[-1].shape[1]}))
        for key, part in parts.items()
    ]
    with default_model.frozen():
        found = {}
        for name, way in pooled_row.gradients(default_model, 8).items():
            found[name] = way()
            watched[name] = (n_rows["query"], n_rows["output"])
    for handle in handles:
        handle.remove()
    assert watched == {
        pooled_row.WHOLE: (8, 8),
        pooled_row.LAYER: (8, 1),
        pooled_row.QUERY: (1, 1),
    }
    whole = found[pooled_row.WHOLE]
    assert whole.shape[:2] == (2, 8)
    for gradient in found.values():
        # The same sums of float32 in another order.
        torch.testing.assert_close(gradient, whole, rtol=0, atol=2e-5 * float(whole.abs().max()))


def test_every_way_is_held_against_the_whole_model_of_its_own_round(default_model, monkeypatch):
    seconds = iter(range(1, 100))
    monkeypatch.setattr(rounds, "process_seconds", lambda run: float(next(seconds)))
    table = pooled_row.ratios(default_model, 256, 2)
    # The first round is left out.
    assert list(table[pooled_row.LAYER]) == [4 / 6, 9 / 8]
    assert list(table[pooled_row.WHOLE]) == [1, 1]
