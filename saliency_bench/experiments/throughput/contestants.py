"""Who is timed: ways to compute the same Integrated Gradients, from token ids to token scores on the host.

All get the same `Problem` and the same frozen model. Each chooses the class by a forward pass of its own and computes
the convergence delta, as far as it keeps results at all. A contestant of somebody else's is a function in `CONTESTANTS`
(entry point group `saliency_bench.contestants`) from a problem to a `Contestant` or a list of them; what it cannot
compute it refuses with an `InputError`, which becomes the reason in its row.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saliency_bench.attribution.captum import RULES, lacks
from saliency_bench.attribution.quadrature import quadrature as rule
from saliency_bench.attribution.settings import checked_setting
from saliency_bench.core.errors import InputError
from saliency_bench.core.registry import Registry
from saliency_bench.core.rows import Setting
from saliency_bench.core.tensors import Batch
from saliency_bench.core.text import Encoded
from saliency_bench.models.model import Model
from saliency_bench.models.references import TOKENS, References
from saliency_bench.models.tasks import sequence_classification as task
from saliency_bench.study.block import Block, Packing, opened_blocks, packing_for, plan_blocks
from saliency_bench.study.timing import fastest, synchronizer

T = TypeVar("T")

#: Of each text in input order, a number per token as tokenised, special tokens included.
Scores: TypeAlias = list[Float[np.ndarray, " _"]]


@dataclass(frozen=True)
class Contestant:
    """`run` explains all texts and returns their scores, or None where results are discarded.

    `check` computes the scores of a contestant that discards them, for the comparison alone.
    `padded_tokens` is how many tokens pass through the model for one gradient of every text; None: not known.
    `n_gradients` is what each text took, where it is not one per step.
    `rounds`: its quadrature has float32 weights whatever the type of the model, as Captum's.
    `same_quantity`: False where only the cost can be compared, and no agreement is asked for.
    """

    name: str
    describe: str
    run: Callable[[], Scores | None]
    check: Callable[[], Scores] | None = None
    padded_tokens: int | None = None
    n_gradients: Sequence[int] | None = None
    rounds: bool = False
    same_quantity: bool = True

    def scores(self) -> Scores | None:
        """What is compared with the others."""
        return self.run() if self.check is None else self.check()


@dataclass(frozen=True)
class Problem:
    """What all compute: Integrated Gradients of the predicted class's logit, summed per token. Special tokens stay."""

    references: References
    encoded: tuple[Encoded, ...]
    baseline: str
    quadrature: str
    n_steps: int
    token_budget: int

    @property
    def model(self) -> Model:
        """The model; it must be frozen."""
        return self.references.model

    @property
    def n_tokens(self) -> int:
        """Tokens of all texts, no padding."""
        return sum(map(len, self.encoded))

    @cached_property
    def packing(self) -> Packing:
        """How our blocks are filled."""
        return packing_for(self.model, self.token_budget)

    @cached_property
    def blocks(self) -> list[Block]:
        """Our blocks."""
        return plan_blocks(self.encoded, self.packing)

    @property
    def setting(self) -> Setting:
        """The same as a setting of ours."""
        return integrated_gradients(
            baseline=self.baseline, quadrature=self.quadrature, n_steps=self.n_steps
        )


def integrated_gradients(**hyper: Any) -> Setting:
    """Our Integrated Gradients of the predicted class's logit."""
    return setting_of("integrated_gradients", "sum", hyper | {"baseline_special_tokens": "keep"})


def setting_of(method: str, reduction: str, hyper: dict[str, Any]) -> Setting:
    """A setting of ours that explains the predicted class's logit."""
    return checked_setting(
        method, method, "native", reduction, "predicted", "logit", seed=0, hyper=hyper
    )


Factory: TypeAlias = Callable[..., "Contestant | list[Contestant]"]
CONTESTANTS: Registry[Factory] = Registry("contestant", "saliency_bench.contestants")


def ours(problem: Problem) -> Contestant:
    """The engine, as a run uses it."""
    settings = [problem.setting]

    def run() -> Scores:
        (found,) = explained(problem, settings)
        return found

    kind = "equal length" if problem.packing.least_filled == 1 else "neighbouring lengths, padded"
    describe = f"ours: blocks of {kind}, {problem.token_budget} tokens at a time"
    return Contestant("ours", describe, run, padded_tokens=_padded_in_blocks(problem))


def _padded_in_blocks(problem: Problem) -> int:
    return padded_tokens(problem.encoded, [block.indices for block in problem.blocks])


