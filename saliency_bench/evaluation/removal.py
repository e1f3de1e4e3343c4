"""Removal operators: the outputs of the model for texts of which only some tokens stay.

`mask`, `pad`, `unk`, `zero` and `mean` replace the embedding of a removed token by a vector. The model receives the real
token ids, so that positions and pooling stay as they are. `attention` hides removed tokens from attention, and the others
keep their positions. `delete` takes removed tokens out of the text, and the others move up. Special tokens are never
removed. When maps are evaluated, `baseline` replaces removed tokens by the baseline of the map's own method.

To add an operator, write one function in a file of this folder and register it by `@REMOVALS.register` (in an installed
package: entry point group `saliency_bench.removals`). It takes references, a batch and a token budget, and returns a
`CachingProbe`.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saliency_bench.core.errors import InputError, unknown
from saliency_bench.core.registry import REMOVALS
from saliency_bench.core.tensors import Batch, at_least_float32, on_device, sent
from saliency_bench.evaluation.nested import Nested, nested
from saliency_bench.evaluation.probe import CachingProbe
from saliency_bench.models.dropping import dropped_output, hides, how_to_drop, masked_output
from saliency_bench.models.model import Model
from saliency_bench.models.prefixes import Seed, first_differences, form_of, order, plan
from saliency_bench.models.references import (
    ATTENTION,
    DELETE,
    NAMES,
    TOKENS,
    References,
    embed_batch,
    resolve_removal,
    token_id,
)
from saliency_bench.models.tasks.registry import refusal
from saliency_bench.models.tasks.scores import logits_fn, shared_logits

#: The operator that replaces removed tokens by the baseline of each map's method.
MAPS_BASELINE = "baseline"


def operators() -> list[str]:
    """The names of the operators for evaluation."""
    return [*REMOVALS.names(), MAPS_BASELINE]


def fit_operator(model: Model, removal: str, key: str = "removal") -> str:
    """The operator to use for a model: a token that its tokenizer lacks is replaced by another (see `references.resolve`).

    Raises:
        InputError: there is no such operator.
    """
    if removal == MAPS_BASELINE:  # the baselines are resolved with the settings
        return removal
    if removal not in REMOVALS:
        raise unknown(key, removal, operators())
    return resolve_removal(model, removal, key)


def replacing_tokens(model: Model) -> dict[str, str]:
    """The tokens that may replace removed ones, by operator, as the tokenizer writes them."""
    tokens = {name: getattr(model.tokenizer, f"{name}_token", None) for name in TOKENS}
    return {name: str(token) for name, token in tokens.items() if token}


def operator_for(removal: str, setting: Mapping[str, Any]) -> str | None:
    """The operator for maps of a setting: for "baseline" the setting's baseline, or None if that is no operator."""
    if removal != MAPS_BASELINE:
        return removal
    baseline = setting.get("baseline")
    return baseline if baseline in NAMES else None


def removal_probe(
    references: References, batch: Batch, removal: str, token_budget: int
) -> CachingProbe:
    """The probe of an operator, for the texts of a batch.

    Raises:
        InputError: there is no such operator, it would leave nothing of a text, or it has no meaning in the task.
    """
    if reason := refusal(references.model, removal):
        raise InputError(f"removal={removal}, {references.model.task}: {reason}. Use mask or zero.")
    probe: CachingProbe = REMOVALS[removal](references, batch, token_budget)
    return probe


