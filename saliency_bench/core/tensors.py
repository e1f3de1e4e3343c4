"""Tensor vocabulary and the values that pass between the parts.

Letters are fixed: B examples, T tokens, D embedding, R rows (example, point), S points (steps or samples),
K settings or fractions, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saliency_bench.core.errors import InputError
from saliency_bench.core.text import Encoded

#: Scores of rows: `embeddings[r]` replaces the input embeddings of example `row_example[r]` of a batch.
#: Row r of the result depends on row r alone. Model, task, target and real input ids are inside.
ScoreFn: TypeAlias = Callable[[Float[Tensor, "R T D"], Int[Tensor, " R"]], Float[Tensor, " R"]]

#: `(example indices [N], what stays of each one's own tokens) -> logits [N C]` in float64; the removal operator is
#: inside.
Probe: TypeAlias = Callable[
    [Int[np.ndarray, " _"], Sequence[Bool[np.ndarray, " _"]]], Float[np.ndarray, " ..."]
]


#: The attribute of a tensor by which the host knows what it sent.
_KEPT = "_saliency_bench_kept"


def host_copies(tensors: Sequence[Tensor]) -> list[Float[np.ndarray, " ..."]]:
    """The tensors in float64 on the host, by one copy for all that lie on one device: a GPU is waited for once."""
    copies: dict[int, Float[np.ndarray, " ..."]] = {}
    for device in {tensor.device for tensor in tensors}:
        places = [place for place, tensor in enumerate(tensors) if tensor.device == device]
        flat = torch.cat([tensors[place].detach().flatten().double() for place in places])
        numbers = flat.cpu().numpy()
        ends = np.cumsum([tensors[place].numel() for place in places])[:-1]
        for place, part in zip(places, np.split(numbers, ends), strict=True):
            copies[place] = part.reshape(tensors[place].shape)
    return [copies[place] for place in range(len(tensors))]


def on_device(
    values: Sequence[int] | Sequence[float], device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """Copies numbers to a device without waiting for a GPU; the host keeps them for `numbers`."""
    there = sent(torch.tensor(values, dtype=dtype), device)
    if not there.is_floating_point():
        setattr(there, _KEPT, tuple(values))
    return there


def numbers(there: Int[Tensor, " N"]) -> list[int]:
    """Reads whole numbers from a tensor, without waiting where `on_device` made it. Such a tensor must not be changed."""
    kept: Sequence[int] | None = getattr(there, _KEPT, None)
    return there.tolist() if kept is None else list(kept)


def sent(held: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor to a device without waiting for a GPU."""
    if device.type != "cuda":
        return held.to(device)
    return held.pin_memory().to(device, non_blocking=True)