def explained(problem: Problem, settings: Sequence[Setting]) -> list[Scores]:
    """Our scores under each setting, from one pass over what they share."""
    found: list[Scores] = [[np.empty(0)] * len(problem.encoded) for _ in settings]
    blocks = opened_blocks(problem.references, problem.encoded, "predicted", problem.token_budget)
    for block, opened in blocks:
        for own, maps in zip(found, opened.explain(settings).values(), strict=True):
            for index, one in zip(block.indices, maps, strict=True):
                own[index] = one.scores
    return found


# --- Captum


@dataclass(frozen=True)
class Use:
    """How Captum is called: on embeddings or on the embedding layer, texts per call, tokens at once."""

    interface: str  # inputs, layer
    batch_size: int
    tokens_at_once: int

    def __str__(self) -> str:
        name = {"inputs": "IntegratedGradients", "layer": "LayerIntegratedGradients"}
        return (
            f"{name[self.interface]}, batches of {self.batch_size}, "
            f"internal_batch_size for {self.tokens_at_once} tokens"
        )


@dataclass(frozen=True)
class Trials:
    """The uses of Captum among which the fastest is chosen, each timed `n_repeats` times."""

    batch_sizes: Sequence[int]
    tokens_at_once: Sequence[int]
    interfaces: Sequence[str]
    n_repeats: int


def captum_sorted(problem: Problem, *, trials: Trials) -> Contestant:
    """Captum at its best: sorted by length, and called in the fastest way of those tried."""
    use, n_tried = tuned(problem, trials)
    describe = f"Captum sorted by length: {use}; the fastest of {n_tried} tried"
    return captum_in_order("captum_sorted", describe, problem, use)


def tuned(problem: Problem, trials: Trials) -> tuple[Use, int]:
    """The fastest use of Captum on sorted texts, and how many were tried.

    One thing is chosen after the other: the size of batches, then internal_batch_size, then the interface.
    """
    _refuse_what_captum_lacks(problem)
    # The layer's interface starts from token ids.
    interfaces = [one for one in trials.interfaces if one != "layer" or problem.baseline in TOKENS]
    # A batch of more texts than there are is a batch of all.
    sizes = list(dict.fromkeys(min(size, len(problem.encoded)) for size in trials.batch_sizes))
    best = Use(interfaces[0], sizes[0], trials.tokens_at_once[0])
    seen = {best}
    choices: list[Callable[[Use], list[Use]]] = [
        lambda use: [replace(use, batch_size=size) for size in sizes],
        lambda use: [replace(use, tokens_at_once=tokens) for tokens in trials.tokens_at_once],
        lambda use: [replace(use, interface=interface) for interface in interfaces],
    ]
    for choose in choices:
        runs = {use: captum_in_order("", "", problem, use).run for use in choose(best)}
        if len(runs) > 1:
            best = fastest(
                runs,
                n_repeats=trials.n_repeats,
                synchronize=synchronizer(problem.model.device),
            )
            seen |= runs.keys()
    return best, len(seen)


def captum_in_order(name: str, describe: str, problem: Problem, use: Use) -> Contestant:
    """Captum on texts sorted by length."""
    lengths = [len(one) for one in problem.encoded]
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return _captum_contestant(name, describe, problem, _cut(order, use.batch_size), use)


def captum_random(
    problem: Problem, *, batch_size: int, internal_batch_size: int, seed: int
) -> Contestant:
    """Captum as in its tutorials: batches as they come, padded to their longest, with the attention mask.

    Its default of all steps of all texts at once would need gigabytes, so that internal_batch_size is given.
    """
    _refuse_what_captum_lacks(problem)
    order = np.random.default_rng(seed).permutation(len(problem.encoded)).tolist()
    batches = _cut(order, batch_size)
    describe = f"Captum, typical use: random batches of {batch_size}, padded, internal_batch_size={internal_batch_size}"
    return _captum_contestant("captum_random", describe, problem, batches, internal_batch_size)


def captum_single(problem: Problem) -> Contestant:
    """Captum, one text at a time."""
    _refuse_what_captum_lacks(problem)
    use = Use("inputs", 1, problem.token_budget)
    batches = _cut(range(len(problem.encoded)), 1)
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


def padded_tokens(encoded: Sequence[Encoded], batches: Sequence[Sequence[int]]) -> int:
    """Tokens of these batches, each padded to its longest text."""
    return sum(len(batch) * max(len(encoded[index]) for index in batch) for batch in batches)


