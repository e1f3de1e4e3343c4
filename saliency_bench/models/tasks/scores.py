"""The score of a class, as a function of the input embeddings: outputs that are computed from a model's logits."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from saliency_bench.core.errors import InputError, counted, unknown
from saliency_bench.core.tensors import Batch, ScoreFn, at_least_float32
from saliency_bench.models.model import Model
from saliency_bench.models.prefixes import States, Texts, Tree, Walk
from saliency_bench.models.rounding import Scaling
from saliency_bench.models.tasks import options

#: Computes the scores of classes [R] from the logits [R C].
#: A target with a second column is a contrast: the difference of both classes' scores.
#: Probabilities are taken in float64, since near 1 float32 can represent neither 1 - p nor the gradient.
Output = Callable[[Float[Tensor, "R C"], Int[Tensor, "R ..."]], Float[Tensor, " R"]]
OUTPUTS: Mapping[str, Output] = {
    "logit": lambda logits, target: _pick(logits, target),
    "probability": lambda logits, target: _pick(logits.double().softmax(-1), target),
    "log_probability": lambda logits, target: _pick(logits.double().log_softmax(-1), target),
    "cross_entropy": lambda logits, target: _pick(-logits.double().log_softmax(-1), target),
}
#: The output of a model with a loss of its own: the negative loss.
CRITERION = "criterion"
#: The outputs where classes do not exclude each other, so that each has a probability of its own.
MULTI_LABEL_OUTPUTS: Mapping[str, Output] = {
    "logit": OUTPUTS["logit"],
    "probability": lambda logits, target: _pick(logits.double().sigmoid(), target),
    "log_probability": lambda logits, target: _pick(functional.logsigmoid(logits.double()), target),
    "cross_entropy": lambda logits, target: _pick(-functional.logsigmoid(logits.double()), target),
}


def score_fn(
    model: Model,
    batch: Batch,
    target: Int[Tensor, "B ..."],
    output: str,
    *,
    short: bool = False,
) -> ScoreFn:
    """The score of each row's fixed target class, as a function of its input embeddings."""
    if output not in OUTPUTS and (output != CRITERION or model.criterion is None):
        raise unknown("output", output, list(OUTPUTS))
    logits = logits_fn(model, batch, short=short)

    def score(
        embeddings: Float[Tensor, "R T D"], row_example: Int[Tensor, " R"]
    ) -> Float[Tensor, " R"]:
        return output_of(model, output)(logits(embeddings, row_example), target[row_example])

    return score


def logits_fn(
    model: Model, batch: Batch, *, short: bool = False
) -> Callable[[Float[Tensor, "R T D"], Int[Tensor, " R"]], Float[Tensor, "R C"]]:
    """All logits of each row, as a function of its input embeddings; `short`: see `Model.output`.

    With embeddings in float32, small gradients through a model in half precision are not rounded to 0
    (`rounding.Scaling`); gradients at other places of the model have no meaning then. Embeddings may be narrower than
    the batch, if they are as wide as `Batch.widths` of their rows.
    """
    keeps_places = model.keeps_places

    def logits(
        embeddings: Float[Tensor, "R T D"], row_example: Int[Tensor, " R"]
    ) -> Float[Tensor, "R C"]:
        widened = torch.finfo(model.dtype).bits < torch.finfo(embeddings.dtype).bits
        scaling = Scaling()
        scaled = scaling.embeddings(embeddings) if widened else embeddings
        if batch.options is not None:
            rows = options.logits(model, batch, row_example, scaled)
        else:
            width = embeddings.shape[1]
            places = batch.places(width) if keeps_places else None
            outputs = model.output(
                batch.input_ids[row_example][:, :width],
                batch.mask_of(row_example, width),
                embeddings=scaled,
                extra=batch.extra_of(row_example, width),
                places=places,
                short=short,
            )
            rows = batch.read(outputs, row_example, places)
        return scaling.outputs(rows) if widened else rows

    return logits


def shared_logits(
    model: Model,
    batch: Batch,
    plan: Sequence[tuple[slice, Tree | Walk]],
    rows: Int[Tensor, " R"],
    embeddings: Float[Tensor, "R T D"],
    seed: States,
) -> tuple[Float[Tensor, "R C"], States]:
    """All logits of rows that share the computation of their beginnings (`prefixes.plan`), and the last row's states.

    The rows are texts of T tokens, and `seed` has the states of the row before them. No gradients are recorded.
    """
    logits: list[Tensor] = []
    for part, way in plan:
        texts = rows[part]
        ids = batch.input_ids[texts, : embeddings.shape[1]]
        outputs, computed = way.compute(model, Texts(ids, embeddings[part]), seed)
        if batch.options is None:
            logits.append(at_least_float32(outputs))
        else:
            states = computed.of(slice(None))
            logits.append(options.after(model, batch.options, texts, outputs, states))
        seed = computed.of_last()
    return torch.cat(logits), seed


@torch.no_grad()
def clean_logits(model: Model, batch: Batch) -> Float[Tensor, "B C"]:
    """All logits of the texts as they are."""
    if batch.options is not None:
        return options.logits(model, batch, torch.arange(len(batch), device=model.device))
    mask = batch.mask if batch.padded else None
    places = batch.places(batch.input_ids.shape[1]) if model.keeps_places else None
    outputs = model.output(
        batch.input_ids, mask, batch.token_type_ids, extra=batch.extra, places=places
    )
    return batch.read(outputs, places=places)


def output_of(model: Model, output: str) -> Output:
    """The function from logits to scores: the named output, or the negative of the model's own criterion.

    Raises:
        InputError: there is no such output.
    """
    criterion = model.criterion
    if criterion is None:
        outputs = MULTI_LABEL_OUTPUTS if model.multi_label else OUTPUTS
        if output not in outputs:
            raise unknown("output", output, [*outputs])
        return outputs[output]

    def negative_loss(
        logits: Float[Tensor, "R C"], target: Int[Tensor, "R ..."]
    ) -> Float[Tensor, " R"]:
        if target.ndim > 1:
            raise InputError(
                "target=contrast: a criterion of one's own has no difference of classes"
            )
        loss = _loss(criterion(logits, target), logits)
        if loss.ndim == 0:  # a mean over the rows: ask for one row at a time
            pairs = zip(logits, target, strict=True)
            loss = torch.stack([criterion(row[None], label[None]).sum() for row, label in pairs])
        return -loss

    return negative_loss


def _loss(loss: Any, logits: Float[Tensor, "R C"]) -> Float[Tensor, "..."]:
    """A criterion's result, checked: one number per row, or their mean."""
    n_rows = len(logits)
    shape = tuple(loss.shape) if isinstance(loss, Tensor) else None
    if shape not in ((), (n_rows,)):
        got = type(loss).__name__ if shape is None else f"shape {shape}"
        raise InputError(
            f"the criterion returned {got} for {counted(n_rows, 'row')}, expected a tensor [R] of a loss for each row, or their mean: "
            "change criterion= in wrap_model()"
        )
    checked: Tensor = loss
    if logits.requires_grad and not checked.requires_grad:
        raise InputError(
            "the criterion returned a loss that does not depend on the logits, expected one with a gradient: change "
            "criterion= in wrap_model()"
        )
    return checked


def _pick(values: Float[Tensor, "R C"], target: Int[Tensor, "R ..."]) -> Float[Tensor, " R"]:
    if target.ndim == 1:
        return values.gather(1, target[:, None])[:, 0]
    towards, against = values.gather(1, target).unbind(1)
    return towards - against
