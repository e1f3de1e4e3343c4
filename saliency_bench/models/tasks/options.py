"""Questions with given continuations of a text: the classes are the continuations, their logits are log-probabilities.

The logit of an option is Σ_i log p(o_i | text, o_1 ... o_{i-1}) over its tokens, or the mean of these (per token, as in
Brown et al. 2020, section 2.4, so that long options are not at a disadvantage). Probabilities are those among the options.
A single continuation has a second class for everything else, with logit log(1 - p).

A text is one row of embeddings, as everywhere; the passes have a row for each of its options.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saliency_bench.core.errors import InputError
from saliency_bench.core.tensors import Batch, Options, at_least_float32
from saliency_bench.core.text import Encoded
from saliency_bench.models.causality import require_causal
from saliency_bench.models.model import Model
from saliency_bench.models.prefixes import States, past_of

#: Where log(1 - p) changes its formula (Mächler 2012, "Accurately computing log(1 - exp(-|a|))", eq. 7).
_HALF = -math.log(2)


def collated(model: Model, encoded: Sequence[Encoded], width: int) -> Options | None:
    """The options of a batch of texts that are padded to `width`; None where no text has options.

    Raises:
        InputError: the texts have different numbers of options, or further inputs that end before the options; or the
            model is not causal.
    """
    n_options = {len(item.options) for item in encoded}
    if n_options == {0}:
        return None
    require_causal(model)
    if len(n_options) > 1:
        raise InputError(f"texts with {sorted(n_options)} options cannot share a pass")
    if extra := next((item for item in encoded if item.extra), None):
        names = ", ".join(name for name, _ in extra.extra)
        raise InputError(f"{extra.example_id}: {names} end with the text: options cannot follow it")
    width += max(len(option) for item in encoded for option in item.options)
    ids = torch.full((len(encoded), max(n_options), width), model.pad_token_id or 0)
    scored = torch.zeros_like(ids, dtype=torch.bool)
    for row, item in enumerate(encoded):
        for c, option in enumerate(item.options):
            end = len(item) + len(option)
            ids[row, c, :end] = torch.tensor([*item.input_ids, *option])
            scored[row, c, len(item) : end] = True
    means = torch.tensor([item.mean for item in encoded])
    counts = scored.sum(-1).where(means[:, None], torch.ones(1, dtype=torch.long))
    return Options(ids.to(model.device), scored.to(model.device), counts.to(model.device))


def logits(
    model: Model,
    batch: Batch,
    rows: Int[Tensor, " R"],
    embeddings: Float[Tensor, "R T D"] | None = None,
) -> Float[Tensor, "R C"]:
    """The logits of texts of a batch. `embeddings` replace those of the text; the options keep theirs.

    Padding after an option changes nothing, since the model is causal. Outputs before the last token of the shortest text
    are not needed.
    """
    options = batch.options
    assert options is not None
    ids, scored = options.ids[rows], options.scored[rows]
    n_options = ids.shape[1]
    ids, scored = ids.flatten(0, 1), scored.flatten(0, 1)
    replaced = None
    if embeddings is not None:
        whole = model.embed(ids).to(embeddings.dtype)
        text = embeddings.repeat_interleave(n_options, 0)
        real = batch.mask[rows].repeat_interleave(n_options, 0)[:, :, None]
        length = text.shape[1]
        replaced = torch.cat([torch.where(real, text, whole[:, :length]), whole[:, length:]], 1)
    first = min(batch.lengths)
    places = (
        torch.arange(first - 1, ids.shape[1], device=ids.device) if model.keeps_places else None
    )
    outputs = model.output(ids, embeddings=replaced, places=places)
    start = 1 if places is None else first
    return _scores(outputs, ids[:, start:], scored[:, start:], options.counts[rows])


def after(
    model: Model,
    options: Options,
    rows: Int[Tensor, " R"],
    last: Float[Tensor, "R V"],
    states: States,
) -> Float[Tensor, "R C"]:
    """The logits of texts of equal length whose last token's outputs are computed already.

    Args:
        model: a causal one.
        options: of the batch.
        rows: the text of each row.
        last: the outputs of the texts' last token.
        states: the texts' keys and values.
    """
    length, n_options = states[0][0].shape[2], options.ids.shape[1]
    ids, scored = (side[rows].flatten(0, 1)[:, length:] for side in (options.ids, options.scored))
    outputs = last.repeat_interleave(n_options, 0)[:, None]
    if ids.shape[1] > 1:
        past = past_of(
            [
                (k.repeat_interleave(n_options, 0), v.repeat_interleave(n_options, 0))
                for k, v in states
            ]
        )
        outputs = torch.cat([outputs, model.output(ids[:, :-1], past=past)], 1)
    return _scores(outputs, ids, scored, options.counts[rows])


def _scores(
    outputs: Float[Tensor, "N T V"],
    ids: Int[Tensor, "N S"],
    scored: Bool[Tensor, "N S"],
    counts: Int[Tensor, "R C"],
) -> Float[Tensor, "R K"]:
    """The logits of options: the log-probabilities of the scored ids, summed and divided by `counts`.

    The outputs at a place are those of the token before the id at that place.
    """
    row, place = scored.nonzero(as_tuple=True)
    read = at_least_float32(outputs[row, place]).double()
    logs = read.log_softmax(-1).gather(1, ids[row, place][:, None])[:, 0]
    sums = torch.zeros(len(ids), dtype=logs.dtype, device=logs.device).index_add(0, row, logs)
    return _with_rest(sums.view(counts.shape) / counts)


def _with_rest(scores: Float[Tensor, "R C"]) -> Float[Tensor, "R K"]:
    """The logits of several options; for a single option, its own and that of everything else."""
    if scores.shape[1] > 1:
        return scores
    # With p = 1 the rest would have no probability, and its logarithm no gradient.
    least = torch.finfo(scores.dtype).tiny
    below = scores.clamp(max=-least)
    near_one = below > _HALF
    rest = torch.where(
        near_one,
        torch.log(-torch.expm1(below.where(near_one, below.new_tensor(_HALF)))),
        torch.log1p(-torch.exp(below.where(~near_one, below.new_tensor(_HALF)))),
    )
    return torch.cat([scores, rest], 1)
