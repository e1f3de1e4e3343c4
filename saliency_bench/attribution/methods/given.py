"""Scores that somebody else computed."""

import torch

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods.base import method
from saliency_bench.data.scores import read_scores
from saliency_bench.errors import InputError
from saliency_bench.models.references import without_digest
from saliency_bench.tasks import targets
from saliency_bench.types import Attribution


@method("token")
def file(ctx: Context, *, path: str) -> Attribution:
    """The scores of a file of JSON lines (see `data.scores`), whatever method made them."""
    if ctx.target.ndim > 1:
        raise InputError("method.file: its scores are of one class, not of a contrast")
    held = read_scores(without_digest(path))
    labels = targets.class_names(ctx.references.model.labels, ctx.logits.shape[-1])
    scores = torch.zeros(ctx.batch.mask.shape, dtype=torch.float64)
    for row, (item, target) in enumerate(zip(ctx.batch.encoded, ctx.target.tolist(), strict=True)):
        own = held.of(item, target, labels[target])
        scores[row, : len(own)] = torch.tensor(own, dtype=torch.float64)
    return Attribution(scores=scores, n_gradients=0)
