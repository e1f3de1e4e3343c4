"""What is checked of a model before anything is computed with it: a clear error, or a recorded finding."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress, groupby
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saliency_bench.encoded import Encoded
from saliency_bench.errors import InputError, is_out_of_memory
from saliency_bench.models.heads import HEADS
from saliency_bench.models.intake import FAILURES
from saliency_bench.models.model import Model
from saliency_bench.models.rounding import products

#: Below this, Σ_d ∂F/∂e_td is rounding noise. A sum of D terms of like size and random sign would be about
#: D^-1/2 of the sum of their magnitudes (0.05 for D = 384); exact cancellation leaves about one rounding error.
VANISHING_EPSILONS = 64

#: In half precision the rounding of the sum is as large as a sum that does not vanish; beyond this none is refused.
LARGEST_VANISHING = 1e-2

#: Texts of one kind that are tried before a model is refused whose outputs are not finite.
MOST_TRIED = 32

FLOAT32_EPSILON = torch.finfo(torch.float32).eps

#: The text is cut to this before it is probed, and to what leaves room for so many pads.
PROBED_TOKENS = 64
N_PADS = 4
#: Not to fewer than this: shorter texts are probed whole, with the pads that there is room for.
FEWEST_PROBED = 4

#: Steps along the gradient, of the embeddings' root mean square, over which it is compared with differences of the
#: output: the first is near the cube root of float32's rounding error, where both errors of a difference are least.
STEPS = (5e-3, 5e-3 / 8, 5e-3 / 64)

#: How far the gradient may be from the best of these. Of the architectures of transformers, those that differentiate
#: what they compute are within 0.03 %; the approximate backward pass of YOSO is off by 1 to 4 %.
LARGEST_GRADIENT_DIFFERENCE = 0.005

#: Half precision is too coarse for differences.
FINEST = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Findings:
    """What the probe saw; `sum_vanishes` decides whether raw gradients may be summed."""

    hook_difference: (
        float  # largest difference of logits with the embeddings replaced by themselves
    )
    repeat_difference: float  # the same input twice
    batch_difference: float  # alone, and beside another row
    padding_difference: (
        float | None
    )  # alone, and padded on the right; None without a pad token, or where the model takes no padding
    unseen_difference: (
        float  # the same embeddings with other ids beneath: what is read of the ids by another way
    )
    gradient_difference: (
        float | None
    )  # of the gradient's length and a difference of outputs along it, relative
    gradient_sum_share: float  # largest |Σ_d g_td| / Σ_d |g_td| of a token
    sum_vanishes: bool
    short_last_layer: bool  # its end is computed for the pooled row alone (see `pooled_row`)

    def to_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


def inspect_texts(model: Model, texts: Sequence[Encoded]) -> Findings:
    """Probes a model on the first text, and on the first of each other arrangement of token types (single, pair).

    A text whose outputs are not finite says nothing of the model's other texts: the next few are tried in its place.

    Returns:
        What was seen on the first; `sum_vanishes` where it does on any.

    Raises:
        InputError: see `inspect_model`.
    """
    first: dict[tuple[int, ...] | None, list[Encoded]] = {}
    for text in texts:
        alike = first.setdefault(_arrangement(text.token_type_ids), [])
        if len(alike) < MOST_TRIED:
            alike.append(text)
    seen = [_inspect_first(model, alike) for alike in first.values()]
    found = [one for one in seen if isinstance(one, Findings)]
    if not found:
        raise next(one for one in seen if isinstance(one, InputError))
    return replace(found[0], sum_vanishes=any(one.sum_vanishes for one in found))


class _NotFinite(InputError):
    """A text's outputs, or their gradient, are no numbers."""


def _inspect_first(model: Model, texts: Sequence[Encoded]) -> Findings | InputError:
    """What was seen on the first of these texts that has finite outputs; the refusal of the first if none has."""
    refused: list[InputError] = []
    for text in texts:
        try:
            return inspect_model(model, *_unpadded(text))
        except _NotFinite as error:
            refused.append(error)
    return refused[0]


