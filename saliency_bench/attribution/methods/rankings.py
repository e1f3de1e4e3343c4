"""Rankings that take no gradient: chance, the change when one token is removed, and the best order that is found."""

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
from saliency_bench.models.tasks.scores import output_of


@method(
    "token", label="Random", role="chance", color="#8A8A8A", signed=False, explains_output=False
)
def random(ctx: Context, *, n_rankings: int) -> Attribution:
    """Uniform scores, as many draws as asked for, each followed by its reverse: what any ranking must beat.

    The scores of a reverse are the negative ones, so that its order is the opposite one, of words too. The curves of a
    ranking and its reverse are the same answers of the model, read from both ends: the mean SRG of a pair is exactly 0.
    Of an odd number the last has no reverse. Ordered by magnitudes a reverse is the same ranking once more.

    Draws belong to the text and the seed, so all settings of a study meet the same random rankings.
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

    Forward passes only: F(x) is the answer to the question in which every token stays.
    """
    attributable = ctx.batch.attributable.cpu().numpy()
    scores = torch.zeros(attributable.shape, dtype=torch.float64)
    if not attributable.any():
        return Attribution(scores=scores, n_gradients=0)
    n, width = attributable.shape
    rows, tokens = np.nonzero(attributable)
    examples = np.concatenate([np.arange(n), rows])  # the whole texts first, of which no token goes
    stays = np.arange(width) != np.concatenate([np.full(n, -1), tokens])[:, None]
    lengths = np.array(ctx.batch.lengths)[examples].tolist()
    keep = [row[:length] for row, length in zip(stays, lengths, strict=True)]
    logits = torch.as_tensor(ctx.probe(removal)(examples, keep))
    answers = output_of(ctx.references.model, ctx.output)(logits, ctx.target.cpu()[examples])
    scores[rows, tokens] = answers[rows].double() - answers[n:].double()
    return Attribution(scores=scores, n_gradients=0)


@method("token", label="Beam search (bound)", role="bound", color="#B5B5B5", signed=False)
def beam_search(
    ctx: Context, *, removal: str, objective: str, goal: str, beam_size: int
) -> Attribution:
    """The order of removal with the largest SRG, or comprehensiveness, that a beam finds: near what any ranking could reach.

    A token's score is the number of tokens that are removed with it or after it (Zhou & Shah 2023, section 4). It is no
    explanation but an upper bound of `goal` over every number of tokens ("srg" or "comprehensiveness"), as `objective`
    reads the class: a logit, a probability or a log-probability. It asks the model beam_size · U²/2 times for a text of
    U tokens, for SRG twice as often.
    """
    attributable = ctx.batch.attributable.cpu().numpy()
    scores = torch.zeros(attributable.shape, dtype=torch.float64)
    for row, own in enumerate(attributable):
        places = np.flatnonzero(own)
        gains = GOALS[goal](_drops(ctx, row, places, removal, objective))
        best, order = best_order(gains, len(places), beam_size)
        ranks = torch.arange(len(places), 0, -1, dtype=torch.float64)
        scores[row, places[order]] = ranks if np.isfinite(best) else torch.nan
    return Attribution(scores=scores, n_gradients=0)


def _relevance_gain(drops: Drops) -> Drops:
    """What a set of the most relevant tokens adds to SRG: the drop without them, less the drop with them alone.

    Their sum over k = 0 … U is that of SRG (k = 1 … U in both of its curves) but for F(x) - F(empty), which no order
    changes.
    """

    def gain(removed: Bool[np.ndarray, "N U"]) -> Float[np.ndarray, " N"]:
        without, alone = np.split(drops(np.concatenate([removed, ~removed])), 2)
        return np.asarray(without - alone)

    return gain


#: What a beam adds up over the sets that it removes.
GOALS: Mapping[str, Callable[[Drops], Drops]] = {
    "srg": _relevance_gain,
    "comprehensiveness": lambda drops: drops,
}


def _drops(
    ctx: Context, row: int, places: Int[np.ndarray, " U"], removal: str, objective: str
) -> Drops:
    """F(x) - F(x without S) of one text, for sets S of its tokens at `places`."""
    read = output_of(ctx.references.model, objective)
    length = ctx.batch.lengths[row]

    def drops(removed: Bool[np.ndarray, "N U"]) -> Float[np.ndarray, " N"]:
        keep = np.ones((len(removed) + 1, length), dtype=bool)  # the first is the whole text
        keep[1:, places] = ~removed
        examples = np.full(len(keep), row)
        logits = torch.as_tensor(ctx.probe(removal)(examples, list(keep)))
        answers = read(logits, ctx.target.cpu()[examples]).numpy()
        return np.asarray(answers[0] - answers[1:])

    return drops
