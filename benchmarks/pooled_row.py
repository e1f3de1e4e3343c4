"""What is left of a gradient's time where the last layer is trimmed to the pooled row: its time over that of the whole model.

    python -m benchmarks.pooled_row [FOLDER]

The default model, passes of 512 tokens in texts of one length, one thread, float32. A gradient is a forward and a backward pass.
Trimmed is what follows the last attention, or its query too, as in studies. A ratio is that of one round's processor times.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from benchmarks import rounds
from saliency_bench.models.loading import load_default
from saliency_bench.models.model import Model
from saliency_bench.models.pooled_row import PooledRow, first_row_only

N_ROUNDS, LENGTHS, N_TOKENS = 25, (16, 32, 64), 512
WHOLE, LAYER, QUERY = "whole", "trimmed after attention", "query trimmed too"


def gradients(model: Model, length: int) -> dict[str, Callable[[], Tensor]]:
    """Each way to the gradients [R T D] of the first logit at some tokens; the model must be frozen and pool one row."""
    ids = torch.arange(1000, 1000 + N_TOKENS).view(-1, length)
    embeddings, both = model.embed(ids), model.pooled_row or PooledRow(None, (), ())

    def gradient(pooled: PooledRow | None) -> Tensor:
        points = embeddings.detach().requires_grad_()
        with torch.enable_grad(), first_row_only(pooled):
            score = model.output(ids, embeddings=points)[:, 0].sum()
        return torch.autograd.grad(score, points)[0]

    ways = {WHOLE: None, LAYER: replace(both, projections=(), attending=()), QUERY: both}
    return {name: partial(gradient, pooled) for name, pooled in ways.items()}


def ratios(model: Model, length: int, n_rounds: int = N_ROUNDS) -> pd.DataFrame:
    """The time of each way over that of the whole model: a row for each round. The first, which is slower, is left out."""
    with model.frozen():
        ways = gradients(model, length).items()
        timers = {name: partial(rounds.process_seconds, way) for name, way in ways}
        return rounds.ratios(timers, 1 + n_rounds)[1:].reset_index(drop=True)


def main() -> None:
    """Writes the ratios of all rounds, their medians and a manifest."""
    costs = rounds.Costs("pooled_row", "way")
    torch.set_num_threads(1)
    model = load_default(device="cpu")
    for length in LENGTHS:
        costs.add(ratios(model, length), length=length)
    costs.write({}, tokens=N_TOKENS)


if __name__ == "__main__":
    main()
