"""Removed tokens left out of the computation, where that is proved to be the same as not attending to them.

A token that nothing attends to changes nothing but its own row. Without it the others are the same, if the model is
told their original positions and if positions reach it in no other way. Relative positions counted from place to
place, windows of local attention and pooling at the last place break this, silently. So it is tried on each kind of
text before it is relied on.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saliency_bench.core.tensors import Batch, sent
from saliency_bench.models.model import Model
from saliency_bench.models.references import References, embed_batch
from saliency_bench.models.rounding import products

#: Both ways are the same arithmetic in another order.
EPSILONS = 1024
#: In half precision so many rounding errors would let anything pass.
LARGEST_DIFFERENCE = 0.05

#: Texts of a batch on which it is tried.
N_TRIED = 2


@dataclass(frozen=True)
class Dropping:
    """How the tokens that stay are passed."""

    first_position: int  # the position id of a text's first token
    mask_of_ones: (
        bool  # given although nothing is padded: some models take gaps in positions for new texts
    )
    difference: float  # largest difference of a logit that was seen, over the largest logit


def how_to_drop(references: References, batch: Batch) -> Dropping | None:
    """How removed tokens may be left out of texts like these; None where they may not.

    Tried once for each length and arrangement of special tokens, on two texts with several sets of tokens: none, all
    but one, every other one, and the two ends, which are as far apart as can be.
    """
    frames = tuple((tuple(item.special), item.position) for item in batch.encoded[:N_TRIED])
    key = "dropping", batch.input_ids.shape[1], frames
    if key not in references.found:
        # Further inputs tell tokens' places in ways of their own.
        may = references.may_drop and not batch.extra
        references.found[key] = _tried(references.model, batch) if may else None
    found: Dropping | None = references.found[key]
    return found


@torch.inference_mode()
@products(tf32=False)
def _tried(model: Model, batch: Batch) -> Dropping | None:
    first = model.first_position
    if first is None:
        return None
    examples, stays = _questions(batch)
    masked = masked_output(model, batch, examples, stays)
    share = min(EPSILONS * torch.finfo(model.dtype).eps, LARGEST_DIFFERENCE)
    size = float(masked.abs().max())
    for ones in (False, True):
        how = Dropping(first, ones, 0.0)
        rows = [slice(place, place + 1) for place in range(len(stays))]
        dropped = torch.cat(
            [dropped_output(model, batch, examples[row], stays[row], how) for row in rows]
        )
        difference = float((dropped - masked).abs().max()) / size
        if difference <= share:
            return Dropping(first, ones, difference)
    return None


def hides(references: References, batch: Batch) -> bool:
    """Whether tokens that nothing should attend to are out of sight: other embeddings there change no logit.

    Some models have no such mask (FNet), or let neighbours and landmarks through (ConvBERT, Nyströmformer).
    """
    frames = tuple((tuple(item.special), item.position) for item in batch.encoded[:N_TRIED])
    key = "hiding", batch.input_ids.shape[1], frames
    if key not in references.found:
        hidden = _hidden(references.model, batch)
        if hidden is None:  # no text here has an answer, whatever is removed
            return True
        references.found[key] = hidden
    return bool(references.found[key])


@torch.inference_mode()
@products(tf32=False)
def _hidden(model: Model, batch: Batch) -> bool | None:
    """What is seen on the first texts of which some output is finite; None where there is none."""
    for start in range(0, len(batch), N_TRIED):
        if (hidden := _hidden_in(model, batch, start)) is not None:
            return hidden
    return None


def _hidden_in(model: Model, batch: Batch, start: int) -> bool | None:
    examples, stays = _questions(batch, start)
    rows, removed = examples.to(model.device), ~stays.to(model.device)
    types = None if batch.token_type_ids is None else batch.token_type_ids[rows]
    extra = batch.extra_of(rows)
    embeddings = embed_batch(model, batch, rows=rows)
    other = torch.where(removed[:, :, None], 1 - embeddings.roll(1, 1), embeddings)
    seen, same = (
        batch.read(model.output(batch.input_ids[rows], ~removed, types, one, extra=extra), rows)
        for one in (other, embeddings)
    )
    finite = same.isfinite().all(-1)
    if not finite.any():
        return None
    seen, same = seen[finite], same[finite]
    # Some models compute a softmax in float32 whatever their weights are.
    epsilon = max(torch.finfo(model.dtype).eps, torch.finfo(torch.float32).eps)
    share = min(EPSILONS * epsilon, LARGEST_DIFFERENCE)
    return float((seen - same).abs().max()) <= share * float(same.abs().max())


def _questions(batch: Batch, start: int = 0) -> tuple[Int[Tensor, " N"], Bool[Tensor, "N W"]]:
    examples, stays = [], []
    for row in range(start, min(start + N_TRIED, len(batch))):
        free = batch.attributable[row].cpu()
        always = batch.mask[row].cpu() & ~free
        places = free.nonzero()[:, 0]
        for kept in (places[:0], places[1:], places[::2], places[1::2], places[[0, -1]]):
            own = always.clone()
            own[kept] = True
            examples.append(row)
            stays.append(own)
    return torch.tensor(examples), torch.stack(stays)


def masked_output(
    model: Model, batch: Batch, examples: Int[Tensor, " N"], stays: Bool[Tensor, "N W"]
) -> Float[Tensor, "N C"]:
    """Logits of whole texts in which no token attends to one that does not stay."""
    rows, seen = sent(examples, model.device), sent(stays, model.device)
    types = None if batch.token_type_ids is None else batch.token_type_ids[rows]
    outputs = model.output(batch.input_ids[rows], seen, types, extra=batch.extra_of(rows))
    return batch.read(outputs, rows)


def dropped_output(
    model: Model,
    batch: Batch,
    examples: Int[Tensor, " N"],
    stays: Bool[Tensor, "N W"],
    how: Dropping | None,
) -> Float[Tensor, "N C"]:
    """Logits of texts without what does not stay, of which each has as much; positions as before, or anew if None."""
    places = sent(stays.nonzero()[:, 1].view(len(stays), -1), model.device)
    rows = sent(examples, model.device)

    def kept(table: Int[Tensor, "B W"]) -> Int[Tensor, "N L"]:
        return table[rows].gather(1, places)

    types = None if batch.token_type_ids is None else kept(batch.token_type_ids)
    mask = (
        torch.ones_like(places, dtype=torch.bool) if how is not None and how.mask_of_ones else None
    )
    positions = None if how is None else places + how.first_position
    outputs = model.output(kept(batch.input_ids), mask, types, position_ids=positions, short=True)
    if batch.positions is None:
        return outputs
    # The token that is asked about stays, and has moved up.
    moved = (places < batch.positions[rows][:, None]).sum(1)
    return outputs[torch.arange(len(outputs), device=model.device), moved]
