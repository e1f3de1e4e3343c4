"""Scores that were computed elsewhere."""

import torch

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods.base import method
from saliency_bench.core.errors import InputError
from saliency_bench.core.tensors import Attribution
from saliency_bench.data.scores import read_scores
from saliency_bench.models.contents import without_digest
from saliency_bench.models.tasks.registry import task_of


@method("token", label="Scores from a file")
def file(ctx: Context, *, path: str) -> Attribution:
    """The scores of a file of JSON lines (see `data.scores`), from any method.

    Raises:
        InputError: the target is a contrast, or the file has no scores for a text and its target.
    """
    if ctx.target.ndim > 1:
        raise InputError(
            "method.file: expected one class as the target, since scores are of one class, not of a contrast"
        )
    file_scores = read_scores(without_digest(path))
    model = ctx.references.model
    scores = torch.zeros(ctx.batch.mask.shape, dtype=torch.float64)
    for row, (item, target) in enumerate(zip(ctx.batch.encoded, ctx.target.tolist(), strict=True)):
        name = task_of(model).name_of(model, target, item, ctx.logits.shape[-1])
        of_text = file_scores.of(item, target, name)
        scores[row, : len(of_text)] = torch.tensor(of_text, dtype=torch.float64)
    return Attribution(scores=scores, n_gradients=0)
