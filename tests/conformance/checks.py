"""The checks of every architecture: four numbers that must be rounding errors, or a reason why there are none."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from architectures import FIRST, LAST, MASK, PAD, VOCABULARY, build
from backward import rules
from finding import (
    PASSES,
    SAME,
    SAME_IN_FLOAT32,
    WRONG,
    Finding,
    difference,
    examined,
    table_gradient,
)
from torch import Tensor

import saliency_bench as sb
from saliency_bench.attribution import parity
from saliency_bench.attribution.backward import RULES
from saliency_bench.core.rows import Setting
from saliency_bench.models.model import Model
from saliency_bench.models.preflight import inspect_model
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import encoded_ids
from saliency_bench.studies.block import OpenBlock, open_block

#: Tokens of the two texts, without the two that frame them.
SHORT, LONG = 7, 11

PATH = {
    "baseline": "mask",
    "baseline_special_tokens": "keep",
    "n_steps": 64,
    "quadrature": "gauss_legendre",
}

#: Of the output's difference; a kink in the path (ReLU) is met by more steps, a jump by none.
COMPLETE, MORE_STEPS = 1e-2, (64, 512, 4096)


class Ids:
    """A tokenizer of ids alone."""

    pad_token_id, cls_token_id, sep_token_id, mask_token_id = PAD, FIRST, LAST, MASK
    all_special_ids = (PAD, FIRST, LAST, MASK)
    is_fast = False

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """A name for each id."""
        return [f"t{token}" for token in ids]


@dataclass(frozen=True)
class Classifier(Finding):
    """The result of one architecture that classifies; differences are relative to a text's largest score."""

    gradient: float | None = None  # ours, and that of the table's weights in a pass without hooks
    parity: float | None = None  # integrated gradients, and Captum's, at its nodes and weights
    beside: float | None = None  # a text alone, and beside a longer one
    padded: float | None = None  # a text alone, and padded to the length of a longer one
    completeness: float | None = None  # Σ scores - (F(x) - F(x')), of |F(x) - F(x')|
    n_steps: int | None = None  # for this
    padding: float | None = None  # what the probe saw of a logit when padding is added
    attnlrp: str = (
        ""  # the parts that a backward rule changes, each of which acts; or why it is refused
    )
    cp_lrp: str = ""
    gim: str = ""


def texts() -> list[dict[str, list[int]]]:
    """Two texts of unequal length whose tokens are all different."""
    order = torch.randperm(VOCABULARY - 4, generator=torch.Generator().manual_seed(1)) + 4
    long, short = order[:LONG].tolist(), order[LONG : LONG + SHORT].tolist()
    return [{"input_ids": [FIRST, *ids, LAST]} for ids in (short, long)]


def examine(name: str) -> Classifier:
    """All checks of an architecture."""
    return examined(
        Classifier,
        name,
        lambda: build(name),
        lambda module: _measured(name, sb.wrap_model(module, Ids())),
    )


def _measured(name: str, model: Model) -> Classifier:
    short, long = texts()
    alone, beside = (
        sb.attribute(model, inputs, "integrated_gradients", **PATH)[0].scores
        for inputs in ([short], [short, long])
    )
    setting = Setting("ig", "integrated_gradients", "native", "sum", "predicted", "logit", 0, PATH)
    with model.frozen():
        probed = inspect_model(model, tuple(short["input_ids"]), None)
        block, both = (_block(model, *inputs) for inputs in ([short], [short, long]))
        padded = both.explain([setting])[setting.id][0].scores
        ctx = block.context("logit", 0)
        ours = parity.in_captums_rounding(ctx, setting).scores
        captum = replace(setting, backend="captum")
        theirs = block.explain([captum])[captum.id][0].scores
        inner = slice(1, SHORT + 1)
        gradient = ctx.clean_gradient[0, inner]
        gap, n_steps = _completeness(block, setting)
    finding = Classifier(
        name,
        PASSES,
        gradient=difference(gradient, _by_the_table(model, short["input_ids"])[inner]),
        parity=difference(ours[0], theirs),
        beside=difference(beside, alone),
        padded=difference(padded, alone),
        completeness=gap,
        n_steps=n_steps,
        padding=probed.padding_difference,
        **rules(model, short["input_ids"]),
    )
    limits = {"gradient": SAME, "parity": SAME, "beside": SAME_IN_FLOAT32, "completeness": COMPLETE}
    if probed.padding_difference is None or probed.padding_difference < SAME_IN_FLOAT32:
        limits["padded"] = SAME_IN_FLOAT32
    parts = {key: getattr(finding, key) for key in RULES}
    faults = [f"{key}: {said}" for key, said in parts.items() if said.startswith(WRONG)]
    return finding.within(limits, *faults)


def _completeness(block: OpenBlock, setting: Setting) -> tuple[float, int]:
    """What the scores lack of the output's difference, with as many steps as it takes."""
    for n_steps in MORE_STEPS:
        one = replace(setting, hyper=PATH | {"n_steps": n_steps})
        found = block.explain([one])[one.id][0]
        gap = abs(found.completeness_gap) / abs(found.output_difference)
        if gap <= COMPLETE:
            break
    return gap, n_steps


def _block(model: Model, *inputs: dict[str, list[int]]) -> OpenBlock:
    encoded = [
        encoded_ids(model, one, str(index), None, "test") for index, one in enumerate(inputs)
    ]
    return open_block(References(model), encoded, "predicted", 10_000)


def _by_the_table(model: Model, ids: list[int]) -> Tensor:
    """The gradient of the largest logit at each token's embedding, from that of the table.

    Each id occurs once, so that its row of the table is met by its token alone, unless the model adds tokens of its
    own to the ends; a layer that scales its output scales the gradient of its table by as much.
    """
    text, table = torch.tensor([ids]), model.embedding.weight
    gradient = table_gradient(model, lambda: model.module(input_ids=text).logits.max())
    scale = model.embed(text)[0].norm() / table[ids].norm()
    return gradient[ids] / scale
