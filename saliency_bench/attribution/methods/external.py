"""Scores that somebody else computed."""

import torch

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods.base import method
from saliency_bench.core.errors import InputError
from saliency_bench.core.tensors import Attribution
from saliency_bench.data.scores import read_scores
from saliency_bench.models.references import without_digest
from saliency_bench.models.tasks.registry import task_of


@method("token", label="Scores from a file")
def file(ctx: Context, *, path: str) -> Attribution:
    """The scores of a file of JSON lines (see `data.scores`), whatever method made them."""
    if ctx.target.ndim > 1:
        raise InputError("method.file: its scores are of one class, not of a contrast")
    held = read_scores(without_digest(path))
    model = ctx.references.model
    scores = torch.zeros(ctx.batch.mask.shape, dtype=torch.float64)
    for row, (item, target) in enumerate(zip(ctx.batch.encoded, ctx.target.tolist(), strict=True)):
        name = task_of(model).name_of(model, target, item, ctx.logits.shape[-1])
        own = held.of(item, target, name)
        scores[row, : len(own)] = torch.tensor(own, dtype=torch.float64)
    return Attribution(scores=scores, n_gradients=0)
