"""What backward rules find in an architecture: the parts, each of which must act, or the operation that they refuse."""

import torch
from torch import Tensor

from saliency_bench.attribution.backward import RULES
from saliency_bench.attribution.backward.parts import change_backward, noted_inputs
from saliency_bench.core.errors import InputError
from saliency_bench.models.model import Model

#: A part acts that changes the gradient, relative to its largest number: one that does nothing changes no bit.
ACTS = 1e-13


def rules(model: Model, ids: list[int]) -> dict[str, str]:
    """By rule, the parts that it has changed and how often, or why the model is refused."""
    with model.frozen():
        return {name: _parts(model, ids, name) for name in RULES}


def _parts(model: Model, ids: list[int], name: str) -> str:
    try:
        whole, found = _gradient(model, ids, name)
    except InputError as error:
        reason = str(error).partition("by this rule: ")[2].partition(". Use ")[0]
        return f"refused: {reason}"
    for part in found:
        less, _ = _gradient(model, ids, name, part)
        if not float((whole - less).abs().max()) > ACTS * float(less.abs().max()):
            return f"wrong: {part} does not act"
    return ", ".join(f"{part} {n}" for part, n in sorted(found.items())) or "nothing to change"


def _gradient(
    model: Model, ids: list[int], name: str, *without: str
) -> tuple[Tensor, dict[str, int]]:
    tokens = torch.tensor([ids])
    with torch.enable_grad(), noted_inputs():
        points = model.embed(tokens).requires_grad_()
        logits = model.output(tokens, None, None, points)
    found = change_backward(logits, RULES[name], model.name, without)
    (gradient,) = torch.autograd.grad(logits[0, logits.argmax()], points)
    return gradient[0], found
