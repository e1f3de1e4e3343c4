"""A check whether a model's outputs depend on the padding of its ids.

Most models get a mask of the padding, and their outputs are the same with and without it. Others average over padded
positions, or count positions from a padded start, so that their outputs belong to the padded length. Such a text is
explained at the length given, with its pads marked as special tokens.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from saliency_bench.core.text import Encoded
from saliency_bench.models.intake import attempted
from saliency_bench.models.model import Model
from saliency_bench.models.rounding import coarse_share
from saliency_bench.models.tasks.encoding import encoded_ids
from saliency_bench.models.tasks.placing import pads_outside, whole_numbers
from saliency_bench.models.tasks.task import outputs_of


def matters(model: Model, inputs: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
    """Whether the outputs change without the padding of these inputs, which come with their names in messages.

    The input with the most padding at its end is tried. Only where no input has padding there, the one with the most
    elsewhere is tried, since that also changes the positions in many models that ignore padding.
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
    """Whether an input starts or ends in pads and has no mask, so that the pads are read as words."""
    if "attention_mask" in tokenised or "input_ids" not in tokenised:
        return False
    return bool(pads_outside(model, whole_numbers(tokenised, "input_ids", where)))


def _differ(model: Model, whole: Encoded, bare: Encoded) -> bool:
    padded, alone = (attempted(partial(outputs_of, model, text)) for text in (whole, bare))
    if padded is None or alone is None:
        return alone is None  # a model that takes only one length is explained at that length
    if model.per_token:
        padded = padded[torch.tensor(whole.attended, device=padded.device)]
    difference = float((padded.double() - alone.double()).abs().max())
    return not difference <= coarse_share(alone.dtype) * max(1.0, float(alone.abs().max()))
