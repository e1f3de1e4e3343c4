"""The tokens of a continuation share one pass: what a causal model says after each of them stands in its outputs.

The questions of a continuation are texts of which each begins the next one. The longest is read once; the logits of all are
in its outputs, and their gradients go back through this pass. What stands behind a question is not read for it: that is
seen in the gradients, which are exactly 0 there. A model of which they are not is asked for each question alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from saliency_bench.core.errors import is_out_of_memory
from saliency_bench.core.rows import Target
from saliency_bench.core.tensors import at_least_float32
from saliency_bench.core.text import Encoded
from saliency_bench.models.heads import TEXT_GENERATION
from saliency_bench.models.model import Model
from saliency_bench.models.references import embed_batch
from saliency_bench.models.tasks import targets
from saliency_bench.models.tasks.encoding import collate
from saliency_bench.models.tasks.registry import task_of
from saliency_bench.models.tasks.scores import output_of


@dataclass(frozen=True)
class Read:
    """What the shared pass says of one question: its logits and, by output, the gradient at its embeddings."""

    logits: Float[Tensor, " C"]
    gradients: Mapping[str, Float[Tensor, "T D"]]


def groups(model: Model, encoded: Sequence[Encoded], token_budget: int) -> list[list[int]]:
    """The places of questions that are explained together.

    All of them; but of continuations so many texts as have gradients that fit in a pass, at least one text.
    """
    if model.task != TEXT_GENERATION or not any(map(_begins, encoded[:-1], encoded[1:])):
        return [[*range(len(encoded))]]
    found: list[list[int]] = []
    tokens = 0
    for places in _continuations(encoded):
        own = sum(len(encoded[place]) for place in places)
        if not found or tokens + own > token_budget:
            found.append([])
            tokens = 0
        found[-1] += places
        tokens += own
    return found


def read_together(
    model: Model, encoded: Sequence[Encoded], target: Target, outputs: Sequence[str]
) -> dict[Encoded, Read]:
    """What is known of these questions from one pass for each continuation; nothing of those that have a pass alone.

    Args:
        model: frozen.
        encoded: questions, those of one text after another.
        target: the class that is explained.
        outputs: those whose gradient at the input is wanted.
    """
    half = torch.finfo(model.dtype).bits < torch.finfo(torch.float32).bits
    if model.task != TEXT_GENERATION or half or model.criterion is not None:
        return {}
    found: dict[Encoded, Read] = {}
    for places in _continuations(encoded):
        if len(places) > 1:
            found |= _fitting(model, [encoded[place] for place in places], target, outputs)
    return found


def _begins(first: Encoded, second: Encoded) -> bool:
    """Whether a question's text is that of the next one without its last token."""
    plain = first.pads is second.pads is None and not first.extra and not second.extra
    read_last = first.position == len(first) - 1 and second.position == len(second) - 1
    return plain and read_last and first.input_ids == second.input_ids[:-1]


def _continuations(encoded: Sequence[Encoded]) -> list[list[int]]:
    """The places of questions in runs, each of which begins the next one."""
    found: list[list[int]] = []
    for place, question in enumerate(encoded):
        if found and _begins(encoded[found[-1][-1]], question):
            found[-1].append(place)
        else:
            found.append([place])
    return found


def _fitting(
    model: Model, questions: Sequence[Encoded], target: Target, outputs: Sequence[str]
) -> dict[Encoded, Read]:
    """The shared pass of one continuation; nothing where it does not fit in memory or the model is not causal."""
    try:
        return _read(model, questions, target, outputs)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    return {}


@torch.enable_grad()
def _read(
    model: Model, questions: Sequence[Encoded], target: Target, outputs: Sequence[str]
) -> dict[Encoded, Read]:
    whole = collate(model, questions[-1:])
    leaf = embed_batch(model, whole).detach().requires_grad_()
    said = model.output(whole.input_ids, embeddings=leaf)[0]
    logits = at_least_float32(said[[question.position for question in questions]])
    class_of = partial(task_of(model).class_of, model)
    classes = targets.choose(target, logits.detach(), collate(model, questions), class_of)
    found: list[dict[str, Tensor]] = [{} for _ in questions]
    for output in outputs:
        scores = output_of(model, output)(logits, classes)
        for row, question in enumerate(questions):
            (gradient,) = torch.autograd.grad(scores[row], leaf, retain_graph=True)
            if not _reads_no_more(gradient[0], question):
                return {}
            found[row][output] = gradient[0, : len(question)]
    if not outputs:
        (gradient,) = torch.autograd.grad(logits[0].max(), leaf)
        if not _reads_no_more(gradient[0], questions[0]):
            return {}
    return {
        question: Read(logits[row].detach(), found[row]) for row, question in enumerate(questions)
    }


def _reads_no_more(gradient: Float[Tensor, "T D"], question: Encoded) -> bool:
    """Whether nothing behind a question's text has a gradient."""
    return not bool(gradient[len(question) :].any())


def stacked(reads: Sequence[Read], width: int) -> tuple[Float[Tensor, "B C"], dict[str, Tensor]]:
    """Logits of questions and, by output, their gradients [B T D], 0 beyond each text."""
    gradients = {
        output: torch.stack(
            [
                functional.pad(
                    read.gradients[output], (0, 0, 0, width - len(read.gradients[output]))
                )
                for read in reads
            ]
        )
        for output in reads[0].gradients
    }
    return torch.stack([read.logits for read in reads]), gradients
