"""What is checked of a model before anything is computed with it: a clear error, or a recorded finding."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress, groupby
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saliency_bench.core.errors import InputError, is_out_of_memory, said
from saliency_bench.core.text import Encoded
from saliency_bench.models.causes import (
    adapter_note,
    refuse_compiled,
    refuse_inference_mode,
    refuse_quantised,
)
from saliency_bench.models.extra import Extra, tensors_of
from saliency_bench.models.heads import HEADS
from saliency_bench.models.intake import FAILURES
from saliency_bench.models.model import Model
from saliency_bench.models.module_facts import called, class_names_in, of_transformers
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

#: The largest difference from 1 of a sum of probabilities, in half precision.
LARGEST_ROUNDING = 0.02

#: Steps of autograd that move numbers and leave them as they are.
REARRANGING = {
    "Alias", "Cat", "Clone", "Expand", "Index", "Permute", "Select", "Slice", "Split", "Squeeze", "Stack", "T",
    "ToCopy", "Transpose", "Unbind", "UnsafeView", "Unsqueeze", "View",
}  # fmt: skip

#: Half precision is too coarse for differences.
FINEST = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Beside:
    """What a model is given beside ids: token types, and further inputs by name."""

    types: Int[Tensor, "R T"] | None
    extra: Mapping[str, Tensor]

    def of(self, change: Callable[[Tensor], Tensor]) -> "Beside":
        """The same with each tensor changed."""
        return Beside(
            None if self.types is None else change(self.types),
            {name: change(one) for name, one in self.extra.items()},
        )


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
    first: dict[tuple[Any, ...], list[Encoded]] = {}
    for text in texts:
        kind = _arrangement(text.token_type_ids), tuple(name for name, _ in text.extra)
        alike = first.setdefault(kind, [])
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


def _unpadded(text: Encoded) -> tuple[tuple[int, ...], tuple[int, ...] | None, Extra]:
    """Ids, token types and further inputs of the tokens that are attended to."""
    types, attended = text.token_type_ids, text.attended
    return (
        tuple(compress(text.input_ids, attended)),
        None if types is None else tuple(compress(types, attended)),
        tuple(
            (name, tuple(compress(one, attended)) if len(one) == len(text) else one)
            for name, one in text.extra
        ),
    )


def inspect_model(
    model: Model, input_ids: tuple[int, ...], types: tuple[int, ...] | None, extra: Extra = ()
) -> Findings:
    """Probes a model on one tokenised text.

    Raises:
        InputError: its outputs are random, replacing embeddings changes it, tokens reach it by another way, or its
            gradients are zero, not finite, or not those of its outputs; or it is called where none of these can be told.
    """
    refuse_inference_mode()
    refuse_compiled(model.module)
    refuse_quantised(model.module)
    most = max(min(PROBED_TOKENS, model.max_length - N_PADS), FEWEST_PROBED)
    ids = torch.tensor([_cut(input_ids, most)], device=model.device)
    beside = _beside(model, len(input_ids), most, types, extra)
    # What is proved here is proved of the model, not of how products are rounded.
    with model.frozen(), products(tf32=False):
        logits = _first_output(model, ids, beside)
        _require_classes(model, logits, ids.shape[1])
        together = _beside_another(model, ids, beside)
        _require_logits(model, ids, beside, together)
        repeat = _difference(logits, _output(model, ids, beside))
        hook = _difference(logits, _with_own_embeddings(model, ids, beside))
        batch = _difference(logits, together[:1])
        padding = _padding_difference(model, ids, beside, logits)
        unseen = _unseen_difference(model, ids, beside)
        gradient, target = _gradient(model, ids, beside)
        slope = _gradient_difference(model, ids, beside, gradient, target)
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
        adapter_note(model.module),
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
        adapter_note(model.module),
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


def _cut(values: tuple[Any, ...], most: int) -> tuple[Any, ...]:
    """At most so many tokens, the last one kept: some models look for the end of the text."""
    return values if len(values) <= most else (*values[: most - 1], values[-1])


def _require_classes(model: Model, logits: Tensor, n_tokens: int) -> None:
    shape, head = tuple(logits.shape), HEADS[model.task]
    expected = (1, n_tokens) if head.per_token else (1,)
    if not head.per_token and shape in ((1,), (1, 1)):
        raise InputError(
            f"model {model.name} cannot be explained: it gives one number for a text, expected {head.shape}. If it is "
            "the logit of yes against no (a reranker), or a number to be explained (a regression), give [0, z] in "
            "wrap_model(): forward=lambda module, inputs: torch.nn.functional.pad(module(**inputs)"
            f"{'.logits' * of_transformers(called(model.module))}{'[:, None]' * (len(shape) == 1)}, (1, 0))"
        )
    fits = shape[:-1] == expected and shape[-1] >= 2
    _require(fits, model, f"gives outputs of shape {shape}, expected {head.shape}")
    _require_labels(model, shape[-1])
    _require_finite(logits, model, "gives outputs that are not finite; try runtime.dtype=float32")


def _require_finite(values: Tensor, model: Model, problem: str) -> None:
    if not bool(values.isfinite().all()):
        raise _NotFinite(_refusal(model, problem))


def _require_logits(
    model: Model, ids: Int[Tensor, "1 T"], beside: Beside, seen: Float[Tensor, "2 ..."]
) -> None:
    """Refuses probabilities: outputs of at least 0 that sum to 1 for two texts, or those of a sigmoid.

    Taken as logits they would go through a softmax a second time.
    """
    n_classes = seen.shape[-1]
    limits = torch.finfo(seen.dtype)
    # Each was rounded, at least to float32, and in half precision the small ones to multiples of the smallest number.
    tolerance = min(64 * max(limits.eps, FLOAT32_EPSILON), LARGEST_ROUNDING)
    tolerance += n_classes * limits.tiny * limits.eps
    if not bool(((seen >= 0) & (seen <= 1 + tolerance)).all()):
        return
    if bool(((seen.double().sum(-1) - 1).abs() <= tolerance).all()):
        inverse = "log"
    elif _last_step(model, ids, beside) == "Sigmoid":
        inverse = "logit"
    else:
        return
    raise InputError(
        f"model {model.name} cannot be explained: its outputs are probabilities, expected logits. Return what goes into "
        f"the softmax or sigmoid, or give forward=lambda module, inputs: module(**inputs).{inverse}() in wrap_model()"
    )


def _last_step(model: Model, ids: Int[Tensor, "1 T"], beside: Beside) -> str:
    """The function that made the outputs, as autograd names it, whatever was rearranged afterwards."""
    embeddings = _embed(model, ids, beside).requires_grad_()
    with torch.enable_grad():
        outputs = model.output(ids, None, beside.types, embeddings, extra=beside.extra)
    node: Any = outputs.grad_fn
    while node is not None and (name := type(node).__name__.removesuffix("Backward0")):
        if name not in REARRANGING:
            return name
        node = node.next_functions[0][0]
    return ""


def _require_labels(model: Model, n_classes: int) -> None:
    """Refuses names given for another number of classes; those of a configuration may be an encoder's defaults."""
    given = model.labels != class_names_in(model.fact("id2label", of_head=True))
    if HEADS[model.task].named and model.labels and given and len(model.labels) != n_classes:
        raise InputError(
            f"labels={list(model.labels)}: expected {n_classes} names, one for each class of {model.name}, got "
            f"{len(model.labels)}"
        )