@dataclass
class TokenBudget:
    """How many tokens a pass may have; it shrinks when memory runs out."""

    tokens: int
    halvings: int = 0

    def rows(self, width: int) -> int:
        """How many rows of this many tokens a pass takes; at least one."""
        return max(1, self.tokens // width)

    def fit(self, tokens: int) -> None:
        """Lowers the budget after memory ran out."""
        self.tokens = max(1, tokens)
        self.halvings += 1


@dataclass(frozen=True)
class Options:
    """What may follow each text of a batch; the classes of a question are these.

    `ids` has for each of the C options the text and, after it, the option, in W tokens; `scored` marks the option's
    own tokens. `counts` is what the sum of their log-probabilities is divided by: how many they are, or 1.
    """

    ids: Int[Tensor, "B C W"]
    scored: Bool[Tensor, "B C W"]
    counts: Int[Tensor, "B C"]


@dataclass(frozen=True)
class Batch:
    """A block of examples in normal form, padded on the right, as they were given (see `Encoded.pads`), or not at all.

    `attributable` is False for padding and special tokens. What is asked of each text is read in the outputs of every
    token where `positions` or `boundaries` are there: at one token, or one logit of each token that is `answerable`.
    Where `options` are there, each text is asked which of them follows (`tasks.options`).
    `extra` has further inputs of the model by name, [B ...].
    """

    encoded: tuple[Encoded, ...]
    input_ids: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    token_type_ids: Int[Tensor, "B T"] | None
    attributable: Bool[Tensor, "B T"]
    positions: Int[Tensor, " B"] | None = None
    boundaries: Int[Tensor, " B"] | None = None
    answerable: Bool[Tensor, "B T"] | None = None
    options: Options | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def extra_of(self, rows: Any = slice(None), width: int | None = None) -> dict[str, Tensor]:
        """Inputs of the model beside ids and mask by name, of these rows; token types, among them, to this width."""
        extra = {name: value[rows] for name, value in self.extra.items()}
        if self.token_type_ids is None:
            return extra
        return {"token_type_ids": self.token_type_ids[rows][:, :width]} | extra

    def mask_of(self, rows: Int[Tensor, " R"], width: int) -> Bool[Tensor, "R W"] | None:
        """The mask of these rows up to a width; None where nothing there is padding."""
        if not self.padded:
            return None
        items = [self.encoded[row] for row in numbers(rows)]
        if all(item.pads is None and len(item) >= width for item in items):
            return None
        return self.mask[rows][:, :width]

    def read(
        self, outputs: Float[Tensor, "R ..."], rows: Int[Tensor, " R"] | None = None
    ) -> Float[Tensor, "R C"]:
        """The logits of what is asked about these rows (all where None) in the outputs of a model.

        They are in at least float32, whatever the model computes in: a probability near 1, and its gradient, have no
        digits left in half precision.

        Raises:
            InputError: see `require_text_alone`.
        """
        self.require_text_alone()
        every = torch.arange(len(outputs), device=outputs.device)
        rows = every if rows is None else rows
        if self.positions is not None:
            return at_least_float32(outputs[every, self.positions[rows]])
        if self.boundaries is None:
            return at_least_float32(outputs)
        assert self.answerable is not None
        ends = at_least_float32(outputs[every, :, self.boundaries[rows]])
        return ends.masked_fill(~self.answerable[rows], -torch.inf)

    def require_text_alone(self) -> None:
        """Refuses what is not read in outputs for the text alone, where these are needed.

        Raises:
            InputError: the texts have options.
        """
        if self.options is not None:
            raise InputError(
                "options, and a continuation as a whole, are scored in passes that go beyond the text, which this method, "
                "backend or rule of gradients does not follow: ask for each token of the continuation (leave out at=)"
            )

    @property
    def tokens_of_a_row(self) -> int:
        """How many tokens the model reads to answer one row."""
        width = self.input_ids.shape[1]
        return width if self.options is None else self.options.ids[0].numel()

    @property
    def example_ids(self) -> tuple[str, ...]:
        """The names of the examples, by which rows are traced and comparisons are paired."""
        return tuple(item.example_id for item in self.encoded)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The tokens of each example with special tokens and its own padding, without padding to the block's width."""
        return tuple(len(item) for item in self.encoded)

    @property
    def widths(self) -> tuple[int, ...]:
        """How wide a pass over each example must be: as its tokens, or as the block where other inputs or outputs are."""
        if self.extra or self.boundaries is not None or self.options is not None:
            return (self.input_ids.shape[1],) * len(self)
        return self.lengths

    @property
    def padded(self) -> bool:
        """Whether any row has padding."""
        own_padding = any(item.pads is not None for item in self.encoded)
        return own_padding or min(self.lengths) < self.input_ids.shape[1]

    def __len__(self) -> int:
        return len(self.encoded)


@dataclass(frozen=True)
class Convergence:
    """How sure approximate scores are, example by example; None where it is not known.

    `standard_errors` are those of the scores, from independent groups of random draws. `split_half_tau` is the rank
    correlation (Kendall's τ-b) of the scores from one half of the draws with those from the other.
    `error` estimates the relative error of the scores: for random draws the norm of the standard errors over that
    of the scores, for quadrature the largest error of a token over the largest score.
    `converged` says whether `error` came down to the tolerance that was asked for, and `reasons` why not. The error is
    estimated, so this is no proof; `attribution.adaptive` says how often it was wrong, and where that was measured.
    """

    standard_errors: Float[np.ndarray, " ..."] | None = None
    split_half_tau: Float[np.ndarray, " B"] | None = None
    error: Float[np.ndarray, " B"] | None = None
    converged: Bool[np.ndarray, " B"] | None = None
    reasons: tuple[str | None, ...] | None = None


@dataclass(frozen=True)
class Attribution:
    """Scores of one setting for the examples of a batch.

    `scores` are per token after the reduction; padding is 0. `total` is the signed sum before the reduction
    and `difference` is F(x) - F(x'), where the method claims that they agree (completeness), else None.
    `n_gradients` is the cost of each example's map alone: gradients at distinct points; one number where it is the
    same for all. `draws` are equally valid scores of a random ranking, over which metrics are averaged; `scores` is
    the first.
    """

    scores: Float[Tensor, "B T"]
    n_gradients: int | Int[np.ndarray, " B"]
    total: Float[Tensor, " B"] | None = None
    difference: Float[Tensor, " B"] | None = None
    draws: Float[Tensor, "N B T"] | None = None
    convergence: Convergence | None = None


def at_least_float32(values: Tensor) -> Tensor:
    """The same numbers, in float32 where they are in half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
