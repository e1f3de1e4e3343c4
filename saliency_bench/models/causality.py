"""A check that a model's outputs at a token depend on the tokens up to it alone."""

from weakref import WeakKeyDictionary

import torch
from torch import nn

from saliency_bench.core.errors import InputError
from saliency_bench.models.intake import attempted, watched_ids
from saliency_bench.models.model import Model
from saliency_bench.models.rounding import equal_within, products, rounding_share

#: Tokens that any vocabulary has.
FEWEST = 5

_READS_AHEAD: "WeakKeyDictionary[nn.Module, bool]" = WeakKeyDictionary()


def require_causal(model: Model) -> None:
    """Refuses a model whose outputs for a text change where more text follows: they would depend on the answer.

    Raises:
        InputError: the outputs at the tokens of a text are not those of the text alone.
    """
    if model.module not in _READS_AHEAD:
        _READS_AHEAD[model.module] = bool(attempted(lambda: _reads_ahead(model)))
    if _READS_AHEAD[model.module]:
        raise InputError(
            f"model {model.name} reads what comes later, or how long a text is, so that one pass does not say how likely an option "
            "or a continuation as a whole is: explain the next token, or leave out at=: then each token is explained by a pass of its own"
        )


@torch.no_grad()
@products(tf32=False)
def _reads_ahead(model: Model) -> bool:
    """Compares the outputs for one text and for its beginning."""
    (ids,) = watched_ids(model.vocabulary or FEWEST, None, model.device)
    with model.frozen():
        whole, beginning = (model.output(row[None])[0] for row in (ids, ids[:-2]))
    return not equal_within(whole[:-2], beginning, rounding_share(model.dtype, in_float32=True))