def _cut(order: Sequence[T], size: int) -> list[list[T]]:
    return [list(order[start : start + size]) for start in range(0, len(order), size)]


def _refuse_what_captum_lacks(problem: Problem) -> None:
    hyper = {"quadrature": problem.quadrature, "n_steps": problem.n_steps}
    if (reason := lacks("captum", hyper)) is not None:
        raise InputError(reason)


def _captum(problem: Problem, batches: Sequence[Sequence[int]], use: Use | int) -> Scores:
    """Scores by Captum; `use` says how, or is the internal_batch_size of a call on embeddings."""
    found: Scores = [np.empty(0)] * len(problem.encoded)
    for indices in batches:
        batch = task.collate(problem.model, [problem.encoded[index] for index in indices])
        values = _captum_values(problem, batch, use).detach().sum(-1).double().cpu().numpy()
        for index, row in zip(indices, values, strict=True):
            found[index] = row[: len(problem.encoded[index])]
    return found


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


# --- the floor


@dataclass(frozen=True)
class Prepared:
    """Rows with nothing left to do but a forward and a backward pass; `texts` on the host."""

    texts: Sequence[int]
    weights: Float[Tensor, " R"]
    points: Float[Tensor, "R T D"]
    moved: Float[Tensor, "R T D"]
    ids: Int[Tensor, "R T"]
    mask: Bool[Tensor, "R T"] | None
    types: Int[Tensor, "R T"] | None
    target: Int[Tensor, "R 1"]


def bare_loop(problem: Problem) -> Contestant:
    """The 100 %: a loop by hand over prepared batches of the same texts as our blocks, gradients discarded."""
    model = problem.model
    batches = list(_prepared(problem))

    def gradient(batch: Prepared) -> Float[Tensor, "R T D"]:
        points = batch.points.detach().requires_grad_()
        logits = model.output(batch.ids, batch.mask, batch.types, points)
        found: Tensor
        (found,) = torch.autograd.grad(logits.gather(1, batch.target).sum(), points)
        return found

    def run() -> None:
        for batch in batches:
            gradient(batch)

    def check() -> Scores:
        found: Scores = [np.zeros(len(one)) for one in problem.encoded]
        for batch in batches:
            scores = (gradient(batch).double() * batch.moved.double()).sum(-1)
            weighted = (scores * batch.weights[:, None]).cpu().numpy()
            for text, row in zip(batch.texts, weighted, strict=True):
                found[text] += row[: len(found[text])]
        return found

    describe = "bare loop: prepared batches of the texts of our blocks, results discarded"
    return Contestant("bare_loop", describe, run, check, padded_tokens=_padded_in_blocks(problem))


def _prepared(problem: Problem) -> Iterator[Prepared]:
    """Every pair of a text and a step, texts of a block together, up to the token budget."""
    model = problem.model
    nodes, weights = (
        torch.tensor(side, dtype=torch.float64, device=model.device)
        for side in rule(problem.quadrature, problem.n_steps)
    )
    for block in problem.blocks:
        indices = block.indices
        batch = task.collate(model, [problem.encoded[index] for index in indices])
        ids, types = batch.input_ids, batch.token_type_ids
        mask = batch.mask if batch.padded else None
        end = model.embed(ids)
        away = problem.references.vector(problem.baseline)
        start = torch.where(batch.attributable[:, :, None], away, end)
        with torch.no_grad():
            target = model.output(ids, mask, types).argmax(-1, keepdim=True)
        pairs = [(row, step) for row in range(len(indices)) for step in range(len(nodes))]
        for own in _cut(pairs, max(1, problem.token_budget // ids.shape[1])):
            rows, steps = (
                torch.tensor(side, device=model.device) for side in zip(*own, strict=True)
            )
            yield Prepared(
                texts=[indices[row] for row, _ in own],
                weights=weights[steps],
                points=torch.lerp(
                    start[rows], end[rows], nodes[steps].to(end.dtype)[:, None, None]
                ),
                moved=(end - start)[rows],
                ids=ids[rows],
                mask=None if mask is None else mask[rows],
                types=None if types is None else types[rows],
                target=target[rows],
            )


CONTESTANTS.add("ours", ours)
CONTESTANTS.add("captum_sorted", captum_sorted)
CONTESTANTS.add("captum_random", captum_random)
CONTESTANTS.add("captum_single", captum_single)
CONTESTANTS.add("bare_loop", bare_loop)
