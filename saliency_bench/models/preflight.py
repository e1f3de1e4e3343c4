"""Checks of a model before anything is computed with it. A failed check is an error, or is recorded in the report."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress, groupby
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from saliency_bench.core.errors import InputError
from saliency_bench.core.text import Encoded
from saliency_bench.models import probing, quantised
from saliency_bench.models.causes import (
    adapter_note,
    refuse_compiled,
    refuse_inference_mode,
)
from saliency_bench.models.extra import Extra
from saliency_bench.models.heads import HEADS
from saliency_bench.models.model import Model
from saliency_bench.models.module_facts import called, class_names_in, of_transformers
from saliency_bench.models.probing import FLOAT32_EPSILON, ProbedText
from saliency_bench.models.rounding import coarse_share, products

#: Below this, Σ_d ∂F/∂e_td is rounding noise. A sum of D terms of like size and random sign would be about
#: D^-1/2 of the sum of their magnitudes (0.05 for D = 384); exact cancellation leaves about one rounding error.
VANISHING_EPSILONS = 64

#: In half precision the rounding of the sum is as large as a sum that does not vanish; beyond this none is refused.
LARGEST_VANISHING = 1e-2

#: Texts of one kind that are tried before a model is refused whose outputs are not finite.
MOST_TRIED = 32

#: How far the gradient may be from the best difference of outputs along it. Of the architectures of transformers,
#: those that differentiate what they compute are within 0.01 %; the approximate backward pass of YOSO is off by 6 %.
LARGEST_GRADIENT_DIFFERENCE = 0.005

#: The largest difference from 1 of a sum of probabilities, in half precision.
LARGEST_ROUNDING = 0.02


@dataclass(frozen=True)
class PreflightReport:
    """The measurements of a probe; a difference is the largest absolute difference of a logit.

    `hook_difference`: after the embeddings are replaced by themselves.
    `repeat_difference`: between two passes over the same input.
    `batch_difference`: between a text alone and beside another row.
    `padding_difference`: between a text alone and padded on the right; None without a pad token, or where the model takes
    no padding.
    `unseen_difference`: after the ids are replaced under the same embeddings, that is, what is read of the ids elsewhere.
    `gradient_difference`: between the slope along the gradient and a difference of outputs, relative.
    `gradient_sum_share`: the largest |Σ_d g_td| / Σ_d |g_td| of a token.
    `sum_vanishes`: whether raw gradients may not be summed.
    `short_last_layer`: its end is computed for the pooled row alone (see `pooled_row`).
    """

    hook_difference: float
    repeat_difference: float
    batch_difference: float
    padding_difference: float | None
    unseen_difference: float
    gradient_difference: float | None
    gradient_sum_share: float
    sum_vanishes: bool
    short_last_layer: bool

    def to_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


class Refusal(InputError):
    """A model cannot be explained, for a reason that was measured."""


class _NotFinite(InputError):
    """The outputs for a text, or their gradient, are not finite."""


#: Probes a model on one text: `inspect_model`, or a function that remembers its reports.
Inspect = Callable[[Model, tuple[int, ...], tuple[int, ...] | None, Extra], PreflightReport]


def inspect_texts(
    model: Model, texts: Sequence[Encoded], inspect: Inspect | None = None
) -> PreflightReport:
    """Probes a model on the first text, and on the first of each other arrangement of token types (single, pair).

    Where the outputs for a text are not finite, the next few texts are tried in its place.

    Args:
        model: to be explained.
        texts: the texts that will be explained.
        inspect: probes one text; `inspect_model` where None.

    Returns:
        The report on the first text; its `sum_vanishes` is true where it is true for any text.

    Raises:
        InputError: see `inspect_model`.
    """
    inspect = inspect or inspect_model
    first: dict[tuple[Any, ...], list[Encoded]] = {}
    for text in texts:
        alike = first.setdefault(kind_of(text.token_type_ids, text.extra), [])
        if len(alike) < MOST_TRIED:
            alike.append(text)
    results = [_inspect_first(model, alike, inspect) for alike in first.values()]
    reports = [result for result in results if isinstance(result, PreflightReport)]
    if not reports:
        raise next(result for result in results if isinstance(result, InputError))
    return replace(reports[0], sum_vanishes=any(report.sum_vanishes for report in reports))


def _inspect_first(
    model: Model, texts: Sequence[Encoded], inspect: Inspect
) -> PreflightReport | InputError:
    """The report on the first of these texts with finite outputs; the first refusal if there is none."""
    refusals: list[InputError] = []
    for text in texts:
        try:
            return inspect(model, *_unpadded(text))
        except _NotFinite as error:
            refusals.append(error)
    return refusals[0]


def kind_of(types: tuple[int, ...] | None, extra: Extra) -> tuple[Any, ...]:
    """Token types without how many tokens have each in a row, and the names of further inputs."""
    arrangement = None if types is None else tuple(kind for kind, _ in groupby(types))
    return arrangement, tuple(name for name, _ in extra)


def _unpadded(text: Encoded) -> tuple[tuple[int, ...], tuple[int, ...] | None, Extra]:
    """Ids, token types and further inputs of the tokens that are attended to."""
    types, attended = text.token_type_ids, text.attended
    return (
        tuple(compress(text.input_ids, attended)),
        None if types is None else tuple(compress(types, attended)),
        tuple(
            (name, tuple(compress(values, attended)) if len(values) == len(text) else values)
            for name, values in text.extra
        ),
    )


def inspect_model(
    model: Model, input_ids: tuple[int, ...], types: tuple[int, ...] | None, extra: Extra = ()
) -> PreflightReport:
    """Probes a model on one tokenised text.

    Raises:
        InputError: its outputs are random, replacing embeddings changes it, tokens reach it by another way, or its
            gradients are zero, not finite, or not those of its outputs; or it is called where none of these can be measured.
    """
    refuse_unusable(model)
    probe = probing.probe_of(model, input_ids, types, extra)
    # What is proved here is proved of the model, not of how products are rounded.
    with model.frozen(), products(tf32=False):
        logits = probing.plain_output(probe)
        _require_classes(model, logits, probe.ids.shape[1])
        together = probing.beside_another(probe)
        _require_logits(probe, together)
        repeat = probing.difference(logits, probe.output())
        hook = probing.difference(logits, probing.with_same_embeddings(probe))
        batch = probing.difference(logits, together[:1])
        padding = probing.padding_difference(probe, logits)
        unseen = probing.unseen_difference(probe)
        gradient, target = probing.gradient_of(probe)
        slope = probing.gradient_difference(probe, gradient, target)
    share = probing.sum_share(gradient)
    vanishes = share < min(VANISHING_EPSILONS * torch.finfo(model.dtype).eps, LARGEST_VANISHING)
    report = PreflightReport(hook, repeat, batch, padding, unseen, slope, share, vanishes, False)
    _require_sound(model, report, gradient, max(1.0, float(logits.abs().max())))
    return replace(report, short_last_layer=model.pooled_row is not None)


def refuse_unusable(model: Model) -> None:
    """Refuses a call or a module that cannot be measured.

    Raises:
        InputError: inside `torch.inference_mode`, or the module is compiled or quantised.
    """
    refuse_inference_mode()
    refuse_compiled(model.module)
    quantised.refuse_layers(model.module)


def _require_sound(
    model: Model, report: PreflightReport, gradient: Float[Tensor, "T D"], size: float
) -> None:
    """Refuses a model by its report; `size` is the magnitude of its largest logit, at least 1."""
    tolerance = coarse_share(model.dtype) * size
    # Some models compute a softmax or a rotation in float32 whatever their weights are.
    coarse = max(tolerance, coarse_share(torch.float32) * size)
    note, slope = adapter_note(model.module), report.gradient_difference
    if report.repeat_difference != 0:
        difference = f"(by {report.repeat_difference:.2g})"
        _refuse(model, f"gives other outputs for the same input {difference}: is it random?")
    if not report.hook_difference <= tolerance:
        difference = f"{report.hook_difference:.2g}"
        _refuse(
            model, f"changes by {difference} when its embeddings are replaced by themselves.{note}"
        )
    if not report.batch_difference <= coarse:
        difference = f"(by {report.batch_difference:.2g})"
        _refuse(model, f"gives a text another output beside another text {difference}.")
    if not report.unseen_difference <= coarse:
        _refuse(
            model,
            "reads tokens by another way than its embedding layer: other ids under the same embeddings change its outputs "
            f"by {report.unseen_difference:.2g}.{note}",
        )
    _require_finite(gradient, model, "has gradients that are not finite.")
    if not bool((gradient != 0).any()):
        _refuse(model, "has a zero gradient at its embeddings.")
    if slope is not None and not slope <= LARGEST_GRADIENT_DIFFERENCE:
        difference = f"(off by {slope:.1%} along the gradient)"
        _refuse(model, f"has gradients that are not those of its outputs {difference}.")


def _require_classes(model: Model, logits: Tensor, n_tokens: int) -> None:
    shape, head = tuple(logits.shape), HEADS[model.task]
    expected = (1, n_tokens) if head.per_token else (1,)
    if not head.per_token and shape in ((1,), (1, 1)):
        raise Refusal(
            f"model {model.name} cannot be explained: it gives one number for a text, expected {head.shape}. If it is "
            "the logit of yes against no (a reranker), or a number to be explained (a regression), give [0, z] in "
            "wrap_model(): forward=lambda module, inputs: torch.nn.functional.pad(module(**inputs)"
            f"{'.logits' * of_transformers(called(model.module))}{'[:, None]' * (len(shape) == 1)}, (1, 0))"
        )
    fits = shape[:-1] == expected and shape[-1] >= 2
    if not fits:
        _refuse(model, f"gives outputs of shape {shape}, expected {head.shape}.")
    _require_labels(model, shape[-1])
    _require_finite(logits, model, "gives outputs that are not finite; try runtime.dtype=float32.")


def _require_finite(values: Tensor, model: Model, problem: str) -> None:
    if not bool(values.isfinite().all()):
        raise _NotFinite(_refusal(model, problem))


def _require_logits(probe: ProbedText, logits: Float[Tensor, "2 ..."]) -> None:
    """Refuses probabilities: outputs of at least 0 that sum to 1 for two texts, or those of a sigmoid.

    Taken as logits they would go through a softmax a second time.
    """
    limits = torch.finfo(logits.dtype)
    # Each was rounded, at least to float32, and in half precision the small ones to multiples of the smallest number.
    tolerance = min(64 * max(limits.eps, FLOAT32_EPSILON), LARGEST_ROUNDING)
    tolerance += logits.shape[-1] * limits.tiny * limits.eps
    if not bool(((logits >= 0) & (logits <= 1 + tolerance)).all()):
        return
    if bool(((logits.double().sum(-1) - 1).abs() <= tolerance).all()):
        inverse = "log"
    elif probing.last_step(probe) == "Sigmoid":
        inverse = "logit"
    else:
        return
    raise Refusal(
        f"model {probe.model.name} cannot be explained: its outputs are probabilities, expected logits. Return what goes "
        f"into the softmax or sigmoid, or give forward=lambda module, inputs: module(**inputs).{inverse}() in wrap_model()"
    )


def _require_labels(model: Model, n_classes: int) -> None:
    """Refuses names given for another number of classes; those of a configuration may be an encoder's defaults."""
    named = model.labels != class_names_in(model.fact("id2label", of_head=True))
    if HEADS[model.task].named and model.labels and named and len(model.labels) != n_classes:
        raise InputError(
            f"labels={list(model.labels)}: expected {n_classes} names, one for each class of {model.name}"
        )


def _refuse(model: Model, problem: str) -> NoReturn:
    raise Refusal(_refusal(model, problem))


def _refusal(model: Model, problem: str) -> str:
    return f"model {model.name} cannot be explained: it {problem}"
