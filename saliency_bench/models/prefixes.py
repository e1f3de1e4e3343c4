"""Texts that begin alike share what a causal model computes of their beginning: its keys and values.

What a causal model computes of a token depends on the tokens up to it alone, so that two texts with the same first tokens
have the same keys and values there. Rows that begin alike form a tree. It is walked in steps of several tokens, and each
different beginning is computed once, from the keys and values of the beginning that it continues. The texts without one
token of T, or the T + 1 texts of a deletion curve, have t + 1 different beginnings of t tokens: about half of the tokens of
whole rows. A pass continues from the last row of the pass before it.

Models that keep other states of earlier tokens, or none, would give other numbers. So sharing is tried on a text of each
size before it is used; of each length, where the model reads the length of a pass.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saliency_bench.core.tensors import Batch
from saliency_bench.models.intake import attempted
from saliency_bench.models.model import Model
from saliency_bench.models.references import References, embed_batch
from saliency_bench.models.rounding import equal_within, products, rounding_share

#: The most steps of a text, and the fewest tokens in the pass of a step: small passes are slow.
MOST_STEPS = 20
LEAST_TOKENS = 20

PAST = "past_key_values"

#: The keys and values of each layer, [N heads T D].
States = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class WalkStep:
    """The tokens from `start` to `stop`, of each different beginning up to `stop`.

    `rows` has one row for each different beginning, and `earlier` the index, among the beginnings up to `start`, of the
    one that it continues.
    """

    start: int
    stop: int
    rows: Int[Tensor, " N"]
    earlier: Int[Tensor, " N"]


@dataclass(frozen=True)
class Walk:
    """The steps in which rows are computed that are sorted by their beginnings.

    `of_row` is the index of each row among the different texts. With `seeded` the first beginning of each step belongs to a
    row that is computed already.
    """

    steps: tuple[WalkStep, ...]
    of_row: Int[Tensor, " R"]
    seeded: bool

    @property
    def n_tokens(self) -> int:
        """The number of tokens that are computed."""
        return sum((step.stop - step.start) * len(step.rows) for step in self.steps)


@dataclass(frozen=True)
class Seed:
    """A row that is computed already: its text, the tokens that stay, and its keys and values."""

    example: int
    stays: Bool[Tensor, " T"]
    states: States


def shares(references: References, batch: Batch) -> bool:
    """Whether rows of a batch may share beginnings; proved once for each size of text, on a text of this batch.

    Texts with padding or further inputs, and questions that are read before the end, are computed as whole rows.
    """
    model, width = references.model, batch.input_ids.shape[1]
    if not references.may_share or model.takes is None or PAST not in model.takes:
        return False
    if batch.padded or batch.extra_of() or batch.boundaries is not None or width < 2:
        return False
    if batch.positions is not None and not bool((batch.positions == width - 1).all()):
        return False
    key: Hashable = ("sharing", width if reads_lengths(model) else width.bit_length())
    return bool(references.once(key, lambda: attempted(lambda: _tried(model, batch)) or False))


def reads_lengths(model: Model) -> bool:
    """Whether a model rotates by frequencies that depend on the length of a pass (as Phi-3, in `modeling_rope_utils`)."""
    parameters = getattr(getattr(model.module, "config", None), "rope_parameters", None)
    if not isinstance(parameters, Mapping):
        return False
    by_layer = [entry for entry in parameters.values() if isinstance(entry, Mapping)]
    return any(
        entry.get("rope_type") in ("dynamic", "longrope") for entry in (parameters, *by_layer)
    )


def order(examples: Int[Tensor, " R"], stays: Bool[Tensor, "R T"]) -> Int[Tensor, " R"]:
    """The indices that sort rows by their text and by the tokens that stay, from the first token on."""
    indices = examples.argsort(stable=True)
    keys = stays.to(torch.uint8)
    columns = [*range(keys.shape[1])]
    for column in reversed(columns):
        indices = indices[keys[indices, column].argsort(stable=True)]
    return indices[examples[indices].argsort(stable=True)]


def walk(
    examples: Int[Tensor, " R"],
    stays: Bool[Tensor, "R T"],
    seed: Seed | None = None,
    least_tokens: int = LEAST_TOKENS,
) -> Walk:
    """Plans the computation of rows that are sorted by `order`.

    Args:
        examples: the text of each row.
        stays: the tokens that stay in each row.
        seed: a row that is computed already, and differs from all others.
        least_tokens: the fewest tokens in the pass of a step.
    """
    n_rows, width = stays.shape
    first = _first_differences(examples, stays, seed)
    shortest = -(-width // MOST_STEPS)
    # The number of different beginnings to compute, by their number of tokens.
    n_new = (first[:, None] < torch.arange(1, width + 1)).sum(0).tolist()
    steps: list[WalkStep] = []
    seeded = int(seed is not None)
    place, start = torch.zeros(n_rows, dtype=torch.long), 0
    for stop in range(1, width + 1):
        if not n_new[stop - 1]:  # all rows continue the seed
            start = stop
            continue
        n_tokens = (stop - start) * n_new[stop - 1]
        if stop < width and (stop - start < shortest or n_tokens < least_tokens):
            continue
        new = first < stop
        rows = new.nonzero()[:, 0]
        steps.append(WalkStep(start, stop, rows, place[rows]))
        place, start = new.cumsum(0) - 1 + seeded, stop
    return Walk(tuple(steps), place - seeded, seed is not None)


def _first_differences(
    examples: Int[Tensor, " R"], stays: Bool[Tensor, "R T"], seed: Seed | None
) -> Int[Tensor, " R"]:
    """The first token at which each row differs from the row before it; the first row is compared with the seed."""
    if seed is None:  # the first row counts as different from its first token on
        before = torch.cat([~stays[:1], stays[:-1]])
        same = torch.cat([examples.new_zeros(1), (examples[1:] == examples[:-1]).long()])
    else:
        before = torch.cat([seed.stays[None], stays[:-1]])
        named = torch.cat([examples.new_tensor([seed.example]), examples[:-1]])
        same = (examples == named).long()
    differs = (stays != before).int()
    first = torch.where(differs.any(1), differs.argmax(1), stays.shape[1])
    return first * same


def outputs(
    model: Model,
    batch: Batch,
    plan: Walk,
    rows: Int[Tensor, " R"],
    embeddings: Float[Tensor, "R T D"],
    seed: Seed | None = None,
) -> tuple[Float[Tensor, "N ..."], States]:
    """The model's outputs for the last step of each different text, and the texts' keys and values.

    Args:
        model: see `shares`.
        batch: the texts.
        plan: the walk over these rows from the seed.
        rows: the text of each row.
        embeddings: the embeddings of each row.
        seed: a row that is computed already.
    """
    states: States = []
    logits: Tensor | None = None
    for step in plan.steps:
        earlier = _beginnings(states, seed, step.start)
        past = past_of([(k[step.earlier], v[step.earlier]) for k, v in earlier])
        chosen, places = step.rows.to(model.device), slice(step.start, step.stop)
        ids = batch.input_ids[rows[chosen], places]
        logits = model.output(ids, embeddings=embeddings[chosen, places], past=past, last=True)
        states = states_of(past)
    assert logits is not None
    return logits, states


def _beginnings(states: States, seed: Seed | None, length: int) -> States:
    """The states of the beginnings of `length` tokens: the seed's, if there is one, and those of the step before."""
    if length == 0:
        return []
    if seed is None:
        return states
    cut = [(k[:, :, :length], v[:, :, :length]) for k, v in seed.states]
    if not states:
        return cut
    return [
        (torch.cat([a, k]), torch.cat([b, v])) for (a, b), (k, v) in zip(cut, states, strict=True)
    ]


