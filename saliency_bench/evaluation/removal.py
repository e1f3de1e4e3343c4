"""What the model says when only some tokens stay: what is asked, and how each removal operator asks it.

`mask`, `pad`, `unk`, `zero` and `mean` put a vector in a removed token's place, under the hook that replaces
embeddings: the real token ids are passed all the while, so that positions and pooling stay as they are. `attention`
lets no token attend to a removed one, and the others keep their positions. `delete` takes it out of the text, and the
others close up. Special tokens are never removed. Where maps are judged, `baseline` is the vector that each map's own
method compared with: what it claims, asked on its own terms.

Adding one is one function in a file of this folder, registered by `@REMOVALS.register` (or in an installed package,
entry point group `saliency_bench.removals`): of references, a batch and a token budget, to a `CachingProbe`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saliency_bench.core.errors import InputError, is_out_of_memory, unknown
from saliency_bench.core.registry import REMOVALS
from saliency_bench.core.tensors import Batch, at_least_float32, on_device, sent
from saliency_bench.evaluation.nested import Nested, nested
from saliency_bench.models.dropping import dropped_output, hides, how_to_drop, masked_output
from saliency_bench.models.model import Model
from saliency_bench.models.prefixes import Seed, order, shares, walk
from saliency_bench.models.references import (
    ATTENTION,
    DELETE,
    NAMES,
    References,
    embed_batch,
    resolve_removal,
)
from saliency_bench.models.tasks.registry import refusal
from saliency_bench.models.tasks.scores import logits_fn, shared_logits

#: Each map's own baseline takes the place of removed tokens.
OWN_BASELINE = "baseline"


def operators() -> list[str]:
    """What evaluation may remove tokens by."""
    return [*REMOVALS.names(), OWN_BASELINE]


def fit_operator(model: Model, removal: str, key: str = "removal") -> str:
    """An operator of judging that the model has: one that puts a token which it lacks is replaced, see `resolve`."""
    if removal == OWN_BASELINE:  # each setting's own was fitted with the setting
        return removal
    if removal not in REMOVALS:
        raise unknown(key, removal, operators())
    return resolve_removal(model, removal, key)


def own_operator(removal: str, setting: Mapping[str, Any]) -> str | None:
    """The operator that judges maps of a setting: its baseline where `removal` says so; None where that is no operator."""
    if removal != OWN_BASELINE:
        return removal
    baseline = setting.get("baseline")
    return baseline if baseline in NAMES else None


def removal_probe(
    references: References, batch: Batch, removal: str, token_budget: int
) -> "CachingProbe":
    """The probe of an operator.

    Raises:
        InputError: there is no such operator, it would leave nothing of a text, or it makes no sense in the task.
    """
    if reason := refusal(references.model, removal):
        raise InputError(f"removal={removal}, {references.model.task}: {reason}. Use mask or zero.")
    probe: CachingProbe = REMOVALS[removal](references, batch, token_budget)
    return probe


class CachingProbe(ABC):
    """Logits of a batch's examples when only some of their tokens stay.

    Each distinct question (example, what stays) is asked of the model once, whoever asks it: `n_posed` questions
    have cost `n_asked` forward rows of `n_tokens` tokens in all. Where memory runs out, fewer rows are asked at once.
    """

    def __init__(self, references: References, batch: Batch, token_budget: int) -> None:
        self.references = references
        self.batch = batch
        self.budget = references.budget(token_budget)
        self.attributable = batch.attributable.cpu().numpy()
        self.real = batch.mask.cpu().numpy()
        self.answered: dict[tuple[int, bytes], int] = {}  # question -> row of the answers
        self.answers: Float[np.ndarray, "N C"] = np.zeros((0, 0))
        self.n_posed = 0
        self.n_tokens = 0

    @property
    def n_asked(self) -> int:
        """Distinct questions so far."""
        return len(self.answered)

    def __call__(
        self, examples: Int[np.ndarray, " N"], keep: Sequence[Bool[np.ndarray, " _"]]
    ) -> Float[np.ndarray, "N C"]:
        """Logits in float64 of each example with only `keep` (over its own tokens) left."""
        self.n_posed += len(keep)
        stays = self._stays(examples, keep)
        keys = list(zip(examples.tolist(), _bytes_of_rows(stays), strict=True))
        new = {key: place for place, key in enumerate(keys) if key not in self.answered}
        if new:
            rows = np.fromiter(new.values(), dtype=int)
            self._keep(list(new), self._ask(examples[rows], stays[rows]))
        return self.answers[[self.answered[key] for key in keys]]

    def _keep(self, keys: Sequence[tuple[int, bytes]], answers: Float[np.ndarray, "M C"]) -> None:
        """Remembers answers, in an array that doubles where it is full."""
        start, stop = self.n_asked, self.n_asked + len(answers)
        if stop > len(self.answers):
            larger = np.empty((max(stop, 2 * start), answers.shape[1]))
            larger[:start] = self.answers[:start] if start else 0
            self.answers = larger
        self.answers[start:stop] = answers
        self.answered.update(zip(keys, range(start, stop), strict=True))

    def _stays(
        self, examples: Int[np.ndarray, " N"], keep: Sequence[Bool[np.ndarray, " _"]]
    ) -> Bool[np.ndarray, "N W"]:
        """What is left of each text at the batch's width: special tokens always, padding never."""
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
        for group, width in self._groups(stays):
            rows = self._sorted(group, examples, stays)
            start = 0
            while start < len(rows):
                own = rows[start : start + self.budget.rows(width)]
                found = self._fitting(examples[own], stays[own], width)
                if found is None:
                    continue
                order.append(own)
                answers.append(found)
                start += len(own)
                self.n_tokens += len(own) * width
        # One way to the host for all: until here a GPU is not waited for.
        together = torch.cat(answers).double().cpu().numpy()
        sorted_back = np.empty_like(together)
        sorted_back[np.concatenate(order)] = together
        return sorted_back

    def _fitting(
        self,
        examples: Int[np.ndarray, " N"],
        stays: Bool[np.ndarray, "N W"],
        width: int,
        ask: Callable[..., Tensor] | None = None,
    ) -> Float[Tensor, "N ..."] | None:
        """The answers, by `_logits` or another way; None where they did not fit in memory and fewer are to be asked for."""
        try:
            return (ask or self._logits)(torch.from_numpy(examples), torch.from_numpy(stays))
        except RuntimeError as error:
            if len(examples) == 1 or not is_out_of_memory(error):
                raise
        # Outside the handler: the exception would keep the failed pass's tensors alive.
        torch.cuda.empty_cache()
        self.budget.fit(len(examples) // 2 * width)
        return None

    def _groups(
        self, stays: Bool[np.ndarray, "N W"]
    ) -> Iterator[tuple[Int[np.ndarray, " _"], int]]:
        """The rows that can be asked together, and how many tokens each of them costs."""
        yield np.arange(len(stays)), stays.shape[1]

    def _sorted(
        self,
        rows: Int[np.ndarray, " N"],
        examples: Int[np.ndarray, " M"],
        stays: Bool[np.ndarray, "M W"],
    ) -> Int[np.ndarray, " N"]:
        """The rows of a group in the order in which they are asked."""
        return rows

    @abstractmethod
    def _logits(
        self, examples: Int[Tensor, " N"], stays: Bool[Tensor, "N W"]
    ) -> Float[Tensor, "N C"]:
        """Asks the model; all tensors given are on the host."""


def _bytes_of_rows(stays: Bool[np.ndarray, "N W"]) -> list[bytes]:
    """Each row as bytes, eight tokens in one."""
    packed = np.packbits(stays, axis=1)
    width = packed.shape[1]
    joined = packed.tobytes()
    return [joined[start : start + width] for start in range(0, len(joined), width)]


class ReplacingProbe(CachingProbe):
    """Removed tokens get another vector in place of their embedding.

    Args:
        references: of the model.
        batch: the texts.
        token_budget: tokens per pass.
        replacement: one vector, or one for each token.
    """

    def __init__(
        self,
        references: References,
        batch: Batch,
        token_budget: int,
        replacement: Float[Tensor, " D"] | Float[Tensor, "B T D"],
    ) -> None:
        super().__init__(references, batch, token_budget)
        self.embeddings = embed_batch(references.model, batch)
        self.replacement = replacement
        self.whole = logits_fn(references.model, batch, short=True)
        self._seed: Seed | None = None

    @cached_property
    def shares(self) -> bool:
        """Whether questions that begin alike share what is computed of their beginning."""
        return shares(self.references, self.batch)

    @cached_property
    def nested(self) -> Nested | None:
        """The texts that begin others of the batch, and may be read off these."""
        return nested(self.references, self.batch) if self.references.may_share else None

    def _sorted(
        self,
        rows: Int[np.ndarray, " N"],
        examples: Int[np.ndarray, " M"],
        stays: Bool[np.ndarray, "M W"],
    ) -> Int[np.ndarray, " N"]:
        if len(rows) == 1 or not self.shares:
            return rows
        places = order(torch.from_numpy(examples[rows]), torch.from_numpy(stays[rows]))
        return np.asarray(rows[places.numpy()])

    @torch.inference_mode()
    def _ask(
        self, examples: Int[np.ndarray, " N"], stays: Bool[np.ndarray, "N W"]
    ) -> Float[np.ndarray, "N C"]:
        carrier = self.nested.carriers(examples, stays) if self.nested else np.arange(len(examples))
        own, place = np.unique(carrier, return_inverse=True)
        if len(own) == len(examples):
            return super()._ask(examples, stays)
        ends = np.array(self.batch.lengths)[examples] - 1
        parts: list[tuple[Int[np.ndarray, " _"], Float[np.ndarray, "_ C"]]] = []
        start, width = 0, stays.shape[1]
        while start < len(own):
            stop = start + self.budget.rows(width)
            some = own[start:stop]
            outputs = self._fitting(examples[some], stays[some], width, self._outputs)
            if outputs is None:
                continue
            rows = np.flatnonzero((place >= start) & (place < stop))
            read = outputs[torch.from_numpy(place[rows] - start), torch.from_numpy(ends[rows])]
            parts.append((rows, at_least_float32(read).double().cpu().numpy()))
            start += len(some)
            self.n_tokens += len(some) * width
        answers = np.empty((len(examples), parts[0][1].shape[1]))
        for rows, values in parts:
            answers[rows] = values
        return answers

    def _outputs(
        self, examples: Int[Tensor, " N"], stays: Bool[Tensor, "N W"]
    ) -> Float[Tensor, "N W C"]:
        """The model's outputs for every token."""
        rows, embeddings = self._changed(examples, stays)
        mask = self.batch.mask_of(on_device(examples.tolist(), rows.device), stays.shape[1])
        return self.references.model.output(self.batch.input_ids[rows], mask, embeddings=embeddings)

    def _changed(
        self, examples: Int[Tensor, " N"], stays: Bool[Tensor, "N W"]
    ) -> tuple[Int[Tensor, " N"], Float[Tensor, "N W D"]]:
        """The text of each row and its embeddings, with the replacement in the place of what is removed."""
        rows = sent(examples, self.embeddings.device)
        real = torch.from_numpy(self.real)[examples]
        removed = sent(real & ~stays, rows.device)
        away = self.replacement if self.replacement.ndim == 1 else self.replacement[rows]
        return rows, torch.where(removed[:, :, None], away, self.embeddings[rows])

    def _logits(
        self, examples: Int[Tensor, " N"], stays: Bool[Tensor, "N W"]
    ) -> Float[Tensor, "N C"]:
        rows, embeddings = self._changed(examples, stays)
        if len(stays) > 1 and self.shares:
            plan = walk(examples, stays, self._seed)
            model, seed = self.references.model, self._seed
            logits, states = shared_logits(model, self.batch, plan, rows, embeddings, seed)
            self._seed = Seed(int(examples[-1]), stays[-1], states)
            self.n_tokens -= stays.numel() - plan.n_tokens
            return logits
        return self.whole(embeddings, rows)


class _ShorteningProbe(CachingProbe):
    """Asks about the tokens that stay alone, texts of equal length together: no padding and no mask."""

    def __init__(self, references: References, batch: Batch, token_budget: int) -> None:
        super().__init__(references, batch, token_budget)
        if any(item.pads is not None for item in batch.encoded):
            raise InputError(
                f"outputs of {references.model.name} depend on the padding that {batch.example_ids[0]} came with, and "
                "texts that get shorter would lose it: use removal mask or zero"
            )
        for row, example_id in enumerate(batch.example_ids):
            if not (self.real[row] & ~self.attributable[row]).any():
                raise InputError(
                    f"{example_id} has no special token, so that nothing would be left of it: use removal mask or zero"
                )

    def _groups(
        self, stays: Bool[np.ndarray, "N W"]
    ) -> Iterator[tuple[Int[np.ndarray, " _"], int]]:
        lengths = stays.sum(1)
        for length in np.unique(lengths).tolist():
            yield np.flatnonzero(lengths == length), length

    def _logits(
        self, examples: Int[Tensor, " N"], stays: Bool[Tensor, "N W"]
    ) -> Float[Tensor, "N C"]:
        return dropped_output(self.references.model, self.batch, examples, stays, None)


class DeletingProbe(_ShorteningProbe):
    """The text without the removed tokens, its positions counted anew."""

    def __init__(self, references: References, batch: Batch, token_budget: int) -> None:
        super().__init__(references, batch, token_budget)
        if batch.extra:
            raise InputError(
                f"text {batch.example_ids[0]} comes with {', '.join(batch.extra)}, and it is not known what these would be of "
                "a text with tokens deleted: use removal mask, zero or attention"
            )


class AttentionProbe(_ShorteningProbe):
    """Nothing attends to removed tokens, and the others keep their positions.

    Where it is proved to be the same for texts like these, removed tokens are left out altogether.
    """

    def __init__(self, references: References, batch: Batch, token_budget: int) -> None:
        super().__init__(references, batch, token_budget)
        self.how = how_to_drop(references, batch)
        if self.how is None and not hides(references, batch):
            raise InputError(
                f"model {references.model.name} still reads tokens that are not to be attended to, so that removal "
                "attention would remove nothing or too little: use removal mask, zero or delete"
            )

    def _groups(
        self, stays: Bool[np.ndarray, "N W"]
    ) -> Iterator[tuple[Int[np.ndarray, " _"], int]]:
        if self.how is None:
            yield np.arange(len(stays)), stays.shape[1]
        else:
            yield from super()._groups(stays)

    def _logits(
        self, examples: Int[Tensor, " N"], stays: Bool[Tensor, "N W"]
    ) -> Float[Tensor, "N C"]:
        if self.how is None:
            return masked_output(self.references.model, self.batch, examples, stays)
        return dropped_output(self.references.model, self.batch, examples, stays, self.how)


def _replacing(name: str, references: References, batch: Batch, token_budget: int) -> CachingProbe:
    embeddings = embed_batch(references.model, batch)
    vectors = references.replacement(name, batch, embeddings, batch.attributable)
    return ReplacingProbe(references, batch, token_budget, vectors)


for _name in NAMES:
    REMOVALS.add(_name, partial(_replacing, _name))
REMOVALS.add(ATTENTION, AttentionProbe)
REMOVALS.add(DELETE, DeletingProbe)
