"""Texts that begin alike share what a causal model computes of their beginning: its keys and values.

What a causal model computes of a token depends on the tokens up to it alone, so that two texts with the same first tokens
have the same keys and values there. Rows that begin alike form a tree, and each different beginning is computed once. The
texts without one token of T, or the T + 1 texts of a deletion curve, have t + 1 different beginnings of t tokens: about half
of the tokens of whole rows. There are two forms:

1. One sequence (`Tree`): the tokens of all rows that no earlier row has stand after one another, each at its own position.
   A mask lets each see the tokens before it in its own row.
2. Steps (`Walk`): a pass computes a few tokens of each different beginning, from the keys and values of the beginning that
   it continues. For models that take no such mask or positions, and for classifiers.

Both go on from the last row before them (`Seed`). Models that keep other states of earlier tokens, or none, would give other
numbers. So each form is tried before it is used, on the longest text of each size; at each length, where the model reads the
length of a pass. Texts in a padded block are computed without their padding, those of one length at a time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saliency_bench.core.tensors import Batch, sent
from saliency_bench.models.intake import attempted
from saliency_bench.models.model import Model
from saliency_bench.models.references import References
from saliency_bench.models.remembered import proved
from saliency_bench.models.rounding import equal_within, products, rounding_share

#: The forms, the faster one first.
ONE_SEQUENCE, STEPS = FORMS = "one sequence", "steps"

#: Where to cut a walk: the time of a pass beside its tokens, and of copying the keys and values of a token, both as numbers
#: of tokens. Measured on one core: the weights are read once in each pass. A GPU takes many tokens in the time of its calls.
PASS_TOKENS, PASS_TOKENS_ON_GPU = 20.0, 4000.0
COPY_TOKENS = 1 / 64

#: The most tokens of a sequence: each sees all others, and the mask has a number for each pair.
MOST_TOKENS, MOST_TOKENS_ON_GPU = 512, 4096

PAST, KEEP = "past_key_values", "logits_to_keep"

#: The keys and values of each layer, [N heads T D].
States = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Seed:
    """A row that is computed already: its text, the tokens that stay, and its keys and values."""

    example: int
    stays: Bool[Tensor, " T"]
    states: States


@dataclass(frozen=True)
class Computed:
    """Keys and values after the last pass: a row for each text; or one row, and for each text the places of its tokens."""

    states: States
    places: Int[Tensor, "R T"] | None = None

    def of(self, rows: slice) -> States:
        """The keys and values of some texts."""
        if self.places is None:
            return [(keys[rows], values[rows]) for keys, values in self.states]
        places = self.places[rows]
        return [
            (keys[0][:, places].transpose(0, 1), values[0][:, places].transpose(0, 1))
            for keys, values in self.states
        ]

    def of_last(self) -> States:
        """A copy of those of the last text, so that the others need not be kept."""
        return [(keys.clone(), values.clone()) for keys, values in self.of(slice(-1, None))]


#: The outputs for the last token of each row, and the rows' keys and values.
Result = tuple[Float[Tensor, "R ..."], Computed]


@dataclass(frozen=True)
class Texts:
    """The tokens of rows, and the embeddings that replace theirs."""

    ids: Int[Tensor, "R T"]
    embeddings: Float[Tensor, "R T D"]


@dataclass(frozen=True)
class Tree:
    """Rows that are computed as one sequence.

    `first` is the first token at which each row differs from the row before it; the first row, from the seed.
    """

    first: Int[Tensor, " R"]
    width: int

    @property
    def n_tokens(self) -> int:
        """The number of tokens that are computed."""
        return int((self.width - self.first).sum())

    @cached_property
    def nodes(self) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
        """The row and the place of each token that is computed, in the order of the sequence."""
        row, place = (self.first[:, None] <= torch.arange(self.width)).nonzero(as_tuple=True)
        return row, place

    @cached_property
    def places(self) -> Int[Tensor, "R T"]:
        """The places of each row's tokens among the seed's beginning and the sequence after it."""
        row, place = self.nodes
        numbers = torch.full((len(self.first), self.width), -1)
        numbers[row, place] = torch.arange(len(row)) + self.first[0]
        # A token that is not computed is that of the row before: the last number above it.
        numbers[0, : self.first[0]] = torch.arange(int(self.first[0]))
        above = torch.where(numbers >= 0, torch.arange(len(numbers))[:, None], 0).cummax(0).values
        return numbers.gather(0, above)

    @cached_property
    def sees(self) -> Bool[Tensor, "N S"]:
        """Which tokens each one sees: those of its own row up to its place."""
        row, place = self.nodes
        none = torch.zeros(len(row), int(self.first[0]) + len(row), dtype=torch.bool)
        return none.scatter(1, self.places[row], torch.arange(self.width) <= place[:, None])

    def compute(self, model: Model, texts: Texts, seed: States) -> Result:
        """The outputs for the last token of each row, and the rows' keys and values."""
        if model.first_position is None:
            raise ValueError(f"{model.name} takes no positions")
        row, place, places, sees = (
            sent(table, model.device) for table in (*self.nodes, self.places, self.sees)
        )
        lowest = torch.finfo(model.dtype).min
        mask = torch.zeros(sees.shape, dtype=model.dtype, device=model.device)
        past = past_of(_cut(seed, int(self.first[0])))
        outputs = model.output(
            texts.ids[row, place][None],
            embeddings=texts.embeddings[row, place][None],
            position_ids=(place + model.first_position)[None],
            extra={
                "attention_mask": mask.masked_fill(~sees, lowest)[None, None],
                KEEP: sent((self.width - self.first).cumsum(0) - 1, model.device),
            },
            past=past,
        )
        return outputs[0], Computed(states_of(past), places)


