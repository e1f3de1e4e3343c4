"""Whether a model computes its logits at chosen tokens alone, as causal heads of transformers do by `logits_to_keep`.

The next token is read at one place of a text, and a vocabulary has many more words than a state has numbers: with all places,
the last product takes most of the time and memory of a small model. The places are a tensor, since transformers copies the
states that a tensor chooses, while those of a number are a view, whose product takes twice as long.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from saliency_bench.models.intake import attempted
from saliency_bench.models.outputs import logits_in
from saliency_bench.models.rounding import equal_within, products, rounding_share

#: The input of a module that names the places.
KEPT = "logits_to_keep"


@torch.no_grad()
@products(tf32=False)
def keeps_places(run: Callable[..., Any], ids: Int[Tensor, "R T"]) -> bool:
    """Whether the logits at two places alone are those of the whole texts there, within rounding.

    Args:
        run: calls a module that is frozen on token ids and further inputs by name.
        ids: texts of at least four tokens.
    """
    places = torch.tensor([1, 3], device=ids.device)
    both = attempted(
        lambda: (logits_in(run(ids))[:, places], logits_in(run(ids, **{KEPT: places})))
    )
    if both is None or both[0].shape != both[1].shape:
        return False
    whole, chosen = both
    return equal_within(chosen, whole, rounding_share(whole.dtype, in_float32=True))
