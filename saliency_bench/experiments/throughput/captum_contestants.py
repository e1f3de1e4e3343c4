"""Three ways to call Captum: as in its tutorials, one text at a time, and in the fastest way that was found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saliency_bench.attribution.captum import RULES, lacks
from saliency_bench.core.errors import InputError
from saliency_bench.core.tensors import Batch
from saliency_bench.experiments.throughput.contestants import (
    CONTESTANTS,
    Contestant,
    Problem,
    Scores,
    cut,
    padded_tokens,
)
from saliency_bench.models.model import Model
from saliency_bench.models.references import TOKENS
from saliency_bench.models.tasks.encoding import collate
from saliency_bench.studies.timing import fastest, synchronizer

INTERFACES = {"inputs": "IntegratedGradients", "layer": "LayerIntegratedGradients"}


@dataclass(frozen=True)
class Use:
    """A way to call Captum: on embeddings or on the embedding layer, texts per call, tokens at once."""

    interface: str  # inputs, layer
    batch_size: int
    tokens_at_once: int

    def __str__(self) -> str:
        return (
            f"{INTERFACES[self.interface]}, batches of {self.batch_size}, "
            f"internal_batch_size for {self.tokens_at_once} tokens"
        )


@dataclass(frozen=True)
class Trials:
    """The uses of Captum among which the fastest is chosen, each timed `n_repeats` times."""

    batch_sizes: Sequence[int]
    tokens_at_once: Sequence[int]
    interfaces: Sequence[str]
    n_repeats: int


@CONTESTANTS.register
def captum_sorted(problem: Problem, *, trials: Trials) -> Contestant:
    """Captum at its best: sorted by length, and called in the fastest way of those tried."""
    use, n_tried = tuned(problem, trials)
    describe = f"Captum sorted by length: {use}; the fastest of {n_tried} tried"
    return captum_in_order("captum_sorted", describe, problem, use)


def tuned(problem: Problem, trials: Trials) -> tuple[Use, int]:
    """The fastest use of Captum on sorted texts, and how many were tried.

    The size of batches is chosen first, then internal_batch_size, then the interface.
    """
    _refuse_what_captum_lacks(problem)
    # The layer's interface starts from token ids.
    interfaces = [
        name for name in trials.interfaces if name != "layer" or problem.baseline in TOKENS
    ]
    # A batch of more texts than there are is a batch of all.
    sizes = list(dict.fromkeys(min(size, len(problem.encoded)) for size in trials.batch_sizes))
    best = Use(interfaces[0], sizes[0], trials.tokens_at_once[0])
    seen = {best}
    choices: Mapping[str, Sequence[Any]] = {
        "batch_size": sizes,
        "tokens_at_once": trials.tokens_at_once,
        "interface": interfaces,
    }
    synchronize = synchronizer(problem.model.device)
    for key, values in choices.items():
        uses = [replace(best, **{key: value}) for value in values]
        runs = {use: captum_in_order("", "", problem, use).run for use in uses}
        if len(runs) > 1:
            best = fastest(runs, n_repeats=trials.n_repeats, synchronize=synchronize)
            seen |= runs.keys()
    return best, len(seen)


def captum_in_order(name: str, describe: str, problem: Problem, use: Use) -> Contestant:
    """Captum on texts sorted by length."""
    lengths = [len(item) for item in problem.encoded]
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return _captum_contestant(name, describe, problem, cut(order, use.batch_size), use)


@CONTESTANTS.register
def captum_random(
    problem: Problem, *, batch_size: int, internal_batch_size: int, seed: int
) -> Contestant:
    """Captum as in its tutorials: batches as they come, padded to their longest, with the attention mask.

    Its default of all steps of all texts at once would need gigabytes, so that internal_batch_size is given.
    """
    _refuse_what_captum_lacks(problem)
    order = np.random.default_rng(seed).permutation(len(problem.encoded)).tolist()
    batches = cut(order, batch_size)
    describe = f"Captum, typical use: random batches of {batch_size}, padded, internal_batch_size={internal_batch_size}"
    return _captum_contestant("captum_random", describe, problem, batches, internal_batch_size)


@CONTESTANTS.register
def captum_single(problem: Problem) -> Contestant:
    """Captum, one text at a time."""
    _refuse_what_captum_lacks(problem)
    use = Use("inputs", 1, problem.token_budget)
    batches = cut(range(len(problem.encoded)), 1)
    return _captum_contestant(
        "captum_single", f"Captum, one text at a time: {use}", problem, batches, use
    )


def _captum_contestant(
    name: str, describe: str, problem: Problem, batches: Sequence[Sequence[int]], use: Use | int
) -> Contestant:
    return Contestant(
        name,
        describe,
        partial(_captum, problem, batches, use),
        padded_tokens=padded_tokens(problem.encoded, batches),
        rounds=True,
    )


def _refuse_what_captum_lacks(problem: Problem) -> None:
    hyper = {"quadrature": problem.quadrature, "n_steps": problem.n_steps}
    if (reason := lacks("captum", hyper)) is not None:
        raise InputError(reason)


def _captum(problem: Problem, batches: Sequence[Sequence[int]], use: Use | int) -> Scores:
    """Scores by Captum; `use` is a way to call it, or the internal_batch_size of a call on embeddings."""
    scores: Scores = [np.empty(0)] * len(problem.encoded)
    for indices in batches:
        batch = collate(problem.model, [problem.encoded[index] for index in indices])
        values = _captum_values(problem, batch, use).detach().sum(-1).double().cpu().numpy()
        for index, row in zip(indices, values, strict=True):
            scores[index] = row[: len(problem.encoded[index])]
    return scores


def _captum_values(problem: Problem, batch: Batch, use: Use | int) -> Float[Tensor, "B T D"]:
    from captum.attr import IntegratedGradients, LayerIntegratedGradients

    model = problem.model
    ids, types = batch.input_ids, batch.token_type_ids
    mask = batch.mask if batch.padded else None
    with torch.no_grad():
        target = model.output(ids, mask, types).argmax(-1)
    at_once = use if isinstance(use, int) else use.tokens_at_once // ids.shape[1]
    options = {
        "target": target,
        "n_steps": problem.n_steps,
        "method": RULES[problem.quadrature],
        "internal_batch_size": max(len(batch), at_once),  # Captum takes no less than a row per text
        "return_convergence_delta": True,
    }
    if isinstance(use, Use) and use.interface == "layer":
        token = getattr(model.tokenizer, TOKENS[problem.baseline])
        values: Tensor
        values, _ = LayerIntegratedGradients(model.output, model.embedding).attribute(
            ids,
            ids.masked_fill(batch.attributable, token),
            additional_forward_args=(mask, types),
            **options,
        )
        return values
    embeddings = model.embed(ids)
    away = problem.references.vector(problem.baseline)
    values, _ = IntegratedGradients(partial(_logits, model)).attribute(
        embeddings.requires_grad_(),
        torch.where(batch.attributable[:, :, None], away, embeddings.detach()),
        additional_forward_args=(ids, mask, types),
        **options,
    )
    return values


def _logits(
    model: Model, embeddings: Tensor, ids: Tensor, mask: Tensor | None, types: Tensor | None
) -> Float[Tensor, "R C"]:
    return model.output(ids, mask, types, embeddings)