class ReplacingProbe(CachingProbe):
    """Replaces the embeddings of removed tokens by another vector.

    Args:
        references: those of the model.
        batch: the texts.
        token_budget: the largest number of tokens in a pass.
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
    def form(self) -> str | None:
        """The form in which questions with equal beginnings share the computation of their beginning; None: not at all."""
        return form_of(self.references, self.batch)

    @property
    def shares(self) -> bool:
        """Whether questions with equal beginnings share the computation of their beginning."""
        return self.form is not None

    @cached_property
    def nested(self) -> Nested | None:
        """The texts that are beginnings of others, if their outputs may be read from those of the longer texts."""
        return nested(self.references, self.batch) if self.references.may_share else None

    def _groups(
        self, examples: Int[np.ndarray, " N"], stays: Bool[np.ndarray, "N W"]
    ) -> Iterator[tuple[Int[np.ndarray, " _"], int]]:
        if not self.shares:
            yield from super()._groups(examples, stays)
            return
        lengths = np.array(self.batch.lengths)[examples]
        for length in np.unique(lengths).tolist():
            yield np.flatnonzero(lengths == length), length

    def _sorted(
        self,
        rows: Int[np.ndarray, " N"],
        examples: Int[np.ndarray, " M"],
        stays: Bool[np.ndarray, "M W"],
    ) -> Int[np.ndarray, " N"]:
        return rows[order(examples[rows], stays[rows])] if self.shares else rows

    @torch.inference_mode()
    def _ask(
        self, examples: Int[np.ndarray, " N"], stays: Bool[np.ndarray, "N W"]
    ) -> Float[np.ndarray, "N C"]:
        carrier = self.nested.carriers(examples, stays) if self.nested else np.arange(len(examples))
        carriers = np.unique(carrier)
        # Rows that share their beginnings cost about half, but have no outputs for shorter texts.
        enough = len(examples) / 2 if self.shares else len(examples) - 1
        if len(carriers) > enough:
            return super()._ask(examples, stays)
        ends = np.array(self.batch.lengths)[examples] - 1
        parts: list[tuple[Int[np.ndarray, " _"], Float[np.ndarray, "_ C"]]] = []
        passes = self._passes(carriers, examples, stays, stays.shape[1], self._outputs)
        for chunk, outputs in passes:
            rows = np.flatnonzero(np.isin(carrier, chunk))
            place = torch.from_numpy(np.searchsorted(chunk, carrier[rows]))
            read = outputs[place, torch.from_numpy(ends[rows])]
            parts.append((rows, at_least_float32(read).double().cpu().numpy()))
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
        """The text of each row and its embeddings, with the replacement in place of removed tokens."""
        rows = sent(examples, self.embeddings.device)
        real = torch.from_numpy(self.real)[examples]
        removed = sent(real & ~stays, rows.device)
        vectors = self.replacement if self.replacement.ndim == 1 else self.replacement[rows]
        return rows, torch.where(removed[:, :, None], vectors, self.embeddings[rows])

    def _logits(
        self, examples: Int[Tensor, " N"], stays: Bool[Tensor, "N W"]
    ) -> Float[Tensor, "N C"]:
        rows, embeddings = self._changed(examples, stays)
        if self.form is None:
            return self.whole(embeddings, rows)
        model, width = self.references.model, self.batch.lengths[int(examples[0])]
        stays, embeddings = stays[:, :width], embeddings[:, :width]
        seed = self._seed  # one of another text, which may have another width, shares nothing
        parts = plan(self.form, first_differences(examples, stays, seed), width, model.device)
        states = seed.states if seed else []
        logits, states = shared_logits(model, self.batch, parts, rows, embeddings, states)
        self._seed = Seed(int(examples[-1]), stays[-1], states)
        self.n_tokens -= stays.numel() - sum(way.n_tokens for _, way in parts)
        return logits


class _ShorteningProbe(CachingProbe):
    """Passes only the tokens that stay to the model, grouped by their number, without padding and mask.

    A text of which no token stays is the pad token alone. Only texts without special tokens can become empty.

    Raises:
        InputError: outputs depend on the padding of a text; or nothing may be left of a text, and the model has no pad token
            or has further inputs.
    """

    def __init__(self, references: References, batch: Batch, token_budget: int) -> None:
        super().__init__(references, batch, token_budget)
        if any(item.pads is not None for item in batch.encoded):
            raise InputError(
                f"outputs of {references.model.name} depend on the padding of {batch.example_ids[0]}, and shorter texts "
                "would lose it: give the texts without padding, or use removal mask or zero"
            )
        can_be_empty = (~(self.real & ~self.attributable).any(1)).nonzero()[0]
        if len(can_be_empty) > 0 and (batch.extra or token_id(references.model, "pad") is None):
            lacks = (
                "cannot be asked about one"
                if batch.extra
                else "has no pad token in its tokenizer to stand for it"
            )
            raise InputError(
                f"{batch.example_ids[can_be_empty[0]]} has no special token, so that removal may leave an empty text, and "
                f"{references.model.name} {lacks}: use removal mask or zero"
            )

    @cached_property
    def _of_nothing(self) -> Float[np.ndarray, "1 C"]:
        """The logits of an empty text."""
        model = self.references.model
        ids = torch.tensor([[token_id(model, "pad")]], device=model.device)
        types = None if self.batch.token_type_ids is None else torch.zeros_like(ids)
        return model.output(ids, None, types).double().cpu().numpy()

    @torch.inference_mode()
    def _ask(
        self, examples: Int[np.ndarray, " N"], stays: Bool[np.ndarray, "N W"]
    ) -> Float[np.ndarray, "N C"]:
        is_left = stays.any(1)
        if is_left.all():
            return super()._ask(examples, stays)
        answers = self._of_nothing.repeat(len(stays), 0)
        if is_left.any():
            answers[is_left] = super()._ask(examples[is_left], stays[is_left])
        return answers

    def _groups(
        self, examples: Int[np.ndarray, " N"], stays: Bool[np.ndarray, "N W"]
    ) -> Iterator[tuple[Int[np.ndarray, " _"], int]]:
        lengths = stays.sum(1)
        for length in np.unique(lengths).tolist():
            yield np.flatnonzero(lengths == length), length

    def _logits(
        self, examples: Int[Tensor, " N"], stays: Bool[Tensor, "N W"]
    ) -> Float[Tensor, "N C"]:
        return dropped_output(self.references.model, self.batch, examples, stays, None)


class DeletingProbe(_ShorteningProbe):
    """The text without the removed tokens, with new positions."""

    def __init__(self, references: References, batch: Batch, token_budget: int) -> None:
        super().__init__(references, batch, token_budget)
        if batch.extra:
            raise InputError(
                f"text {batch.example_ids[0]} has the further inputs {', '.join(batch.extra)}, which are not known for a text "
                "with tokens deleted: use removal mask, zero or attention"
            )


class AttentionProbe(_ShorteningProbe):
    """No token attends to removed ones, and the others keep their positions.

    Removed tokens are left out of the computation if this is proved to give the same outputs for texts like these. A model
    that reads its answer at the last token reads it at the last one that stays.

    Raises:
        InputError: the model reads tokens that are not attended to.
    """

    def __init__(self, references: References, batch: Batch, token_budget: int) -> None:
        super().__init__(references, batch, token_budget)
        self.how = how_to_drop(references, batch)
        if self.how is None and not hides(references, batch):
            raise InputError(
                f"model {references.model.name} reads tokens that are masked in its attention, or the end of a text before "
                "what stays of it is known, so that removal attention would not remove them, or only in part: use removal "
                "mask, zero or delete"
            )

    def _groups(
        self, examples: Int[np.ndarray, " N"], stays: Bool[np.ndarray, "N W"]
    ) -> Iterator[tuple[Int[np.ndarray, " _"], int]]:
        if self.how is None:
            yield np.arange(len(stays)), stays.shape[1]
        else:
            yield from super()._groups(examples, stays)

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
