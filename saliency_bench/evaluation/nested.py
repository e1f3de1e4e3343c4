"""Shared forward rows for texts of which some are beginnings of others, as for the tokens of a continuation.

To explain the tokens of a continuation, each text is a beginning of the next one. A causal model does not read later
tokens. A row of the longest text without one token therefore also has the outputs for the shorter texts without this
token, at the places where these texts end. Leave-one-out for all tokens of a continuation then costs the rows of the
longest text.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Int

from saliency_bench.core.tensors import Batch
from saliency_bench.models.intake import attempted
from saliency_bench.models.references import References
from saliency_bench.models.rounding import equal_within, products, rounding_share


@dataclass(frozen=True)
class Nested:
    """The lengths of a batch's texts, and for each text the indices of the texts that are beginnings of it."""

    lengths: tuple[int, ...]
    begin: tuple[tuple[int, ...], ...]

    def carriers(
        self, examples: Int[np.ndarray, " N"], stays: Bool[np.ndarray, "N W"]
    ) -> Int[np.ndarray, " N"]:
        """The row whose outputs contain the answer of each row: the row itself, or one of a longer text.

        Args:
            examples: the text of each row.
            stays: the tokens that stay of it, at the width of the batch.
        """
        carrier, lengths = np.arange(len(examples)), np.array(self.lengths)
        longest_first = np.argsort(-lengths[examples], kind="stable")
        for text in np.argsort(-lengths, kind="stable"):
            rows = np.flatnonzero(examples == text)
            if not len(rows):
                continue
            longer = [other for other, shorter in enumerate(self.begin) if text in shorter]
            of_longer = longest_first[np.isin(examples[longest_first], longer)]
            computed = of_longer[carrier[of_longer] == of_longer]
            candidates = np.concatenate([computed, rows])
            bits = np.packbits(stays[candidates, : lengths[text]], axis=1)
            _, first, place = np.unique(bits, axis=0, return_index=True, return_inverse=True)
            carrier[rows] = candidates[first[place.reshape(-1)]][len(computed) :]
        return carrier


def nested(references: References, batch: Batch) -> Nested | None:
    """The texts of a batch that are beginnings of others; None if there are none, or if outputs do not agree.

    The outputs are compared in each batch, for each longest text and its shortest beginning, since some models compute
    differently beyond a certain length.
    """
    lengths, ids = batch.lengths, [item.input_ids for item in batch.encoded]
    plain = batch.extra_of() == {} and batch.options is None and batch.boundaries is None
    ends = [item.position == len(item) - 1 and item.pads is None for item in batch.encoded]
    if batch.positions is None or not plain or not all(ends) or len(set(lengths)) == 1:
        return None
    begin = tuple(
        tuple(
            other
            for other, shorter in enumerate(ids)
            if len(shorter) < len(text) and shorter == text[: len(shorter)]
        )
        for text in ids
    )
    inner = {other for shorter in begin for other in shorter}
    pairs = [
        (text, min(shorter, key=lambda other: lengths[other]))
        for text, shorter in enumerate(begin)
        if shorter and text not in inner
    ]
    same = (attempted(partial(_reads_back, references, batch, *pair)) for pair in pairs)
    return Nested(lengths, begin) if pairs and all(same) else None


@torch.inference_mode()
@products(tf32=False)
def _reads_back(references: References, batch: Batch, long: int, short: int) -> bool:
    """Whether the outputs of a text agree with those of a longer one at the place where it ends."""
    model, end = references.model, batch.lengths[short]
    alone = model.output(batch.input_ids[short : short + 1, :end])[0, -1]
    whole = model.output(batch.input_ids[long : long + 1, : batch.lengths[long]])[0, end - 1]
    return equal_within(whole, alone, rounding_share(model.dtype, in_float32=True))