def _first_output(model: Model, ids: Int[Tensor, "1 T"], beside: Beside) -> Float[Tensor, "1 ..."]:
    try:
        return _output(model, ids, beside)
    except FAILURES as error:
        raise _failed(model, "fails on its first text", error) from error


def _beside(
    model: Model, length: int, most: int, types: tuple[int, ...] | None, extra: Extra
) -> Beside:
    """Token types and further inputs of a text that is cut to so many tokens."""
    typed = None if types is None else torch.tensor([_cut(types, most)], device=model.device)
    shorter = tuple((name, _cut(one, most) if len(one) == length else one) for name, one in extra)
    width = min(length, most)
    return Beside(typed, tensors_of(model, [shorter], [width], width))


@torch.no_grad()
def _output(
    model: Model, ids: Tensor, beside: Beside, embeddings: Tensor | None = None
) -> Float[Tensor, "R ..."]:
    return model.output(ids, None, beside.types, embeddings, extra=beside.extra)


def _embed(model: Model, ids: Tensor, beside: Beside) -> Float[Tensor, "R T D"]:
    return model.embed(ids, None, beside.types, extra=beside.extra)


def _with_own_embeddings(
    model: Model, ids: Int[Tensor, "1 T"], beside: Beside
) -> Float[Tensor, "1 ..."]:
    """The outputs with the embeddings replaced by themselves."""
    try:
        return _output(model, ids, beside, _embed(model, ids, beside))
    except InputError as error:
        raise InputError(f"{str(error).rstrip('.')}.{adapter_note(model.module)}") from error


