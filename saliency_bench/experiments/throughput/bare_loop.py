"""A loop that does nothing but forward and backward passes; its speed counts as 100 %."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saliency_bench.attribution.quadrature import quadrature as rule
from saliency_bench.experiments.throughput.contestants import (
    CONTESTANTS,
    Contestant,
    Problem,
    Scores,
    cut,
    padded_in_blocks,
)
from saliency_bench.models.tasks.encoding import collate


@dataclass(frozen=True)
class Prepared:
    """Rows with nothing left to do but a forward and a backward pass; `texts` on the host."""

    texts: Sequence[int]
    weights: Float[Tensor, " R"]
    points: Float[Tensor, "R T D"]
    moved: Float[Tensor, "R T D"]
    ids: Int[Tensor, "R T"]
    mask: Bool[Tensor, "R T"] | None
    types: Int[Tensor, "R T"] | None
    target: Int[Tensor, "R 1"]


@CONTESTANTS.register
def bare_loop(problem: Problem) -> Contestant:
    """A loop over prepared batches of the same texts as our blocks, gradients discarded; its speed is 100 %."""
    model = problem.model
    batches = list(_prepared(problem))

    def gradient(batch: Prepared) -> Float[Tensor, "R T D"]:
        points = batch.points.detach().requires_grad_()
        logits = model.output(batch.ids, batch.mask, batch.types, points)
        gradients: Tensor
        (gradients,) = torch.autograd.grad(logits.gather(1, batch.target).sum(), points)
        return gradients

    def run() -> None:
        for batch in batches:
            gradient(batch)

    def check() -> Scores:
        scores: Scores = [np.zeros(len(item)) for item in problem.encoded]
        for batch in batches:
            token_scores = (gradient(batch).double() * batch.moved.double()).sum(-1)
            weighted = (token_scores * batch.weights[:, None]).cpu().numpy()
            for text, row in zip(batch.texts, weighted, strict=True):
                scores[text] += row[: len(scores[text])]
        return scores

    describe = "bare loop: prepared batches of the texts of our blocks, results discarded"
    return Contestant("bare_loop", describe, run, check, padded_tokens=padded_in_blocks(problem))


def _prepared(problem: Problem) -> Iterator[Prepared]:
    """Every pair of a text and a step, texts of a block together, up to the token budget."""
    model = problem.model
    nodes, weights = (
        torch.tensor(side, dtype=torch.float64, device=model.device)
        for side in rule(problem.quadrature, problem.n_steps)
    )
    for block in problem.blocks:
        indices = block.indices
        batch = collate(model, [problem.encoded[index] for index in indices])
        ids, types = batch.input_ids, batch.token_type_ids
        mask = batch.mask if batch.padded else None
        end = model.embed(ids)
        away = problem.references.vector(problem.baseline)
        start = torch.where(batch.attributable[:, :, None], away, end)
        with torch.no_grad():
            target = model.output(ids, mask, types).argmax(-1, keepdim=True)
        pairs = [(row, step) for row in range(len(indices)) for step in range(len(nodes))]
        for chunk in cut(pairs, max(1, problem.token_budget // ids.shape[1])):
            rows, steps = (
                torch.tensor(side, device=model.device) for side in zip(*chunk, strict=True)
            )
            yield Prepared(
                texts=[indices[row] for row, _ in chunk],
                weights=weights[steps],
                points=torch.lerp(
                    start[rows], end[rows], nodes[steps].to(end.dtype)[:, None, None]
                ),
                moved=(end - start)[rows],
                ids=ids[rows],
                mask=None if mask is None else mask[rows],
                types=None if types is None else types[rows],
                target=target[rows],
            )
