"""The end of the last layer for the pooled row only, where it is proved that nothing else of it is read.

A classifier that pools its first token needs, after the last attention, one row: the other rows go through the output
projection and the feed-forward network for nothing, three quarters of a layer. In many encoders one module receives
the attention's output and the layer's input side by side; given row 0 of both it does the rest for one row. No
architecture is known here: which module it is, and that it may be done, is found out on the model itself.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

#: Both ways are the same arithmetic in products of other shapes, so that they differ by rounding alone.
EPSILONS = 256
#: In half precision so many rounding errors would let anything pass.
LARGEST_DIFFERENCE = 0.05

#: Logits [R C] of token ids, with the embeddings given in place of the embedding layer's output.
Logits = Callable[[Int[Tensor, "R T"], Float[Tensor, "R T D"]], Float[Tensor, "R C"]]
Embed = Callable[[Int[Tensor, "R T"]], Float[Tensor, "R T D"]]


@contextmanager
def first_row_only(layer: nn.Module | None) -> Iterator[None]:
    """While open, the layer gets row 0 of its two inputs; as it is where there is no such layer."""
    if layer is None:
        yield
        return
    with layer.register_forward_pre_hook(
        lambda _, args: (args[0][:, :1], args[1][:, :1], *args[2:])
    ):
        yield


def find_layer(
    module: nn.Module, logits: Logits, embed: Embed, ids: Int[Tensor, "R T"]
) -> nn.Module | None:
    """The layer that may be given its first row alone; None where there is none, or no proof.

    The proof has two parts. Through that layer no logit depends on any other row: those gradients are exactly zero,
    not small. And with row 0 alone the logits and their gradients at the embeddings are the same within rounding.

    Args:
        module: in evaluation mode, its weights frozen.
        logits: calls it.
        embed: the embedding layer's output.
        ids: at least two texts of at least two tokens.
    """
    try:
        embeddings = embed(ids)
        layer = _first_that_reads_row_0(module, logits, ids, embeddings)
        if layer is None:
            return None
        whole = _outputs(logits, ids, embeddings)
        with first_row_only(layer):
            short = _outputs(logits, ids, embeddings)
    except Exception:  # whatever stands in the way of a proof, the model is used as it is
        return None
    same = all(_close(a, b) for a, b in zip(whole, short, strict=True))
    return layer if same else None


def _first_that_reads_row_0(
    module: nn.Module, logits: Logits, ids: Int[Tensor, "R T"], embeddings: Float[Tensor, "R T D"]
) -> nn.Module | None:
    candidates = [layer for layer in module.modules() if _takes_two(layer)]
    if not candidates:
        return None
    inputs: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}

    def watch(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if len(args) < 2 or not _alike(args[:2], embeddings.shape[:2]):
            return None
        # Copies, so that what reaches the logits on other ways is not counted.
        copies = args[0].clone(), args[1].clone()
        inputs.setdefault(layer, []).append(copies)
        return *copies, *args[2:]

    with ExitStack() as hooks, torch.enable_grad():
        for layer in candidates:
            hooks.enter_context(layer.register_forward_pre_hook(watch))
        total = logits(ids, embeddings.detach().requires_grad_()).sum(0)
    once = {layer: calls[0] for layer, calls in inputs.items() if len(calls) == 1}
    return next((layer for layer, copies in once.items() if _reads_row_0(total, copies)), None)


def _takes_two(layer: nn.Module) -> bool:
    """Whether its forward asks for exactly two things at least."""
    needed = [
        parameter
        for parameter in inspect.signature(layer.forward).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.default is parameter.empty
    ]
    return len(needed) == 2


def _alike(args: Sequence[Any], rows_and_tokens: torch.Size) -> bool:
    return all(
        isinstance(value, Tensor) and value.ndim == 3 and value.shape[:2] == rows_and_tokens
        for value in args
    )


def _reads_row_0(total: Float[Tensor, " C"], inputs: tuple[Tensor, Tensor]) -> bool:
    """Whether each class's logit has a gradient at row 0, and exactly none at the others."""
    somewhere = False
    for logit in total:
        for gradient in torch.autograd.grad(logit, inputs, retain_graph=True, allow_unused=True):
            if gradient is None:
                return False
            if bool((gradient[:, 1:] != 0).any()):
                return False
            somewhere |= bool((gradient[:, 0] != 0).any())
    return somewhere


def _outputs(
    logits: Logits, ids: Int[Tensor, "R T"], embeddings: Float[Tensor, "R T D"]
) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of each text's first."""
    start = embeddings.detach().requires_grad_()
    with torch.enable_grad():
        outputs = logits(ids, start)
        (gradient,) = torch.autograd.grad(outputs[:, 0].sum(), start)
    return outputs.detach(), gradient


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    share = min(EPSILONS * torch.finfo(a.dtype).eps, LARGEST_DIFFERENCE)
    return float((a - b).abs().max()) <= share * float(a.abs().max())