@dataclass(frozen=True)
class Step:
    """The tokens from `start` to `stop`, of each different beginning up to `stop`.

    `rows` has one row for each different beginning, and `earlier` the index, among the beginnings up to `start`, of the
    one that it continues. The seed's is the first of these.
    """

    start: int
    stop: int
    rows: Int[Tensor, " N"]
    earlier: Int[Tensor, " N"]


@dataclass(frozen=True)
class Walk:
    """Rows that are computed in steps; `seeded`: the first row continues the seed."""

    steps: tuple[Step, ...]
    seeded: bool

    @property
    def n_tokens(self) -> int:
        """The number of tokens that are computed."""
        return sum((step.stop - step.start) * len(step.rows) for step in self.steps)

    def compute(self, model: Model, texts: Texts, seed: States) -> Result:
        """The outputs for the last token of each row, and the rows' keys and values."""
        states: States = []
        seed = seed if self.seeded else []
        for step in self.steps:
            earlier = sent(step.earlier, model.device)
            past = past_of([(k[earlier], v[earlier]) for k, v in _joined(seed, states, step.start)])
            rows, tokens = sent(step.rows, model.device), slice(step.start, step.stop)
            kept = [-1] if step is self.steps[-1] else []
            outputs = model.output(
                texts.ids[rows, tokens],
                embeddings=texts.embeddings[rows, tokens],
                extra=kept_at(model, kept),
                past=past,
            )
            states = states_of(past)
        return outputs[:, -1] if model.per_token else outputs, Computed(states)


def shares(references: References, batch: Batch) -> bool:
    """Whether rows of a batch may share beginnings (see `form_of`)."""
    return form_of(references, batch) is not None