def _beside_another(
    model: Model, ids: Int[Tensor, "1 T"], beside: Beside
) -> Float[Tensor, "2 ..."]:
    other = ids.clone()
    other[:, 1:-1] = ids[:, 1:2]  # another bag of words, not only another order
    return _output(model, torch.cat([ids, other]), beside.of(lambda one: torch.cat([one, one])))


@torch.no_grad()
def _padding_difference(
    model: Model, ids: Int[Tensor, "1 T"], beside: Beside, logits: Tensor
) -> float | None:
    pad, n = model.pad_token_id, min(N_PADS, model.max_length - ids.shape[1])
    if pad is None or n < 1:
        return None
    extra = torch.full((1, n), pad, device=ids.device)
    mask = torch.cat([torch.ones_like(ids), torch.zeros_like(extra)], 1).bool()

    def longer(one: Tensor) -> Tensor:
        if one.shape[1] != ids.shape[1]:
            return one
        return torch.cat([one, one.new_zeros(1, n, *one.shape[2:])], 1)

    both = beside.of(longer)
    try:
        padded = model.output(torch.cat([ids, extra], 1), mask, both.types, extra=both.extra)
    except FAILURES as error:  # a classifier that is not told its pad token takes no padded texts
        if is_out_of_memory(error):
            raise
        return None
    return _difference(logits, padded[:, : ids.shape[1]] if model.per_token else padded)


def _unseen_difference(model: Model, ids: Int[Tensor, "1 T"], beside: Beside) -> float:
    """The text with its inner tokens in another order, by ids and by embeddings under the first text's ids."""
    if ids.shape[1] < 4:  # nothing between the ends to change places
        return 0.0
    other = torch.cat([ids[:, :1], ids[:, 1:-1].roll(1, 1), ids[:, -1:]], 1)
    return _difference(
        _output(model, other, beside), _output(model, ids, beside, _embed(model, other, beside))
    )


def _gradient(
    model: Model, ids: Int[Tensor, "1 T"], beside: Beside
) -> tuple[Float[Tensor, "T D"], int]:
    """The gradient of the largest output, and which it is; of the second where the first is a constant, as in [0, z]."""
    embeddings = _embed(model, ids, beside).requires_grad_()
    try:
        with torch.enable_grad():
            outputs = model.output(
                ids, None, beside.types, embeddings, extra=beside.extra
            ).flatten()
            for target in outputs.detach().double().topk(2).indices.tolist():
                (gradient,) = torch.autograd.grad(outputs[target], embeddings, retain_graph=True)
                if bool((gradient != 0).any()):
                    break
    except FAILURES as error:
        raise _failed(model, "has no gradient at its embeddings", error) from error
    return gradient[0], target


def _gradient_difference(
    model: Model,
    ids: Int[Tensor, "1 T"],
    beside: Beside,
    gradient: Float[Tensor, "T D"],
    target: int,
) -> float | None:
    """By how much differences of outputs along the gradient are not the gradient's length; the best of some steps.

    What rounding of the outputs explains is left out. None in half precision, and where the gradient is zero.
    """
    length = gradient.double().norm()
    if model.dtype not in FINEST or not (length.isfinite() and length > 0):
        return None
    embeddings = _embed(model, ids, beside)
    size = embeddings.double().square().sum().sqrt()
    if size == 0:  # no length to measure a step by
        return None
    logits = _output(model, ids, beside)
    rounding = 8 * FLOAT32_EPSILON * float(logits.abs().max())
    found = []
    for step in STEPS:
        move = gradient.double() / length * (step * size)
        sides = [
            _output(model, ids, beside, (embeddings.double() + sign * move).to(model.dtype))
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


def _require(holds: bool, model: Model, problem: str, note: str = "") -> None:
    if not holds:
        raise InputError(_refusal(model, problem) + note)


def _refusal(model: Model, problem: str) -> str:
    return f"model {model.name} cannot be explained: it {problem}."


def _failed(model: Model, what: str, error: Exception) -> Exception:
    """The failure as a sentence; one of memory as it is."""
    if isinstance(error, InputError) or is_out_of_memory(error):
        return error
    return InputError(
        f"model {model.name} cannot be explained: it {what} ({type(error).__name__}: {said(error)})."
    )
