"""Rankings without gradients: random, leave-one-out, and the best order of removal that a beam search finds."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods.base import method
from saliency_bench.core.random import generator_for
from saliency_bench.core.removal_order import Drops
from saliency_bench.core.removal_order import beam_search as best_order
from saliency_bench.core.tensors import Attribution


@method(
    "token", label="Random", role="chance", color="#8A8A8A", signed=False, explains_output=False
)
def random(ctx: Context, *, n_rankings: int) -> Attribution:
    """Uniform random scores in `n_rankings` draws, each followed by its reverse: the ranking that any other must beat.

    A reverse has the negative scores, and therefore the opposite order, also of words. A ranking and its reverse have the
    same curve of answers, read from opposite ends, so that the mean SRG of a pair is exactly 0. In an odd number of
    rankings the last one has no reverse. If scores are ordered by magnitude, a reverse is the same ranking again.

    Draws depend only on the text and the seed, so that all settings of a study have the same random rankings.
    """
    uniform = torch.zeros((n_rankings + 1) // 2, *ctx.batch.mask.shape, dtype=torch.float64)
    for row, (name, length) in enumerate(zip(ctx.hashes, ctx.batch.lengths, strict=True)):
        for pair in range(len(uniform)):
            stream = generator_for("cpu", "random", ctx.seed, name, pair)
            uniform[pair, row, :length] = torch.rand(length, generator=stream, dtype=torch.float64)
    uniform.masked_fill_(~ctx.batch.attributable.cpu(), 0.0)
    draws = torch.stack([uniform, -uniform], dim=1).flatten(0, 1)[:n_rankings]
    return Attribution(scores=draws[0], n_gradients=0, draws=draws)


@method("token", label="Leave-one-out", role="baseline", color="#000000", signed=True)
def leave_one_out(ctx: Context, *, removal: str) -> Attribution:
    """F(x) - F(x without the token), for every token that is not special (Li, Monroe & Jurafsky 2016, eq. 4).

    It takes forward passes only. F(x) is computed by the same removal operator, with every token kept.
    """
    attributable = ctx.batch.attributable.cpu().numpy()
    scores = torch.zeros(attributable.shape, dtype=torch.float64)
    if not attributable.any():
        return Attribution(scores=scores, n_gradients=0)
    n, width = attributable.shape
    rows, tokens = np.nonzero(attributable)
    examples = np.concatenate([np.arange(n), rows])  # the whole texts first, which lose no token
    stays = np.arange(width) != np.concatenate([np.full(n, -1), tokens])[:, None]
    lengths = np.array(ctx.batch.lengths)[examples].tolist()
    keep = [row[:length] for row, length in zip(stays, lengths, strict=True)]
    answers = ctx.answers(removal, examples, keep)
    scores[rows, tokens] = answers[rows] - answers[n:]
    return Attribution(scores=scores, n_gradients=0)


@method("token", label="Beam search (bound)", role="bound", color="#B5B5B5", signed=False)
def beam_search(
    ctx: Context, *, removal: str, objective: str, goal: str, beam_size: int
) -> Attribution:
    """The order of removal with the largest SRG or comprehensiveness that a beam search finds (Zhou & Shah 2023).

    A token's score is the number of tokens that are removed with it or after it (section 4). It is no explanation but an
    approximate upper bound of `goal` ("srg" or "comprehensiveness", on the full grid). `objective` is the output of the
    model: a logit, a probability or a log-probability. A text of U tokens takes beam_size · U²/2 forward rows, and twice
    as many for SRG.
    """
    attributable = ctx.batch.attributable.cpu().numpy()
    scores = torch.zeros(attributable.shape, dtype=torch.float64)
    for row, tokens in enumerate(attributable):
        places = np.flatnonzero(tokens)
        gains = GOALS[goal](_drops(ctx, row, places, removal, objective))
        best, order = best_order(gains, len(places), beam_size)
        ranks = torch.arange(len(places), 0, -1, dtype=torch.float64)
        scores[row, places[order]] = ranks if np.isfinite(best) else torch.nan
    return Attribution(scores=scores, n_gradients=0)


def _relevance_gain(drops: Drops) -> Drops:
    """The contribution of a set of the most relevant tokens to SRG: the drop without them minus the drop with them alone.

    The sum over k = 0 … U differs from that of SRG (k = 1 … U in both of its curves) by F(x) - F(empty), which does not
    depend on the order.
    """

    def gain(removed: Bool[np.ndarray, "N U"]) -> Float[np.ndarray, " N"]:
        without, alone = np.split(drops(np.concatenate([removed, ~removed])), 2)
        return np.asarray(without - alone)

    return gain


#: The functions of a set of tokens whose sums over the removed sets a beam search maximises.
GOALS: Mapping[str, Callable[[Drops], Drops]] = {
    "srg": _relevance_gain,
    "comprehensiveness": lambda drops: drops,
}


def _drops(
    ctx: Context, row: int, places: Int[np.ndarray, " U"], removal: str, objective: str
) -> Drops:
    """F(x) - F(x without S) of one text, for sets S of its tokens at `places`."""
    length = ctx.batch.lengths[row]

    def drops(removed: Bool[np.ndarray, "N U"]) -> Float[np.ndarray, " N"]:
        keep = np.ones((len(removed) + 1, length), dtype=bool)  # the first is the whole text
        keep[1:, places] = ~removed
        answers = ctx.answers(removal, np.full(len(keep), row), list(keep), objective).numpy()
        return np.asarray(answers[0] - answers[1:])

    return drops
