"""The checks of heads of other tasks: the numbers of `checks`, for questions about two texts of unequal length."""

from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from checks import COMPLETE, MORE_STEPS
from finding import PASSES, SAME, SAME_IN_FLOAT32, WRONG, cell, difference
from tiny_heads import EVERY_HEAD, tiny_model, word_tokenizer

import saliency_bench as sb
from saliency_bench.attribution import parity
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.rows import Setting
from saliency_bench.core.text import Encoded
from saliency_bench.models.model import Model
from saliency_bench.models.references import References
from saliency_bench.studies.block import OpenBlock, open_block

#: A long text and a short one for each task.
TEXTS: dict[str, list[Any]] = {
    "token-classification": ["the capital of france is paris .", "what is a w1"],
    "question-answering": [
        ("what is the capital ?", "the capital of france is paris ."),
        ("what ?", "a w1"),
    ],
    "fill-mask": ["the capital of france is [MASK] .", "w1 [MASK]"],
    "text-generation": ["the capital of france is", "what is"],
}
PATH = {
    "baseline": "unk",
    "baseline_special_tokens": "keep",
    "n_steps": 64,
    "quadrature": "gauss_legendre",
}


@dataclass(frozen=True)
class HeadFinding:
    """The result of one head: the worst of its questions, relative to a question's largest score."""

    task: str
    name: str
    status: str
    n_questions: int
    parity: float  # integrated gradients, and Captum's, at its nodes and weights
    beside: float  # a text alone, and beside a longer one
    padded: float  # a text alone, and padded to the length of a longer one
    completeness: float  # Σ scores - (F(x) - F(x')), of |F(x) - F(x')| or of the largest score
    n_steps: int  # for this

    def row(self) -> dict[str, str]:
        """For a table: numbers to two digits."""
        return {key: cell(value) for key, value in asdict(self).items()}


def tokenizer_for(kind: str, folder: Path) -> Any:
    """Words; without token types for GPT-2, which would look them up among words."""
    own = copy(word_tokenizer(folder))
    if kind == "gpt2":
        own.model_input_names = ["input_ids", "attention_mask"]
    return own


def examine(task: str, kind: str) -> HeadFinding:
    """All checks of a head."""
    with TemporaryDirectory() as folder:
        model = tiny_model(task, kind, tokenizer_for(kind, Path(folder)))
        return _judged(_measured(task, kind, model))


def _judged(found: HeadFinding) -> HeadFinding:
    right = found.parity <= SAME and found.completeness <= COMPLETE
    right = right and max(found.beside, found.padded) <= SAME_IN_FLOAT32
    return replace(found, status=PASSES if right else WRONG)


def _measured(task: str, kind: str, model: Model) -> HeadFinding:
    at = {"at": "all"} if task == "token-classification" else {}
    explain = partial(sb.attribute, model, method="integrated_gradients", **PATH, **at)
    together, alone = explain(TEXTS[task]), explain(TEXTS[task][1:])
    n_long = len(together) - len(alone)
    long, short = ([one.encoded for one in maps] for maps in (together[:n_long], alone))
    setting = Setting("ig", "integrated_gradients", "native", "sum", "predicted", "logit", 0, PATH)
    captum = replace(setting, backend="captum")
    with model.frozen():
        block, padded = _block(model, short), _block(model, [*short, *long])
        assert padded.batch.padded
        in_longer = padded.explain([setting])[setting.id][: len(short)]
        ours = parity.in_captums_rounding(block.context("logit", 0), setting).scores
        theirs = block.explain([captum])[captum.id]
        gap, n_steps = _completeness(block, setting)
    return HeadFinding(
        task,
        kind,
        PASSES,
        len(short),
        parity=max(difference(a, b.scores) for a, b in zip(ours, theirs, strict=True)),
        beside=_worst(together[n_long:], alone),
        padded=_worst(in_longer, alone),
        completeness=gap,
        n_steps=n_steps,
    )


def _worst(ours: Sequence[AttributionMap], alone: Sequence[AttributionMap]) -> float:
    return max(difference(a.scores, b.scores) for a, b in zip(ours, alone, strict=True))


def _completeness(block: OpenBlock, setting: Setting) -> tuple[float, int]:
    """What the scores lack of the output's difference, with as many steps as it takes."""
    for n_steps in MORE_STEPS:
        one = replace(setting, hyper=PATH | {"n_steps": n_steps})
        gap = max(_gap(found) for found in block.explain([one])[one.id])
        if gap <= COMPLETE:
            break
    return gap, n_steps


def _gap(found: AttributionMap) -> float:
    assert found.completeness_gap is not None and found.output_difference is not None
    # Of the largest score where both outputs are alike: there is no difference to be relative to.
    return abs(found.completeness_gap) / max(
        abs(found.output_difference), float(abs(found.scores).max())
    )


def _block(model: Model, encoded: Sequence[Encoded]) -> OpenBlock:
    return open_block(References(model), encoded, "predicted", 10_000)


def every() -> list[HeadFinding]:
    """All heads of all tasks."""
    return [examine(task, kind) for task, kind in EVERY_HEAD]
