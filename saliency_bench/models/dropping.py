"""Leaves removed tokens out of the computation, where that gives the same result as not attending to them.

A token that nothing attends to changes only its own row. Without it the other rows are the same, if the model gets their
original positions and uses no other positions. Relative positions counted from place to place, windows of local attention
and pooling at the last place break this without an error. So dropping is tried on each kind of text before it is used.
"""

from collections.abc import Hashable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saliency_bench.core.tensors import Batch, sent
from saliency_bench.models.model import Model
from saliency_bench.models.references import References, embed_batch
from saliency_bench.models.rounding import equal_within, products, rounding_share

#: The number of texts in a trial.
N_TRIED = 2


@dataclass(frozen=True)
class Dropping:
    """The form in which the tokens that stay are passed.

    Attributes:
        first_position: the position id of a text's first token.
        mask_of_ones: pass a mask although nothing is padded, since some models take gaps in positions for new texts.
    """

    first_position: int
    mask_of_ones: bool


def how_to_drop(references: References, batch: Batch) -> Dropping | None:
    """The form in which removed tokens may be left out of texts like these, or None where they may not.

    Tried once for each length and arrangement of special tokens, on two texts with several sets of tokens: none, all but the
    first or the last, every other one, and the two ends, which are as far apart as can be. A causal classifier reads its
    answer at the last token, which still sees itself where it is masked. If the outputs are the same whenever the last token
    stays, removed tokens may be left out of its texts too, and the answer is read at the last token that stays.
    """
    # Further inputs may contain the places of tokens.
    may = references.may_drop and not batch.extra
    return references.once(
        ("dropping", _kind(batch)), lambda: _tried(references.model, batch) if may else None
    )


def hides(references: References, batch: Batch) -> bool:
    """Whether the attention mask hides tokens completely: other embeddings at hidden tokens change no logit.

    Some models have no such mask (FNet), or let neighbours and landmarks through (ConvBERT, Nyströmformer). Tried on
    the first texts of which some output is finite.
    """
    key = "hiding", _kind(batch)
    if key not in references.cache:
        starts = range(0, len(batch), N_TRIED)
        tried = (_hidden(references.model, batch, start) for start in starts)
        hidden = next((answer for answer in tried if answer is not None), None)
        if hidden is None:  # no text has a finite output
            return True
        references.cache[key] = hidden
    return bool(references.cache[key])


def _kind(batch: Batch) -> Hashable:
    frames = tuple((tuple(item.special), item.position) for item in batch.encoded[:N_TRIED])
    return batch.input_ids.shape[1], frames


@torch.inference_mode()
@products(tf32=False)
def _tried(model: Model, batch: Batch) -> Dropping | None:
    first = model.first_position
    if first is None:
        return None
    for reads_last in (False, True):
        examples, stays = _trials(batch, reads_last=reads_last)
        if len(examples) == 0:
            return None
        masked = masked_output(model, batch, examples, stays)
        if reads_last:
            # A first token that may not see itself has no finite output in some kinds of attention.
            finite = masked.isfinite().all(-1).cpu()
            examples, stays, masked = examples[finite], stays[finite], masked[finite]
        if len(masked) == 0:
            return None
        share = rounding_share(model.dtype)
        for ones in (False, True):
            how = Dropping(first, ones)
            # One by one, since each has another number of tokens.
            rows = [slice(place, place + 1) for place in range(len(stays))]
            dropped = torch.cat(
                [dropped_output(model, batch, examples[row], stays[row], how) for row in rows]
            )
            if equal_within(dropped, masked, share):
                return how
    return None


@torch.inference_mode()
@products(tf32=False)
def _hidden(model: Model, batch: Batch, start: int) -> bool | None:
    """Whether the mask hides tokens in a few texts; None where no output is finite."""
    examples, stays = _trials(batch, start)
    if len(examples) == 0:
        return None
    rows, removed = examples.to(model.device), ~stays.to(model.device)
    embeddings = embed_batch(model, batch, rows=rows)
    other = torch.where(removed[:, :, None], 1 - embeddings.roll(1, 1), embeddings)
    ids, extra = batch.input_ids[rows], batch.extra_of(rows)
    with nullcontext() if batch.padded else model.batches_allowed():
        changed, same = (
            batch.read(model.output(ids, ~removed, None, values, extra=extra), rows)
            for values in (other, embeddings)
        )
    finite = same.isfinite().all(-1)
    if not finite.any():
        return None
    changed, same = changed[finite], same[finite]
    return equal_within(changed, same, rounding_share(model.dtype, in_float32=True))


def _trials(
    batch: Batch, start: int = 0, *, reads_last: bool = False
) -> tuple[Int[Tensor, " N"], Bool[Tensor, "N W"]]:
    """A few texts of a batch, and sets of tokens that stay in them, none of them empty; the last token where it is read."""
    examples, stays = [], []
    for row in range(start, min(start + N_TRIED, len(batch))):
        free = batch.attributable[row].cpu()
        places = free.nonzero()[:, 0]
        if len(places) == 0:
            continue
        all_but_one, every_other = (places[1:], places[:-1]), (places[::2], places[1::2])
        for kept in (places[:0], *all_but_one, *every_other, places[[0, -1]]):
            stay = batch.mask[row].cpu() & ~free
            stay[kept] = True
            stay[batch.lengths[row] - 1] |= reads_last
            if stay.any():
                examples.append(row)
                stays.append(stay)
    table = torch.stack(stays) if stays else torch.zeros(0, batch.input_ids.shape[1]).bool()
    return torch.tensor(examples, dtype=torch.long), table


def masked_output(
    model: Model, batch: Batch, examples: Int[Tensor, " N"], stays: Bool[Tensor, "N W"]
) -> Float[Tensor, "N C"]:
    """Logits of whole texts in which no token attends to the removed ones."""
    rows, seen = sent(examples, model.device), sent(stays, model.device)
    with nullcontext() if batch.padded else model.batches_allowed():
        outputs = model.output(batch.input_ids[rows], seen, extra=batch.extra_of(rows))
    return batch.read(outputs, rows)


def dropped_output(
    model: Model,
    batch: Batch,
    examples: Int[Tensor, " N"],
    stays: Bool[Tensor, "N W"],
    how: Dropping | None,
) -> Float[Tensor, "N C"]:
    """Logits of texts without the removed tokens; the same number of tokens stays in each.

    Tokens keep their positions, or are counted anew where `how` is None.
    """
    places = sent(stays.nonzero()[:, 1].view(len(stays), -1), model.device)
    rows = sent(examples, model.device)

    def kept(table: Int[Tensor, "B W"]) -> Int[Tensor, "N L"]:
        return table[rows].gather(1, places)

    types = None if batch.token_type_ids is None else kept(batch.token_type_ids)
    mask, positions = None, None
    if how is not None:
        positions = places + how.first_position
        mask = torch.ones_like(places, dtype=torch.bool) if how.mask_of_ones else None
    with model.batches_allowed():
        outputs = model.output(
            kept(batch.input_ids), mask, types, position_ids=positions, short=True
        )
    if batch.positions is None:
        return outputs
    # The token of the question stays, and has moved up.
    moved = (places < batch.positions[rows][:, None]).sum(1)
    return outputs[torch.arange(len(outputs), device=model.device), moved]
