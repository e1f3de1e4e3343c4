"""What is asked of every architecture: four numbers that must be rounding errors, or a reason why there are none."""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from architectures import FIRST, LAST, MASK, PAD, VOCABULARY, build
from backward import rules
from torch import Tensor

import saliency_bench as sb
from saliency_bench.attribution import parity
from saliency_bench.attribution.backward import RULES
from saliency_bench.core.errors import InputError
from saliency_bench.core.rows import Setting
from saliency_bench.models.model import Model, frozen
from saliency_bench.models.preflight import inspect_model
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import encoded_ids
from saliency_bench.studies.block import OpenBlock, open_block

PASSES, REFUSED, NOT_BUILT, WRONG = "passes", "refused", "not built", "wrong"

#: Tokens of the two texts, without the two that frame them.
SHORT, LONG = 7, 11

PATH = {
    "baseline": "mask",
    "baseline_special_tokens": "keep",
    "n_steps": 64,
    "quadrature": "gauss_legendre",
}

#: Scores must be those of Captum and of the table in float64 within this. Some models compute a softmax, rotations or
#: a state in float32 whatever their weights are, which padding rounds in another way: a hundred of its rounding errors.
SAME, SAME_IN_FLOAT32 = 1e-9, 1e-5

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
class Finding:
    """What was found of one architecture; differences are relative to a text's largest score."""

    name: str
    status: str
    reason: str = ""
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

    def row(self) -> dict[str, str]:
        """For a table: numbers to two digits."""
        return {key: _cell(value) for key, value in asdict(self).items()}


def _cell(value: str | float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1e}" if isinstance(value, float) else str(value)


def texts() -> list[dict[str, list[int]]]:
    """Two texts of unequal length whose tokens are all different."""
    order = torch.randperm(VOCABULARY - 4, generator=torch.Generator().manual_seed(1)) + 4
    long, short = order[:LONG].tolist(), order[LONG : LONG + SHORT].tolist()
    return [{"input_ids": [FIRST, *ids, LAST]} for ids in (short, long)]


def examine(name: str) -> Finding:
    """Everything that is asked of an architecture."""
    try:
        module = build(name)
    except (
        Exception
    ) as error:  # of many kinds: a library that is missing, an impossible configuration
        return Finding(name, NOT_BUILT, _short(error))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _judged(_measured(name, sb.wrap_model(module, Ids())))
    except InputError as error:
        return Finding(name, REFUSED, _short(error))
    except Exception as error:  # what the probe should have said in its own words
        return Finding(name, WRONG, f"{type(error).__name__}: {_short(error)}")


def _judged(found: Finding) -> Finding:
    """The finding as wrong where a number is no rounding error, unless the probe said so."""
    limits = {"gradient": SAME, "parity": SAME, "beside": SAME_IN_FLOAT32, "completeness": COMPLETE}
    if found.padding is None or found.padding < SAME_IN_FLOAT32:
        limits["padded"] = SAME_IN_FLOAT32
    numbers = {key: getattr(found, key) for key in limits}
    bad = [f"{key} {numbers[key]:.2g}" for key in limits if not numbers[key] <= limits[key]]
    bad += [f"{key}: {said}" for key in RULES if (said := getattr(found, key)).startswith(WRONG)]
    return replace(found, status=WRONG, reason=", ".join(bad)) if bad else found


def _measured(name: str, model: Model) -> Finding:
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
    return Finding(
        name,
        PASSES,
        gradient=_apart(gradient, _by_the_table(model, short["input_ids"])[inner]),
        parity=_apart(ours[0], theirs),
        beside=_apart(beside, alone),
        padded=_apart(padded, alone),
        completeness=gap,
        n_steps=n_steps,
        padding=probed.padding_difference,
        **rules(model, short["input_ids"]),
    )


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


def _by_the_table(model: Model, ids: list[int], target: int | None = None) -> Tensor:
    """The gradient at each token's embedding from that of the table, in a pass that nothing of ours takes part in.

    Of the largest logit, or of that of the token `target` after the text.

    Each id occurs once, so that its row of the table is met by its token alone, unless the model adds tokens of its
    own to the ends; a layer that scales its output scales the gradient of its table by as much.
    """
    table = model.embedding.weight
    with frozen(model.module), torch.enable_grad():
        table.requires_grad_(True)
        logits = model.module(input_ids=torch.tensor([ids])).logits
        score = logits.max() if target is None else logits[0, -1, target]
        (gradient,) = torch.autograd.grad(score, table)
    scale = model.embed(torch.tensor([ids]))[0].norm() / table[ids].norm()
    return gradient[ids] / scale


def _apart(one: Tensor | np.ndarray, other: Tensor | np.ndarray) -> float:
    one, other = (np.asarray(torch.as_tensor(side).detach()) for side in (one, other))
    return float(np.abs(one - other).max() / np.abs(other).max())


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
