"""Whether a model's outputs depend on the padding that its ids came with.

Most models are told by a mask what is padding, and say the same of a text with and without it. Others average over padded
positions (as the article's own), or count positions from a padded start: what they say of a batch is what they say at
that length. Such a text is explained at the length given, its pads marked as special tokens.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from saliency_bench.core.text import Encoded
from saliency_bench.models.intake import attempted
from saliency_bench.models.model import Model
from saliency_bench.models.tasks.encoding import encoded_ids
from saliency_bench.models.tasks.placing import pads_outside, whole_numbers
from saliency_bench.models.tasks.task import outputs_of

#: With and without padding a model that does not depend on it does the same arithmetic in another order.
EPSILONS = 1e3
#: In half precision so many rounding errors would let anything pass.
LARGEST_DIFFERENCE = 0.1


def matters(model: Model, inputs: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
    """Whether the outputs change without the padding of these inputs; each comes with its place for messages.

    Tried on the input with the most padding at its end; only where no input has any there, on the one with the most
    elsewhere, which also moves the positions of many models that see no padding otherwise.
    """
    worst: dict[bool, tuple[int, Encoded, Encoded]] = {}
    for where, tokenised in inputs:
        if "attention_mask" not in tokenised:
            continue
        whole = encoded_ids(model, tokenised, where, None, where, keep_pads=True)
        if whole.pads is None:
            continue
        n_pads = sum(whole.pads)
        last = not any(whole.pads[: len(whole) - n_pads])
        if last not in worst or n_pads > worst[last][0]:
            worst[last] = n_pads, whole, encoded_ids(model, tokenised, where, None, where)
    if not worst:
        return False
    _, whole, bare = worst[True in worst]
    return _differ(model, whole, bare)


def attended(model: Model, tokenised: Mapping[str, Any], where: str) -> bool:
    """Whether an input starts or ends in pads without a mask that says so; they are then read as words."""
    if "attention_mask" in tokenised or "input_ids" not in tokenised:
        return False
    return bool(pads_outside(model, whole_numbers(tokenised, "input_ids", where)))


def _differ(model: Model, whole: Encoded, bare: Encoded) -> bool:
    padded, alone = (attempted(partial(outputs_of, model, text)) for text in (whole, bare))
    if padded is None or alone is None:
        return alone is None  # what takes one length alone is asked at that length
    if model.per_token:
        padded = padded[torch.tensor(whole.attended, device=padded.device)]
    share = min(EPSILONS * torch.finfo(alone.dtype).eps, LARGEST_DIFFERENCE)
    difference = float((padded.double() - alone.double()).abs().max())
    return not difference <= share * max(1.0, float(alone.abs().max()))
