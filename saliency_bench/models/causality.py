"""Whether a model's outputs at a token depend on the tokens up to it alone."""

from weakref import WeakKeyDictionary

import torch
from torch import nn

from saliency_bench.core.errors import InputError
from saliency_bench.models.intake import attempted, watched_ids
from saliency_bench.models.model import Model
from saliency_bench.models.rounding import products

#: Experts that are given other tokens round in another way.
EPSILONS = 1024
#: In half precision so many rounding errors would let anything pass.
LARGEST_DIFFERENCE = 0.05

#: Tokens that any vocabulary has.
FEWEST = 5

_READS_AHEAD: "WeakKeyDictionary[nn.Module, bool]" = WeakKeyDictionary()


def require_causal(model: Model) -> None:
    """Refuses a model that reads what comes later: the outputs of a text would know how it ends.

    Raises:
        InputError: another last token changes the outputs before it.
    """
    if model.module not in _READS_AHEAD:
        _READS_AHEAD[model.module] = bool(attempted(lambda: _reads_ahead(model)))
    if _READS_AHEAD[model.module]:
        raise InputError(
            f"model {model.name} reads tokens that come later, so that it cannot say how likely an option or a continuation as a "
            "whole is: explain the next token, or leave out at=, which asks for one token after the other"
        )


@torch.no_grad()
@products(tf32=False)
def _reads_ahead(model: Model) -> bool:
    """Tried on two texts that differ in one of their last tokens."""
    ids = watched_ids(model.vocabulary or FEWEST, model.fact("eos_token_id"), model.device, 2)
    ids[1, :-2] = ids[0, :-2]
    with model.frozen():
        one, other = (model.output(row[None])[0, :-2].double() for row in ids)
    share = min(EPSILONS * torch.finfo(model.dtype).eps, LARGEST_DIFFERENCE)
    return float((one - other).abs().max()) > share * float(one.abs().max())
