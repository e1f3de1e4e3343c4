"""Which of some continuations follows a text: the classes are the continuations, and their scores log-probabilities.

The logit of an option is Σ_i log p(o_i | text, o_1 ... o_{i-1}) over its tokens, or the mean of these (per token, as in
Brown et al. 2020, section 2.4, so that long options are not at a disadvantage). Probabilities are those among the options.
One continuation alone has a second class, that something else follows, with logit log(1 - p).

The text is one row of embeddings, as everywhere; the passes behind it have a row for each option.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
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
    """The options of texts that have equally many, after texts padded to `width`; None where none has any.

    Raises:
        InputError: texts have different numbers of options, or further inputs that would end before them; or the model
            reads what comes later.
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
    """The logits of texts of a batch; `embeddings` stand for those of the text, the options keep their own.

    What stands after an option is read by none of its tokens: the model is causal.
    """
    options = batch.options
    assert options is not None
    ids, scored = options.ids[rows], options.scored[rows]
    n_options = ids.shape[1]
    ids, scored = ids.flatten(0, 1), scored.flatten(0, 1)
    given = None
    if embeddings is not None:
        whole = model.embed(ids).to(embeddings.dtype)
        text = embeddings.repeat_interleave(n_options, 0)
        real = batch.mask[rows].repeat_interleave(n_options, 0)[:, :, None]
        length = text.shape[1]
        given = torch.cat([torch.where(real, text, whole[:, :length]), whole[:, length:]], 1)
    outputs = model.output(ids, embeddings=given)
    row, place = scored.nonzero(as_tuple=True)
    sums = _summed(outputs[row, place - 1], ids[row, place], row, len(ids))
    return _with_rest(sums.view(-1, n_options) / options.counts[rows])


def after(
    model: Model,
    options: Options,
    rows: Int[Tensor, " R"],
    last: Float[Tensor, "R V"],
    states: States,
) -> Float[Tensor, "R C"]:
    """The logits of texts of equal length that are computed already, to the outputs of their last token.

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
    row, place = scored.nonzero(as_tuple=True)
    sums = _summed(outputs[row, place], ids[row, place], row, len(ids))
    return _with_rest(sums.view(-1, n_options) / options.counts[rows])


def _summed(
    outputs: Float[Tensor, "N V"], ids: Int[Tensor, " N"], row: Int[Tensor, " N"], n_rows: int
) -> Float[Tensor, " R"]:
    """The log-probabilities of tokens, each given the outputs before it, summed by row."""
    logs = at_least_float32(outputs).double().log_softmax(-1).gather(1, ids[:, None])[:, 0]
    sums = torch.zeros(n_rows, dtype=logs.dtype, device=logs.device)
    return sums.index_add(0, row, logs)


def _with_rest(scores: Float[Tensor, "R C"]) -> Float[Tensor, "R K"]:
    """The logits of several options; of one, its own and that of anything else."""
    if scores.shape[1] > 1:
        return scores
    # p = 1 would leave nothing for the rest, and no gradient of its logarithm.
    least = torch.finfo(scores.dtype).tiny
    below = scores.clamp(max=-least)
    near_one = below > _HALF
    rest = torch.where(
        near_one,
        torch.log(-torch.expm1(below.where(near_one, below.new_tensor(_HALF)))),
        torch.log1p(-torch.exp(below.where(~near_one, below.new_tensor(_HALF)))),
    )
    return torch.cat([scores, rest], 1)
