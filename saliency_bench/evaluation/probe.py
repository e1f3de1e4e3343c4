"""Questions to the model about texts of which only some tokens stay: each distinct one is asked once.

`removal` has the operators, which say what stands in the place of the other tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saliency_bench.core.errors import is_out_of_memory
from saliency_bench.core.tensors import Batch
from saliency_bench.models.references import References


class CachingProbe(ABC):
    """Logits of a batch's examples when only some of their tokens stay.

    Each distinct question (example, tokens that stay) costs one forward row, whichever method or metric asks it. `n_posed`
    counts questions, `n_distinct` distinct ones, and `n_tokens` the tokens of their forward rows. When memory runs out,
    passes have fewer rows.

    Args:
        references: those of the model.
        batch: the texts.
        token_budget: the largest number of tokens in a pass.
    """

    def __init__(self, references: References, batch: Batch, token_budget: int) -> None:
        self.references = references
        self.batch = batch
        self.budget = references.budget(token_budget)
        self.attributable = batch.attributable.cpu().numpy()
        self.real = batch.mask.cpu().numpy()
        self.answered: dict[tuple[int, bytes], int] = {}  # by question, the row of `answers`
        self.answers: Float[np.ndarray, "N C"] = np.zeros((0, 0))
        self.n_posed = 0
        self.n_tokens = 0

    @property
    def n_distinct(self) -> int:
        """The number of distinct questions so far."""
        return len(self.answered)

    def __call__(
        self, examples: Int[np.ndarray, " N"], keep: Sequence[Bool[np.ndarray, " _"]]
    ) -> Float[np.ndarray, "N C"]:
        """Logits in float64 of example `examples[i]` with only the tokens in `keep[i]`, which has the text's own length."""
        self.n_posed += len(keep)
        stays = self._stays(examples, keep)
        keys = list(zip(examples.tolist(), _bytes_of_rows(stays), strict=True))
        new = {key: place for place, key in enumerate(keys) if key not in self.answered}
        if new:
            rows = np.fromiter(new.values(), dtype=int)
            self._keep(list(new), self._ask(examples[rows], stays[rows]))
        return self.answers[[self.answered[key] for key in keys]]

    def _keep(self, keys: Sequence[tuple[int, bytes]], answers: Float[np.ndarray, "M C"]) -> None:
        """Stores answers in an array, whose size is doubled when it is full."""
        start, stop = self.n_distinct, self.n_distinct + len(answers)
        if stop > len(self.answers):
            larger = np.empty((max(stop, 2 * start), answers.shape[1]))
            larger[:start] = self.answers[:start] if start else 0
            self.answers = larger
        self.answers[start:stop] = answers
        self.answered.update(zip(keys, range(start, stop), strict=True))

    def _stays(
        self, examples: Int[np.ndarray, " N"], keep: Sequence[Bool[np.ndarray, " _"]]
    ) -> Bool[np.ndarray, "N W"]:
        """The tokens that stay of each text, at the batch's width: special tokens always do, padding never does."""
        width = self.real.shape[1]
        if len(keep) > 0 and all(len(kept) == width for kept in keep):
            stays = np.concatenate(keep).reshape(-1, width)
        else:
            stays = np.zeros((len(keep), width), dtype=bool)
            for row, kept in enumerate(keep):
                stays[row, : len(kept)] = kept
        stays |= ~self.attributable[examples]
        stays &= self.real[examples]
        return stays

    @torch.inference_mode()
    def _ask(
        self, examples: Int[np.ndarray, " N"], stays: Bool[np.ndarray, "N W"]
    ) -> Float[np.ndarray, "N C"]:
        order: list[Int[np.ndarray, " _"]] = []
        answers: list[Tensor] = []
        for group, width in self._groups(examples, stays):
            rows = self._sorted(group, examples, stays)
            for chunk, logits in self._passes(rows, examples, stays, width, self._logits):
                order.append(chunk)
                answers.append(logits)
        # One copy to the host at the end, so that the host does not wait for a GPU in between.
        sorted_answers = torch.cat(answers).double().cpu().numpy()
        in_order = np.empty_like(sorted_answers)
        in_order[np.concatenate(order)] = sorted_answers
        return in_order

    def _passes(
        self,
        rows: Int[np.ndarray, " M"],
        examples: Int[np.ndarray, " N"],
        stays: Bool[np.ndarray, "N W"],
        width: int,
        ask: Callable[..., Tensor],
    ) -> Iterator[tuple[Int[np.ndarray, " _"], Float[Tensor, "_ ..."]]]:
        """Chunks of rows within the budget with their answers by `ask`; after an error of memory chunks are smaller."""
        start = 0
        while start < len(rows):
            chunk = rows[start : start + self.budget.rows(width)]
            answers = self._fitting(examples[chunk], stays[chunk], width, ask)
            if answers is not None:
                yield chunk, answers
                start += len(chunk)
                self.n_tokens += len(chunk) * width

    def _fitting(
        self,
        examples: Int[np.ndarray, " N"],
        stays: Bool[np.ndarray, "N W"],
        width: int,
        ask: Callable[..., Tensor],
    ) -> Float[Tensor, "N ..."] | None:
        """The answers by `ask`; None if memory ran out, after which the budget is smaller."""
        try:
            return ask(torch.from_numpy(examples), torch.from_numpy(stays))
        except RuntimeError as error:
            if len(examples) == 1 or not is_out_of_memory(error):
                raise
        # Outside the handler: the exception would keep the failed pass's tensors alive.
        torch.cuda.empty_cache()
        self.budget.fit(len(examples) // 2 * width)
        return None

    def _groups(
        self, examples: Int[np.ndarray, " N"], stays: Bool[np.ndarray, "N W"]
    ) -> Iterator[tuple[Int[np.ndarray, " _"], int]]:
        """Groups of rows that can be in one pass, each with the number of tokens of a row."""
        yield np.arange(len(stays)), stays.shape[1]

    def _sorted(
        self,
        rows: Int[np.ndarray, " N"],
        examples: Int[np.ndarray, " M"],
        stays: Bool[np.ndarray, "M W"],
    ) -> Int[np.ndarray, " N"]:
        """The rows of a group, in the order in which they are computed."""
        return rows

    @abstractmethod
    def _logits(
        self, examples: Int[Tensor, " N"], stays: Bool[Tensor, "N W"]
    ) -> Float[Tensor, "N C"]:
        """The logits of the rows, by a pass through the model; the arguments are on the host."""


def _bytes_of_rows(stays: Bool[np.ndarray, "N W"]) -> list[bytes]:
    """Each row as bytes, with eight tokens in a byte."""
    packed = np.packbits(stays, axis=1)
    width = packed.shape[1]
    joined = packed.tobytes()
    return [joined[start : start + width] for start in range(0, len(joined), width)]