def form_of(references: References, batch: Batch) -> str | None:
    """The form in which rows of a batch may share beginnings; None where they may not.

    Proved once for a module and each size of text, on a text of this batch. Texts with padding or further inputs of their
    own, and questions that are read before the end, are computed as whole rows.
    """
    model, width = references.model, batch.input_ids.shape[1]
    if not references.may_share or model.takes is None or PAST not in model.takes:
        return None
    by_length = reads_lengths(model)
    ends_in_pad = (item.input_ids[-1] == model.pad_token_id for item in batch.encoded)
    # A classifier reads its answer before a pad at the end, which the last step alone does not show.
    read_before = not model.per_token and any(ends_in_pad)
    if width < 2 or not _are_plain(batch) or read_before or (by_length and batch.padded):
        return None
    rounded = max(width, min((1 << width.bit_length()) - 1, model.max_length))
    longest = width if by_length else rounded
    ids = batch.input_ids[:1, : batch.lengths[0]]
    ids = ids.repeat(1, -(-longest // ids.shape[1]))[:, :longest]
    key = "sharing", longest
    # A classifier has one output for all rows in one sequence.
    forms = FORMS if model.per_token else [STEPS]
    working = (form for form in forms if attempted(partial(_tried, model, ids, form)))
    return references.once(key, lambda: proved(model, key, lambda: next(working, None)))


def _are_plain(batch: Batch) -> bool:
    """Whether each text is all that the model is given, and is asked at its end."""
    came_padded = any(item.pads is not None for item in batch.encoded)
    if came_padded or batch.extra_of() or batch.boundaries is not None:
        return False
    ends = [length - 1 for length in batch.lengths]
    return batch.positions is None or batch.positions.tolist() == ends


def reads_lengths(model: Model) -> bool:
    """Whether a model rotates by frequencies that depend on the length of a pass (as Phi-3, in `modeling_rope_utils`)."""
    parameters = getattr(getattr(model.module, "config", None), "rope_parameters", None)
    if not isinstance(parameters, Mapping):
        return False
    by_layer = [entry for entry in parameters.values() if isinstance(entry, Mapping)]
    return any(
        entry.get("rope_type") in ("dynamic", "longrope") for entry in (parameters, *by_layer)
    )


def order(examples: Int[np.ndarray, " R"], stays: Bool[np.ndarray, "R T"]) -> Int[np.ndarray, " R"]:
    """The indices that sort rows by their text and by the tokens that stay, from the first token on."""
    return np.lexsort((*stays.T[::-1], examples))


def first_differences(
    examples: Int[Tensor, " R"], stays: Bool[Tensor, "R T"], seed: Seed | None = None
) -> Int[Tensor, " R"]:
    """The first token at which each row differs from the row before it; the first row is compared with the seed.

    Args:
        examples: the text of each row.
        stays: the tokens that stay in each row.
        seed: a row of any text; None: the first row differs from its first token on.
    """
    differs = torch.ones_like(stays)
    differs[1:] = (stays[1:] != stays[:-1]) | (examples[1:] != examples[:-1])[:, None]
    if seed is not None and seed.example == int(examples[0]):
        differs[0] = stays[0] != seed.stays
    return differs.int().argmax(1)


def plan(
    form: str, first: Int[Tensor, " R"], width: int, device: torch.device
) -> list[tuple[slice, Tree | Walk]]:
    """The parts in which rows are computed, each with its rows; each part's seed is the last row before it.

    Args:
        form: one of `FORMS`.
        first: of rows that are sorted by `order` and differ from each other (see `first_differences`).
        width: the number of tokens of each row.
        device: of the model.
    """
    if form == STEPS:
        pass_tokens = PASS_TOKENS if device.type == "cpu" else PASS_TOKENS_ON_GPU
        return [(slice(0, len(first)), walk(first, width, pass_tokens))]
    return [(part, Tree(first[part], width)) for part in _parts(first, width, _most_tokens(device))]


def _most_tokens(device: torch.device) -> int:
    return MOST_TOKENS if device.type == "cpu" else MOST_TOKENS_ON_GPU


def _parts(first: Int[Tensor, " R"], width: int, most: int) -> Iterator[slice]:
    """Cuts rows into parts of at most so many tokens, those of the seed included, or of one row."""
    start, total = 0, width
    for row, n_tokens in enumerate((width - first[1:]).tolist(), 1):
        total += n_tokens
        if total > most:
            yield slice(start, row)
            start, total = row, width
    yield slice(start, len(first))


def walk(first: Int[Tensor, " R"], width: int, pass_tokens: float) -> Walk:
    """The steps of least cost; see `plan`, and `PASS_TOKENS` for the cost of a pass."""
    ends = [*torch.unique(first).tolist(), width]  # where the number of different beginnings grows
    n_rows = {end: int((first < end).sum()) for end in ends}
    cost = {ends[0]: 0.0}
    start_of: dict[int, int] = {}
    for stop in ends[1:]:
        costs = {
            start: cost[start] + pass_tokens + n_rows[stop] * (stop - start + start * COPY_TOKENS)
            for start in cost
        }
        start_of[stop] = min(costs, key=lambda start: costs[start])
        cost[stop] = costs[start_of[stop]]
    steps: list[Step] = []
    seeded, stop = bool(first[0] > 0), width
    while stop in start_of:
        start = start_of[stop]
        rows = (first < stop).nonzero()[:, 0]
        earlier = (first < start).cumsum(0) - 1 + seeded
        steps.insert(0, Step(start, stop, rows, earlier[rows]))
        stop = start
    return Walk(tuple(steps), seeded)


def _cut(states: States, length: int) -> States:
    """The keys and values of the first tokens; none of no tokens."""
    return [(k[:, :, :length], v[:, :, :length]) for k, v in states] if length else []


def _joined(seed: States, states: States, length: int) -> States:
    """The states of the beginnings of `length` tokens: the seed's, if there is one, and those of the step before."""
    beginning = _cut(seed, length)
    if not beginning or not states:
        return beginning or states
    return [
        (torch.cat([a, k]), torch.cat([b, v]))
        for (a, b), (k, v) in zip(beginning, states, strict=True)
    ]


def kept_at(model: Model, places: list[int]) -> dict[str, Tensor]:
    """The input that asks for the outputs at some places alone, where the model takes it.

    Not as a number: the slice of a frozen model would be multiplied row by row (`should_fold` of PyTorch).
    """
    kept = sent(torch.tensor(places, dtype=torch.long), model.device)
    return {KEEP: kept} if KEEP in (model.takes or ()) else {}


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


@torch.inference_mode()
@products(tf32=False)
def _tried(model: Model, ids: Int[Tensor, "1 T"], form: str) -> bool:
    """Compares five rows, which differ at the middle, a token before it, and the last.

    In one sequence, two rows are repeated until it is as long as any may be: the model may have a window, or a limit, that
    counts places in the sequence. The last row then sees tokens from its beginning to its end.
    """
    width = ids.shape[1]
    early, middle, last = width // 4, width // 2, width - 1
    changed = [(), (middle,), (early,), (early, middle), (early, last)]
    stays = torch.tensor([[place not in places for place in range(width)] for places in changed])
    ids = ids.expand(len(changed), -1)
    embeddings = model.embed(ids)
    embeddings = torch.where(sent(stays, model.device)[:, :, None], embeddings, -embeddings)
    whole = model.output(ids, embeddings=embeddings, extra=kept_at(model, [-1]))
    whole = whole[:, -1] if model.per_token else whole
    in_one = form == ONE_SEQUENCE
    n_repeats = -(-_most_tokens(model.device) // (width - middle)) // 2 if in_one else 1
    share = rounding_share(model.dtype, in_float32=True)
    seed: Seed | None = None
    for rows in (torch.tensor([0, 1] * max(1, n_repeats) + [2]), torch.tensor([3, 4])):
        first = first_differences(torch.zeros_like(rows), stays[rows], seed)
        way = Tree(first, width) if in_one else walk(first, width, 0.0)
        states = seed.states if seed else []
        outputs, computed = way.compute(model, Texts(ids[rows], embeddings[rows]), states)
        if not equal_within(outputs, whole[rows], share):
            return False
        seed = Seed(0, stays[rows[-1]], computed.of_last())
    return True
