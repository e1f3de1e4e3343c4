"""Measurements of a model on one text before it is explained: how its outputs change, and their gradient."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saliency_bench.core.errors import InputError, is_out_of_memory, one_line
from saliency_bench.models.causes import adapter_note
from saliency_bench.models.extra import Extra, tensors_of
from saliency_bench.models.intake import FAILURES, attempted
from saliency_bench.models.model import Model

FLOAT32_EPSILON = torch.finfo(torch.float32).eps

#: The text is cut to this before it is probed, and to what leaves room for so many pads.
PROBED_TOKENS = 64
N_PADS = 4
#: Not to fewer than this: shorter texts are probed whole, with the pads that there is room for.
FEWEST_PROBED = 4

#: Steps along the gradient, as shares of each embedding's length, over which it is compared with differences of the
#: output: the first is near the cube root of float32's rounding error, where both errors of a difference are least.
STEPS = (5e-3, 5e-3 / 8, 5e-3 / 64)

#: Operations of autograd that rearrange numbers without changing them.
REARRANGING = {
    "Alias", "Cat", "Clone", "Expand", "Index", "Permute", "Select", "Slice", "Split", "Squeeze", "Stack", "T",
    "ToCopy", "Transpose", "Unbind", "UnsafeView", "Unsqueeze", "View",
}  # fmt: skip

#: The types that are precise enough for differences of outputs.
FINEST = (torch.float32, torch.float64)


@dataclass(frozen=True)
class ProbedText:
    """A model and one text. `beside` holds the inputs beside ids by name, token types among them."""

    model: Model
    ids: Int[Tensor, "1 T"]
    beside: Mapping[str, Tensor]

    @torch.no_grad()
    def output(
        self, embeddings: Float[Tensor, "1 T D"] | None = None, ids: Tensor | None = None
    ) -> Float[Tensor, "1 ..."]:
        """The outputs for the text, for embeddings in place of its own, or for other ids."""
        ids = self.ids if ids is None else ids
        return self.model.output(ids, None, None, embeddings, extra=self.beside)

    def embed(self, ids: Int[Tensor, "1 T"] | None = None) -> Float[Tensor, "1 T D"]:
        """The embeddings of the text, or of other ids."""
        return self.model.embed(self.ids if ids is None else ids, extra=self.beside)

    def graph(self) -> tuple[Float[Tensor, "1 T D"], Float[Tensor, "1 ..."]]:
        """The embeddings of the text, and the outputs as a function of them."""
        embeddings = self.embed().requires_grad_()
        with torch.enable_grad():
            return embeddings, self.model.output(
                self.ids, None, None, embeddings, extra=self.beside
            )

    def changed(self, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """The inputs beside the ids, each tensor changed by a function."""
        return {name: change(tensor) for name, tensor in self.beside.items()}


def probe_of(
    model: Model, input_ids: Sequence[int], types: Sequence[int] | None, extra: Extra
) -> ProbedText:
    """A tokenised text to probe, which is cut where it is long."""
    length = len(input_ids)
    most = max(min(PROBED_TOKENS, model.max_length - N_PADS), FEWEST_PROBED)
    shorter = tuple(
        (name, _cut(values, most) if len(values) == length else values) for name, values in extra
    )
    width = min(length, most)
    beside = tensors_of(model, [shorter], [width], width)
    if types is not None:
        beside["token_type_ids"] = torch.tensor([_cut(types, most)], device=model.device)
    return ProbedText(model, torch.tensor([_cut(input_ids, most)], device=model.device), beside)


def _cut(values: Sequence[Any], most: int) -> Sequence[Any]:
    """At most so many tokens, the last one kept: some models look for the end of the text."""
    return values if len(values) <= most else (*values[: most - 1], values[-1])


def plain_output(probe: ProbedText) -> Float[Tensor, "1 ..."]:
    """The outputs for the text; an error of the model becomes one sentence."""
    try:
        return probe.output()
    except FAILURES as error:
        raise _failed(probe.model, "fails on its first text", error) from error


def with_same_embeddings(probe: ProbedText) -> Float[Tensor, "1 ..."]:
    """The outputs with the embeddings replaced by themselves."""
    try:
        return probe.output(probe.embed())
    except InputError as error:
        raise InputError(f"{str(error).rstrip('.')}.{adapter_note(probe.model.module)}") from error


@torch.no_grad()
def beside_another(probe: ProbedText) -> Float[Tensor, "2 ..."]:
    """The outputs for the text and for another one in the same pass."""
    other = probe.ids.clone()
    other[:, 1:-1] = probe.ids[:, 1:2]  # another bag of words, not only another order
    twice = probe.changed(lambda tensor: torch.cat([tensor, tensor]))
    return probe.model.output(torch.cat([probe.ids, other]), extra=twice)


@torch.no_grad()
def padding_difference(probe: ProbedText, logits: Tensor) -> float | None:
    """The change of the outputs by padding on the right; None without a pad token, and where the model refuses padding."""
    model, ids = probe.model, probe.ids
    pad, n = model.pad_token_id, min(N_PADS, model.max_length - ids.shape[1])
    if pad is None or n < 1:
        return None
    pads = torch.full((1, n), pad, device=ids.device)
    mask = torch.cat([torch.ones_like(ids), torch.zeros_like(pads)], 1).bool()

    def longer(tensor: Tensor) -> Tensor:
        if tensor.shape[1] != ids.shape[1]:
            return tensor
        return torch.cat([tensor, tensor.new_zeros(1, n, *tensor.shape[2:])], 1)

    beside = probe.changed(longer)
    padded = attempted(lambda: model.output(torch.cat([ids, pads], 1), mask, extra=beside))
    if padded is None:  # a classifier that is not told its pad token takes no padded texts
        return None
    return difference(logits, padded[:, : ids.shape[1]] if model.per_token else padded)


def unseen_difference(probe: ProbedText) -> float:
    """The difference between two ways to reorder the inner tokens: by ids, and by embeddings under the original ids."""
    ids = probe.ids
    if ids.shape[1] < 4:  # nothing between the ends to change places
        return 0.0
    other = torch.cat([ids[:, :1], ids[:, 1:-1].roll(1, 1), ids[:, -1:]], 1)
    return difference(probe.output(ids=other), probe.output(probe.embed(other)))


def gradient_of(probe: ProbedText) -> tuple[Float[Tensor, "T D"], int]:
    """The gradient of the largest output, and its index; of the second largest where the first is a constant, as in [0, z]."""
    try:
        with torch.enable_grad():
            embeddings, outputs = probe.graph()
            outputs = outputs.flatten()
            for target in outputs.detach().double().topk(2).indices.tolist():
                (gradient,) = torch.autograd.grad(outputs[target], embeddings, retain_graph=True)
                if bool((gradient != 0).any()):
                    break
    except FAILURES as error:
        raise _failed(probe.model, "has no gradient at its embeddings", error) from error
    return gradient[0], target


def gradient_difference(
    probe: ProbedText, gradient: Float[Tensor, "T D"], target: int
) -> float | None:
    """The relative error of a directional derivative against differences of outputs; the least over some steps.

    Each token's embedding moves along its gradient by the same share of its own length. A step in all of them by one length
    would be large for a short embedding: root mean square norms have a gradient of up to ε^-1/2 at the zeros of a pad token.

    The part that rounding of the outputs explains is subtracted. None in half precision, and where the derivative is zero.
    """
    if probe.model.dtype not in FINEST:
        return None
    embeddings, gradient = probe.embed(), gradient.double()
    sizes = embeddings.double().norm(dim=-1, keepdim=True)
    slopes = gradient.norm(dim=-1, keepdim=True)
    slope = float((slopes * sizes).sum())
    if not 0 < slope < float("inf"):
        return None
    direction = torch.where(slopes > 0, gradient / slopes, 0.0) * sizes
    logits = probe.output()
    rounding = 8 * FLOAT32_EPSILON * float(logits.abs().max())
    errors = []
    for step in STEPS:
        above, below = (
            float(probe.output(moved.to(embeddings.dtype)).flatten()[target])
            for moved in (embeddings + step * direction, embeddings - step * direction)
        )
        middle, rise = float(logits.flatten()[target]), step * slope
        # One side alone too: the output of a mixture of experts may jump on the other.
        pairs = (above - below, 2 * rise), (above - middle, rise), (middle - below, rise)
        errors += [max(abs(seen - rise) - rounding, 0.0) / rise for seen, rise in pairs]
    return min(errors)


def last_step(probe: ProbedText) -> str:
    """The last operation that computed the outputs, by autograd's name; those that only rearrange are skipped."""
    node: Any = probe.graph()[1].grad_fn
    while node is not None and (name := type(node).__name__.removesuffix("Backward0")):
        if name not in REARRANGING:
            return name
        node = node.next_functions[0][0]
    return ""


def sum_share(gradient: Float[Tensor, "T D"]) -> float:
    """The largest |Σ_d g_td| / Σ_d |g_td| of a token."""
    gradient = gradient.double()
    magnitude = gradient.abs().sum(-1).clamp_min(torch.finfo(torch.float64).tiny)
    return float((gradient.sum(-1).abs() / magnitude).max())


def difference(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference of two numbers."""
    return float((a.double() - b.double()).abs().max())


def _failed(model: Model, what: str, error: Exception) -> Exception:
    """The failure as a sentence; one of memory as it is."""
    if isinstance(error, InputError) or is_out_of_memory(error):
        return error
    return InputError(
        f"model {model.name} cannot be explained: it {what} ({type(error).__name__}: {one_line(error)})."
    )