def past_of(states: States) -> Any:
    """Keys and values as the cache that models of transformers take."""
    from transformers import DynamicCache

    past = DynamicCache()
    for layer, (keys, values) in enumerate(states):
        past.update(keys, values, layer)
    return past


def states_of(past: Any) -> States:
    """The keys and values of each layer."""
    return [(layer.keys, layer.values) for layer in past.layers]


def row_of(states: States, row: int) -> States:
    """A copy of the keys and values of one row."""
    return [(keys[[row]], values[[row]]) for keys, values in states]


@torch.inference_mode()
@products(tf32=False)
def _tried(model: Model, batch: Batch) -> bool:
    """Whether shared beginnings give the logits of whole rows, on one text without one of some of its tokens.

    In two passes, of which the second goes on from the first.
    """
    width = batch.input_ids.shape[1]
    removed = [width - 1, width // 2, width // 3, 0]  # in the reverse of `order`
    stays = torch.ones(len(removed), width, dtype=torch.bool)
    stays[torch.arange(len(removed)), torch.tensor(removed)] = False
    stays = torch.unique(stays, dim=0)
    examples = torch.zeros(len(stays), dtype=torch.long)
    rows = examples.to(model.device)
    embeddings = embed_batch(model, batch, rows=rows)
    changed = torch.where(stays.to(model.device)[:, :, None], embeddings, embeddings.roll(1, 1))
    whole = _last(model, model.output(batch.input_ids[rows], embeddings=changed))
    shared: list[Tensor] = []
    seed: Seed | None = None
    for part in torch.split(torch.arange(len(stays)), 2):
        plan = walk(examples[part], stays[part], seed, least_tokens=1)
        logits, states = outputs(model, batch, plan, rows[part], changed[part], seed)
        shared.append(_last(model, logits)[plan.of_row.to(model.device)])
        seed = Seed(0, stays[part[-1]], row_of(states, -1))
    return equal_within(torch.cat(shared), whole, rounding_share(model.dtype, in_float32=True))


def _last(model: Model, outputs: Float[Tensor, "R ..."]) -> Float[Tensor, "R C"]:
    """The logits of each row's last token; of the row, where the model has no logits for each token."""
    return outputs[:, -1] if model.per_token else outputs