def _arrangement(types: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Token types without how many tokens have each in a row."""
    return None if types is None else tuple(kind for kind, _ in groupby(types))


def _unpadded(text: Encoded) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Ids and token types of the tokens that are attended to."""
    types = text.token_type_ids
    return (
        tuple(compress(text.input_ids, text.attended)),
        None if types is None else tuple(compress(types, text.attended)),
    )


def inspect_model(
    model: Model, input_ids: tuple[int, ...], types: tuple[int, ...] | None
) -> Findings:
    """Probes a model on one tokenised text.

    Raises:
        InputError: its outputs are random, replacing embeddings changes it, tokens reach it by another way, or its
            gradients are zero, not finite, or not those of its outputs.
    """
    most = max(min(PROBED_TOKENS, model.max_length - N_PADS), FEWEST_PROBED)
    ids = torch.tensor([_cut(input_ids, most)], device=model.device)
    token_types = None if types is None else torch.tensor([_cut(types, most)], device=model.device)
    # What is proved here is proved of the model, not of how products are rounded.
    with model.frozen(), products(tf32=False):
        logits = _first_output(model, ids, token_types)
        _require_classes(model, logits, ids.shape[1])
        repeat = _difference(logits, _output(model, ids, token_types))
        hook = _difference(
            logits, _output(model, ids, token_types, model.embed(ids, None, token_types))
        )
        batch = _difference(logits, _beside_another(model, ids, token_types))
        padding = _padding_difference(model, ids, token_types, logits)
        unseen = _unseen_difference(model, ids, token_types)
        gradient = _gradient(model, ids, token_types)
        slope = _gradient_difference(model, ids, token_types, gradient)
    _require(
        repeat == 0,
        model,
        f"gives other outputs for the same input (by {repeat:.2g}): is it random?",
    )
    # In half precision a thousand rounding errors would let anything pass.
    tolerance = min(1e3 * torch.finfo(model.dtype).eps, 0.1) * max(1.0, float(logits.abs().max()))
    _require(
        hook <= tolerance,
        model,
        f"changes by {hook:.2g} when its embeddings are replaced by themselves",
    )
    # Some models compute a softmax or a rotation in float32 whatever their weights are.
    coarse = max(tolerance, 1e3 * FLOAT32_EPSILON * max(1.0, float(logits.abs().max())))
    _require(
        batch <= coarse,
        model,
        f"gives a text another output beside another text (by {batch:.2g})",
    )
    _require(
        unseen <= coarse,
        model,
        f"reads tokens by another way than its embedding layer: other ids under the same embeddings change its outputs "
        f"by {unseen:.2g}",
    )
    _require_finite(gradient, model, "has gradients that are not finite")
    _require(bool((gradient != 0).any()), model, "has a zero gradient at its embeddings")
    _require(
        slope is None or slope <= LARGEST_GRADIENT_DIFFERENCE,
        model,
        f"has gradients that are not those of its outputs (off by {slope:.1%} along the gradient)"
        if slope is not None
        else "",
    )
    share = _sum_share(gradient)
    vanishes = share < min(VANISHING_EPSILONS * torch.finfo(model.dtype).eps, LARGEST_VANISHING)
    short = model.pooled_layer is not None
    return Findings(hook, repeat, batch, padding, unseen, slope, share, vanishes, short)


def _cut(values: tuple[int, ...], most: int) -> tuple[int, ...]:
    """At most so many tokens, the last one kept: some models look for the end of the text."""
    return values if len(values) <= most else (*values[: most - 1], values[-1])


def _require_classes(model: Model, logits: Tensor, n_tokens: int) -> None:
    shape, head = tuple(logits.shape), HEADS[model.task]
    expected = (1, n_tokens) if head.per_token else (1,)
    fits = shape[:-1] == expected and shape[-1] >= 2
    _require(fits, model, f"gives outputs of shape {shape}, expected {head.shape}")
    _require_labels(model, shape[-1])
    _require_finite(logits, model, "gives outputs that are not finite; try runtime.dtype=float32")


def _require_finite(values: Tensor, model: Model, problem: str) -> None:
    if not bool(values.isfinite().all()):
        raise _NotFinite(_refusal(model, problem))


def _require_labels(model: Model, n_classes: int) -> None:
    """Refuses names given for another number of classes; those of a configuration may be an encoder's defaults."""
    own = getattr(getattr(model.module, "config", None), "id2label", None) or {}
    given = tuple(model.labels) != tuple(str(own[index]) for index in sorted(own))
    if HEADS[model.task].named and model.labels and given and len(model.labels) != n_classes:
        raise InputError(
            f"labels={list(model.labels)}: expected {n_classes} names, one for each class of {model.name}, got "
            f"{len(model.labels)}"
        )


def _first_output(
    model: Model, ids: Int[Tensor, "1 T"], types: Int[Tensor, "1 T"] | None
) -> Float[Tensor, "1 ..."]:
    try:
        return _output(model, ids, types)
    except FAILURES as error:
        raise _failed(model, "fails on its first text", error) from error


@torch.no_grad()
def _output(
    model: Model, ids: Tensor, types: Tensor | None, embeddings: Tensor | None = None
) -> Float[Tensor, "R ..."]:
    return model.output(ids, None, types, embeddings)


def _beside_another(
    model: Model, ids: Int[Tensor, "1 T"], types: Int[Tensor, "1 T"] | None
) -> Float[Tensor, "1 ..."]:
    other = ids.clone()
    other[:, 1:-1] = ids[:, 1:2]  # another bag of words, not only another order
    both = None if types is None else types.repeat(2, 1)
    return _output(model, torch.cat([ids, other]), both)[:1]


@torch.no_grad()
def _padding_difference(
    model: Model, ids: Int[Tensor, "1 T"], types: Int[Tensor, "1 T"] | None, logits: Tensor
) -> float | None:
    pad, n = model.pad_token_id, min(N_PADS, model.max_length - ids.shape[1])
    if pad is None or n < 1:
        return None
    extra = torch.full((1, n), pad, device=ids.device)
    mask = torch.cat([torch.ones_like(ids), torch.zeros_like(extra)], 1).bool()
    padded_types = None if types is None else torch.cat([types, torch.zeros_like(extra)], 1)
    try:
        padded = model.output(torch.cat([ids, extra], 1), mask, padded_types)
    except FAILURES as error:  # a classifier that is not told its pad token takes no padded texts
        if is_out_of_memory(error):
            raise
        return None
    return _difference(logits, padded[:, : ids.shape[1]] if model.per_token else padded)


def _unseen_difference(
    model: Model, ids: Int[Tensor, "1 T"], types: Int[Tensor, "1 T"] | None
) -> float:
    """The text with its inner tokens in another order, by ids and by embeddings under the first text's ids."""
    if ids.shape[1] < 4:  # nothing between the ends to change places
        return 0.0
    other = torch.cat([ids[:, :1], ids[:, 1:-1].roll(1, 1), ids[:, -1:]], 1)
    return _difference(
        _output(model, other, types), _output(model, ids, types, model.embed(other, None, types))
    )


def _gradient(
    model: Model, ids: Int[Tensor, "1 T"], types: Int[Tensor, "1 T"] | None
) -> Float[Tensor, "T D"]:
    embeddings = model.embed(ids, None, types).requires_grad_()
    try:
        with torch.enable_grad():
            score = model.output(ids, None, types, embeddings).max()
            (gradient,) = torch.autograd.grad(score, embeddings)
    except FAILURES as error:
        raise _failed(model, "has no gradient at its embeddings", error) from error
    return gradient[0]


def _gradient_difference(
    model: Model,
    ids: Int[Tensor, "1 T"],
    types: Int[Tensor, "1 T"] | None,
    gradient: Float[Tensor, "T D"],
) -> float | None:
    """By how much differences of outputs along the gradient are not the gradient's length; the best of some steps.

    What rounding of the outputs explains is left out. None in half precision, and where the gradient is zero.
    """
    length = gradient.double().norm()
    if model.dtype not in FINEST or not (length.isfinite() and length > 0):
        return None
    embeddings = model.embed(ids, None, types)
    size = embeddings.double().square().sum().sqrt()
    if size == 0:  # no length to measure a step by
        return None
    logits = _output(model, ids, types)
    target = logits.argmax()
    rounding = 8 * FLOAT32_EPSILON * float(logits.abs().max())
    found = []
    for step in STEPS:
        move = gradient.double() / length * (step * size)
        sides = [
            _output(model, ids, types, (embeddings.double() + sign * move).to(model.dtype))
            for sign in (1, -1)
        ]
        above, middle, below = (
            float(one.flatten()[target]) for one in (sides[0], logits, sides[1])
        )
        rise = float(step * size * length)
        # One side alone too: the output of a mixture of experts may jump on the other.
        for seen, expected in (
            (above - below, 2 * rise),
            (above - middle, rise),
            (middle - below, rise),
        ):
            found.append(max(abs(seen - expected) - rounding, 0.0) / expected)
    return min(found)


def _sum_share(gradient: Float[Tensor, "T D"]) -> float:
    gradient = gradient.double()
    magnitude = gradient.abs().sum(-1)
    return float(
        (gradient.sum(-1).abs() / magnitude.clamp_min(torch.finfo(torch.float64).tiny)).max()
    )


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


def _require(holds: bool, model: Model, problem: str) -> None:
    if not holds:
        raise InputError(_refusal(model, problem))


def _refusal(model: Model, problem: str) -> str:
    return f"model {model.name} cannot be explained: it {problem}."


def _failed(model: Model, what: str, error: Exception) -> Exception:
    """The failure as a sentence; one of memory as it is."""
    if isinstance(error, InputError) or is_out_of_memory(error):
        return error
    text = " ".join(str(error).split())[:200]
    return InputError(
        f"model {model.name} cannot be explained: it {what} ({type(error).__name__}: {text})."
    )
