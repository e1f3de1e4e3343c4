"""Types of functions on tensors, and the values that pass between rooms.

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

#: `(embeddings, row_example) -> scores`: `embeddings[r]` replaces the input embeddings of example `row_example[r]` of a
#: batch. Row r of the result depends on row r alone. The function holds the model, task, target and input ids.
ScoreFn: TypeAlias = Callable[[Float[Tensor, "R T D"], Int[Tensor, " R"]], Float[Tensor, " R"]]

#: `(example indices [N], a mask of the tokens that stay for each) -> logits [N C]` in float64. The function holds the
#: removal operator.
Probe: TypeAlias = Callable[
    [Int[np.ndarray, " _"], Sequence[Bool[np.ndarray, " _"]]], Float[np.ndarray, " ..."]
]


#: The attribute of a tensor on a device that keeps its numbers on the host.
_ON_HOST = "_saliency_bench_on_host"


def host_copies(tensors: Sequence[Tensor]) -> list[Float[np.ndarray, " ..."]]:
    """Returns the tensors in float64 on the host, by one copy per device, so that a GPU is waited for once."""
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
    copied = sent(torch.tensor(values, dtype=dtype), device)
    if not copied.is_floating_point():
        setattr(copied, _ON_HOST, tuple(values))
    return copied


def numbers(tensor: Int[Tensor, " N"]) -> list[int]:
    """Returns the whole numbers of a tensor. If `on_device` made it, no GPU is waited for; it must not have been changed."""
    on_host: Sequence[int] | None = getattr(tensor, _ON_HOST, None)
    return tensor.tolist() if on_host is None else list(on_host)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor to a device without waiting for a GPU."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass
class TokenBudget:
    """The largest number of tokens in a pass; it shrinks when memory runs out."""

    tokens: int
    halvings: int = 0

    def rows(self, width: int) -> int:
        """Returns the number of rows of `width` tokens in a pass; at least one."""
        return max(1, self.tokens // width)

    def fit(self, tokens: int) -> None:
        """Lowers the budget to `tokens` after memory ran out."""
        self.tokens = max(1, tokens)
        self.halvings += 1


@dataclass(frozen=True)
class Options:
    """The options for the text after each text of a batch; they are the classes.

    `ids` has for each of the C options the text followed by the option, in W tokens; `scored` marks the tokens of the
    option. The sum of their log-probabilities is divided by `counts`: their number, or 1.
    """

    ids: Int[Tensor, "B C W"]
    scored: Bool[Tensor, "B C W"]
    counts: Int[Tensor, "B C"]


@dataclass(frozen=True)
class Batch:
    """A block of examples as tensors: without padding, padded on the right, or with their own padding (`Encoded.pads`).

    `attributable` is False for padding and special tokens. With `positions`, the logits of a text are those of the model's
    output at one token; with `boundaries`, they are one logit of each token, for those that are `answerable`. With
    `options`, the classes are the texts that may follow (`tasks.options`). `extra` has further inputs of the model by name,
    [B ...].
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
        """Returns the inputs of the model besides ids and mask by name, for some rows; token types are cut to `width`."""
        extra = {name: value[rows] for name, value in self.extra.items()}
        if self.token_type_ids is None:
            return extra
        return {"token_type_ids": self.token_type_ids[rows][:, :width]} | extra

    def mask_of(self, rows: Int[Tensor, " R"], width: int) -> Bool[Tensor, "R W"] | None:
        """Returns the attention mask of some rows up to a width; None if there is no padding."""
        if not self.padded:
            return None
        items = [self.encoded[row] for row in numbers(rows)]
        if all(item.pads is None and len(item) >= width for item in items):
            return None
        return self.mask[rows][:, :width]

    def places(self, width: int) -> Int[Tensor, " P"] | None:
        """Returns the tokens before `width` at which a text is read, in order; None if texts are not read at one token."""
        if self.positions is None:
            return None
        read = {item.position for item in self.encoded if item.position is not None}
        device = self.input_ids.device
        return on_device(sorted(place for place in read if place < width), device, torch.long)

    def read(
        self,
        outputs: Float[Tensor, "R ..."],
        rows: Int[Tensor, " R"] | None = None,
        places: Int[Tensor, " P"] | None = None,
    ) -> Float[Tensor, "R C"]:
        """Returns the logits of the classes of these rows (None: all) from the outputs of a model, for all tokens or at `places`.

        They are in at least float32, whatever the model computes in: in half precision a probability near 1, and its
        gradient, would have no digits left.

        Raises:
            InputError: see `require_text_alone`.
        """
        self.require_text_alone()
        every = torch.arange(len(outputs), device=outputs.device)
        rows = every if rows is None else rows
        if self.positions is not None:
            tokens = self.positions[rows]
            index = tokens if places is None else torch.searchsorted(places, tokens)
            return at_least_float32(outputs[every, index])
        if self.boundaries is None:
            return at_least_float32(outputs)
        assert self.answerable is not None
        ends = at_least_float32(outputs[every, :, self.boundaries[rows]])
        return ends.masked_fill(~self.answerable[rows], -torch.inf)

    def require_text_alone(self) -> None:
        """Checks that outputs for the text alone answer the question.

        Raises:
            InputError: the texts have options, which are scored in passes beyond the text.
        """
        if self.options is not None:
            raise InputError(
                "this method, backend or backward rule cannot explain options or a whole continuation, which are scored in "
                "passes beyond the text. Explain each token of the continuation (leave out at=)"
            )

    @property
    def tokens_of_a_row(self) -> int:
        """The number of tokens that the model reads for one row."""
        width = self.input_ids.shape[1]
        return width if self.options is None else self.options.ids[0].numel()

    @property
    def example_ids(self) -> tuple[str, ...]:
        """The names of the examples in tables."""
        return tuple(item.example_id for item in self.encoded)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The number of tokens of each example, with special tokens and its own padding, without padding to the block."""
        return tuple(len(item) for item in self.encoded)

    @property
    def widths(self) -> tuple[int, ...]:
        """The width of a pass over each example: its tokens, or the block if it has further inputs, boundaries or options."""
        if self.extra or self.boundaries is not None or self.options is not None:
            return (self.input_ids.shape[1],) * len(self)
        return self.lengths

    @property
    def padded(self) -> bool:
        """Whether any row has padding."""
        came_padded = any(item.pads is not None for item in self.encoded)
        return came_padded or min(self.lengths) < self.input_ids.shape[1]

    def __len__(self) -> int:
        return len(self.encoded)


@dataclass(frozen=True)
class Uncertainty:
    """The uncertainty of approximate scores, by example; None if it is unknown.

    `standard_errors` are those of the scores, from independent groups of random draws. `split_half_tau` is the rank
    correlation (Kendall's τ-b) of the scores from the two halves of the draws. `error` estimates the relative error of the
    scores: for random draws the norm of the standard errors over that of the scores, for quadrature the largest error of a
    token over the largest score. `converged` says whether `error` is within the tolerance, and `reasons` why not. Since the
    error is an estimate, this is no proof; `attribution.adaptive` says how often it was wrong in measurements.
    """

    standard_errors: Float[np.ndarray, " ..."] | None = None
    split_half_tau: Float[np.ndarray, " B"] | None = None
    error: Float[np.ndarray, " B"] | None = None
    converged: Bool[np.ndarray, " B"] | None = None
    reasons: tuple[str | None, ...] | None = None


@dataclass(frozen=True)
class Attribution:
    """Scores of one setting for the examples of a batch.

    `scores` are per token after the reduction; padding is 0. `total` is the signed sum before the reduction and
    `difference` is F(x) - F(x'), if the method claims that they agree (completeness), else None. `n_gradients` is the cost
    of each example's map alone: the number of gradients at distinct points, one number if it is the same for all. `draws`
    are equally valid scores of a random ranking, over which metrics are averaged; `scores` is the first of them.
    """

    scores: Float[Tensor, "B T"]
    n_gradients: int | Int[np.ndarray, " B"]
    total: Float[Tensor, " B"] | None = None
    difference: Float[Tensor, " B"] | None = None
    draws: Float[Tensor, "N B T"] | None = None
    convergence: Uncertainty | None = None


def at_least_float32(values: Tensor) -> Tensor:
    """Returns the same numbers, in float32 if they are in half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
