"""Questions about a continuation share rows: what is removed from a text is removed from the longer ones that it begins.

The text before each token of a continuation begins the text before the next one. A causal model's outputs for the longest
of them without a token are, where a shorter one ends, its outputs for that one without the token. So leave-one-out of all
tokens of a continuation costs the rows of the last one.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int

from saliency_bench.core.tensors import Batch
from saliency_bench.models.intake import attempted
from saliency_bench.models.prefixes import EPSILONS, LARGEST_DIFFERENCE
from saliency_bench.models.references import References
from saliency_bench.models.rounding import products


@dataclass(frozen=True)
class Nested:
    """Texts of a batch of which some begin others: the length of each, and by text those that begin it."""

    lengths: tuple[int, ...]
    begin: tuple[tuple[int, ...], ...]

    def carriers(
        self, examples: Int[np.ndarray, " N"], stays: Bool[np.ndarray, "N W"]
    ) -> Int[np.ndarray, " N"]:
        """For each row the row in whose outputs its answer stands: itself, or one of a longer text.

        Args:
            examples: the text of each row.
            stays: what stays of it, at the width of the batch.
        """
        carrier = np.arange(len(examples))
        held: dict[tuple[int, bytes], int] = {}
        lengths = np.array(self.lengths)[examples]
        for row in np.argsort(-lengths, kind="stable").tolist():
            text = int(examples[row])
            carrier[row] = held.get((text, stays[row, : self.lengths[text]].tobytes()), row)
            if carrier[row] == row:
                for other in self.begin[text]:
                    held.setdefault((other, stays[row, : self.lengths[other]].tobytes()), row)
        return carrier


def nested(references: References, batch: Batch) -> Nested | None:
    """The texts of a batch that begin others; None where none does, or where the model reads what comes later."""
    lengths, ids = batch.lengths, [item.input_ids for item in batch.encoded]
    plain = batch.extra_of() == {} and batch.options is None and batch.boundaries is None
    ends = [item.position == len(item) - 1 and item.pads is None for item in batch.encoded]
    if batch.positions is None or not plain or not all(ends) or len(set(lengths)) == 1:
        return None
    begin = tuple(
        tuple(
            other
            for other, own in enumerate(ids)
            if len(own) < len(text) and own == text[: len(own)]
        )
        for text in ids
    )
    long = next((text for text, shorter in enumerate(begin) if shorter), None)
    if long is None:
        return None
    key = ("nested", max(lengths).bit_length())
    short = begin[long][0]
    same = references.once(
        key, lambda: attempted(lambda: _reads_back(references, batch, long, short)) or False
    )
    return Nested(lengths, begin) if same else None


@torch.inference_mode()
@products(tf32=False)
def _reads_back(references: References, batch: Batch, long: int, short: int) -> bool:
    """Whether a text's outputs are those of a longer one where it ends."""
    model, end = references.model, batch.lengths[short]
    whole = model.output(batch.input_ids[long : long + 1, : batch.lengths[long]])[0, end - 1]
    alone = model.output(batch.input_ids[short : short + 1, :end])[0, -1]
    epsilon = max(torch.finfo(model.dtype).eps, torch.finfo(torch.float32).eps)
    share = min(EPSILONS * epsilon, LARGEST_DIFFERENCE)
    difference = float((whole.double() - alone.double()).abs().max())
    return difference <= share * float(alone.double().abs().max())
