"""Integrated Gradients along words: a path whose points lie near embeddings of the vocabulary."""

from functools import partial

import torch
from jaxtyping import Float, Int
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
    sums_to="F(x) - F(x') in the limit of many points, with a large factor",
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

    The path starts with n_steps - 1 anchors, which are searched one after the other, from the token on. Candidates are the
    `neighbours` nearest words of the last anchor, without the baseline and earlier anchors. The next anchor is the
    candidate that changes least when it is made monotone ("greedy"), or that has the most monotone dimensions
    ("maxcount"). A dimension of an anchor that is not between the point before and the baseline is put at 1/m of the way
    from one to the other, m = n_steps - 1 (m = 1 if there are no anchors). Then the middle of every segment is added as a
    point, `factor` times. Gradients are taken at the start of each segment, from the baseline to the token.

    It costs n_steps · 2^factor gradients, and the search takes (n_steps - 1) · V · D multiplications for each new word,
    V · D being the size of the embedding table. A batch holds n_steps · 2^factor + 1 vectors for each of its distinct
    words; the token budget bounds their number. At most 256 MiB of paths and as much of neighbours are cached. Paths are
    monotone, so that Σ = F(x) - F(x') in the limit of many points, as `factor` grows; more anchors do not ensure it.

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
    options = n_steps, strategy, neighbours, factor
    points = WordPaths(("words", path.key, *options), *_paths(ctx, path, options))
    nodes = range(n_steps * 2**factor)
    difference = ctx.path_difference(path)
    return GradientSum(points, nodes, [1.0] * len(nodes), PRODUCT, difference=difference)


def _paths(
    ctx: Context, path: StraightPath, options: tuple[int, str, int, int]
) -> tuple[Float[Tensor, "W S D"], Int[Tensor, "B T"]]:
    """The points of the distinct paths in a batch, and the index of each token's path."""
    n_steps, _, _, factor = options
    references = ctx.references
    anchors = references.once("anchors", lambda: Anchors(references.model.each_token()))
    kept = references.once(("dig", *options), lambda: Kept(MOST_BYTES))
    start, end = path.reference, path.embeddings
    moves = (start != end).any(-1).cpu()
    indices: dict[object, int] = {}
    paths: list[Tensor] = []
    path_of = torch.zeros(moves.shape, dtype=torch.long)
    for row, ids in enumerate(ctx.batch.input_ids.tolist()):
        for token, word in enumerate(ids):
            moving = bool(moves[row, token])
            first = start[row, token].double().cpu().numpy().tobytes() if moving else b""
            if (key := (word, first)) not in indices:
                indices[key] = len(paths)
                search = partial(word_path, anchors, word, start[row, token], *options)
                constant = end[row, token].expand(n_steps * 2**factor + 1, -1)
                paths.append(kept.get(key, search) if moving else constant)
            path_of[row, token] = indices[key]
    return torch.stack(paths), path_of.to(end.device)
