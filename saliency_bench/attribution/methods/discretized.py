"""Integrated Gradients along words: a path whose points lie near embeddings of the vocabulary."""

from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from saliency_bench.attribution.anchors import MOST_BYTES, Anchors, Kept, word_path
from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods.base import GradientSum, method
from saliency_bench.attribution.points import StraightPath, WordPaths
from saliency_bench.attribution.statistics import PRODUCT
from saliency_bench.core.errors import InputError


@method(
    "product",
    label="Discretized Integrated Gradients",
    family="integrated_gradients",
    sums_to="F(x) - F(x') in the limit of many points, as a larger factor has them",
)
def dig(
    ctx: Context,
    *,
    baseline: str,
    baseline_special_tokens: str,
    n_steps: int,
    strategy: str,
    neighbours: int,
    factor: int,
) -> GradientSum:
    """Σ_k ∇F(p_k) ⊙ (p_{k+1} - p_k), along a path of each token through words that lie near it (Sanyal & Ren 2021).

    From the token, n_steps - 1 anchors are searched one after the other among the `neighbours` nearest words of the last
    one, without the baseline and those that were taken: the one that changes least when it is made monotone ("greedy"), or
    that has the most monotone dimensions ("maxcount"). A dimension of an anchor that is not between the point before and the
    baseline is put 1/m of the way on, m = n_steps - 1 (m = 1 for none). `factor` times, a point is put in the
    middle of every two. Gradients are taken at the start of each piece, the baseline's end first.

    It costs n_steps · 2^factor gradients, and the search (n_steps - 1) · V · D multiplications for each word of the texts that
    has not been met yet, V · D being the size of the embedding table. A batch holds n_steps · 2^factor + 1
    vectors for each of its different words, so that the token budget bounds them; for later texts at most 256 MiB of them are
    kept, and as much of neighbours. Paths are monotone, so that in the limit of many points Σ = F(x) - F(x'); more anchors
    need not bring it nearer, a larger `factor` does.

    Raises:
        InputError: the embedding layer is no table of words.
    """
    model = ctx.references.model
    if not model.looks_up:
        raise InputError(
            f"dig: expected an embedding layer that is a table of words, but that of {model.name} adds more to them "
            f"({type(model.embedding).__name__}). Name the table in embeddings=, or use integrated_gradients."
        )
    path = ctx.path(baseline, baseline_special_tokens)
    words = _paths(ctx, path, (n_steps, strategy, neighbours, factor))
    points = WordPaths((*_key(path), n_steps, strategy, neighbours, factor), *words)
    nodes = range(n_steps * 2**factor)
    difference = ctx.path_difference(path)
    return GradientSum(points, nodes, [1.0] * len(nodes), PRODUCT, difference=difference)


def _key(path: StraightPath) -> tuple[object, ...]:
    return "words", path.key


def _paths(
    ctx: Context, path: StraightPath, how: tuple[int, str, int, int]
) -> tuple[Tensor, Int[Tensor, "B T"]]:
    """The points [W S+1 D] of the different paths in a batch, and which of them each token takes."""
    n_steps, _, _, factor = how
    anchors = _anchors(ctx)
    kept = ctx.references.once(("dig", *how), lambda: Kept(MOST_BYTES))
    start, end = path.reference, path.embeddings
    moves = (start != end).any(-1).cpu()
    places: dict[object, int] = {}
    paths: list[Tensor] = []
    which = torch.zeros(moves.shape, dtype=torch.long)
    for row, ids in enumerate(ctx.batch.input_ids.tolist()):
        for token, word in enumerate(ids):
            key: object = (word, _bytes(start[row, token])) if moves[row, token] else (word, b"")
            if key not in places:
                places[key] = len(paths)
                search = partial(word_path, anchors, word, start[row, token], *how)
                still = end[row, token].expand(n_steps * 2**factor + 1, -1)
                paths.append(kept.get(key, search) if moves[row, token] else still)
            which[row, token] = places[key]
    return torch.stack(paths), which.to(end.device)


def _anchors(ctx: Context) -> Anchors:
    searched: dict[object, object] = ctx.references.cache
    if "anchors" not in searched:
        searched["anchors"] = Anchors(ctx.references.model.each_token())
    anchors = searched["anchors"]
    assert isinstance(anchors, Anchors)
    return anchors


def _bytes(vector: Tensor) -> bytes:
    return bytes(vector.double().cpu().numpy().tobytes())
