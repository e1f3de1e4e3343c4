"""Blocks of texts of like length, and the attribution maps of a block: what the runner and the API share."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saliency_bench.attribution.backward import PLAIN
from saliency_bench.attribution.context import Context
from saliency_bench.attribution.describe import about_of, described
from saliency_bench.attribution.explain import Family, explain, plan, rule_of
from saliency_bench.core.errors import InputError, is_out_of_memory
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.method_facts import BACKWARD_PARTS
from saliency_bench.core.rows import Setting, Target
from saliency_bench.core.tensors import Attribution, Batch, on_device
from saliency_bench.core.text import Encoded
from saliency_bench.evaluation.blurring import BlurringProbe
from saliency_bench.evaluation.probe import CachingProbe
from saliency_bench.evaluation.removal import removal_probe
from saliency_bench.models.model import Model
from saliency_bench.models.prefixes import reads_lengths
from saliency_bench.models.references import References, embed_batch
from saliency_bench.models.tasks import targets
from saliency_bench.models.tasks.encoding import collate
from saliency_bench.models.tasks.registry import task_of
from saliency_bench.models.tasks.scores import clean_logits, logits_fn, output_of
from saliency_bench.studies.on_host import Numbers, on_host

#: Tokens of a block, so that its clean pass is one call and a kill loses little. No number depends on it beyond
#: rounding; it is fixed so that equal plans give equal bytes.
BLOCK_TOKENS = 1024
#: Pieces of a plan; each is a folder of some files until the run is sealed.
MOST_PIECES = 4096


@dataclass(frozen=True)
class Block:
    """Examples that share passes; `indices` are their places in the input."""

    name: str
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Packing:
    """The limits of a block: its tokens at the most, and the share of them that is no padding at the least."""

    tokens: int = BLOCK_TOKENS
    least_filled: float = 1.0  # equal lengths only


EQUAL = Packing()

#: Small passes are slow, so that neighbours in length share them at the cost of a little padding.
LEAST_FILLED = 0.9


def packing_for(model: Model, token_budget: int, encoded: Sequence[Encoded]) -> Packing:
    """Whole passes of neighbouring lengths, or equal lengths where it is not proved that padding changes no output.

    The proof is of as much padding as these texts would get, and of one length: it does not hold for a model that computes
    otherwise in longer passes.
    """
    if reads_lengths(model):
        return EQUAL
    packing = Packing(max(BLOCK_TOKENS, token_budget), LEAST_FILLED)
    lengths = [
        [len(encoded[index]) for index in block.indices] for block in plan_blocks(encoded, packing)
    ]
    most = max((max(block) - min(block) for block in lengths), default=0)
    return packing if most == 0 or model.pads_exactly(most) else EQUAL


def packing_of_study(model: Model, token_budget: int, encoded: Sequence[Encoded]) -> Packing:
    """The packing of `packing_for` on a GPU. On a CPU equal lengths: a kill loses less, and queries fill the passes anyway."""
    return EQUAL if model.device.type == "cpu" else packing_for(model, token_budget, encoded)


def plan_blocks(encoded: Sequence[Encoded], packing: Packing = EQUAL) -> list[Block]:
    """Blocks of neighbours in length, shortest first, with no more padding than `packing` allows.

    A pure function of its arguments. Texts that bring padding or further inputs of their own stay with their equals.
    """
    alike: dict[tuple[bool, bool, str, int], list[int]] = {}
    for index, item in enumerate(encoded):
        padded = item.pads is not None
        extra = "".join(
            f"-{name}" + "x".join(map(str, np.shape(values))) for name, values in item.extra
        )
        alone = len(item) if padded or extra or packing.least_filled == 1.0 else 0
        extra += f"-{len(item.options)}options" if item.options else ""
        alike.setdefault((item.token_type_ids is None, padded, extra, alone), []).append(index)
    blocks: dict[tuple[int, bool, bool, str, int], Block] = {}
    places: Counter[tuple[int, bool, bool, str]] = Counter()
    for (untyped, padded, extra, _), indices in alike.items():
        indices.sort(key=lambda index: len(encoded[index]))  # stable: equal lengths stay in order
        for run in _filled([len(encoded[index]) for index in indices], packing):
            length = len(encoded[indices[run.start]])
            key = length, untyped, padded, extra
            place = places[key]
            places[key] += 1
            name = f"{length:05d}-{place:04d}{'-untyped' if untyped else ''}{'-padded' * padded}{extra}"
            blocks[(*key, place)] = Block(name, tuple(indices[run.start : run.stop]))
    return [blocks[key] for key in sorted(blocks)]


def _filled(lengths: Sequence[int], packing: Packing) -> Iterator[range]:
    """Cuts ascending lengths into runs that fill a pass without too much padding."""
    start = tokens = 0
    for end, length in enumerate(lengths):
        width = (end + 1 - start) * length
        if end > start and (
            width > packing.tokens or tokens + length < packing.least_filled * width
        ):
            yield range(start, end)
            start, tokens = end, 0
        tokens += length
    if lengths:
        yield range(start, len(lengths))


def opened_blocks(
    references: References,
    encoded: Sequence[Encoded],
    target: Target,
    token_budget: int,
    settings: Sequence[Setting] = (),
    packing: Packing | None = None,
) -> "Iterator[tuple[Block, OpenBlock]]":
    """Opened blocks, one at a time, which together have every text once. The model must be frozen.

    `settings` are those that will be explained, where they are known: see `open_block`. Blocks are packed as
    `packing_for` allows unless another packing is given.
    """
    packing = packing or packing_for(references.model, token_budget, encoded)
    for block in plan_blocks(encoded, packing):
        items = [encoded[index] for index in block.indices]
        yield block, open_block(references, items, target, token_budget, settings)


def explain_texts(
    references: References,
    encoded: Sequence[Encoded],
    settings: Sequence[Setting],
    target: Target,
    token_budget: int,
    advance: Callable[[int], object] = lambda n_texts: None,
) -> list[list[AttributionMap]]:
    """The maps under each setting, in the order of the texts. The model must be frozen.

    `advance` is called after each block with the number of its texts.
    """
    maps: dict[tuple[str, int], AttributionMap] = {}
    for block, opened in opened_blocks(references, encoded, target, token_budget, settings):
        for key, of_block in opened.explain(settings).items():
            maps |= {
                (key, index): map_ for index, map_ in zip(block.indices, of_block, strict=True)
            }
        advance(len(block.indices))
    return [[maps[setting.id, index] for index in range(len(encoded))] for setting in settings]


@dataclass(frozen=True)
class Piece:
    """Blocks that are committed together, under the name of the first."""

    name: str
    blocks: tuple[Block, ...]

    @property
    def indices(self) -> tuple[int, ...]:
        """Places of its examples in the input."""
        return tuple(index for block in self.blocks for index in block.indices)


def plan_pieces(blocks: Sequence[Block], most: int = MOST_PIECES) -> list[Piece]:
    """At most so many pieces of neighbouring blocks, so that a large plan is not a million small files."""
    size = max(1, -(-len(blocks) // most))
    groups = [tuple(blocks[start : start + size]) for start in range(0, len(blocks), size)]
    return [Piece(group[0].name, group) for group in groups]


@dataclass
class OpenBlock:
    """A block while it is worked on: one clean pass and one cache of removal answers serve everything.

    The model must be frozen. `probe(removal)` gives the same probe each time, so that leave-one-out and the
    curves of all settings ask each distinct question once.
    """

    references: References
    batch: Batch
    target: Target
    token_budget: int
    outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.model = self.references.model
        # The budget counts tokens of the text; the model may read several times as many for a row.
        width, read = self.batch.input_ids.shape[1], self.batch.tokens_of_a_row
        self.token_budget = self.token_budget * width // read
        self.task = task_of(self.model)
        self._gradients: dict[str, Tensor] = {}
        if not self._taken_with_gradients():
            self._choose(clean_logits(self.model, self.batch))
        logits = self.logits.double()
        self.probabilities = logits.sigmoid() if self.model.multi_label else logits.softmax(-1)
        self._probes: dict[str, CachingProbe] = {}
        self._blurring: BlurringProbe | None = None

    def _choose(self, logits: Float[Tensor, "B C"]) -> None:
        """Fixes the class that is explained, with a second column where one is explained against another."""
        self.logits = logits.detach()
        self.explained_classes = targets.choose(
            self.target, self.logits, self.batch, partial(self.task.class_of, self.model)
        )
        self.targets = (
            self.explained_classes
            if self.explained_classes.ndim == 1
            else self.explained_classes[:, 0]
        )

    def _taken_with_gradients(self) -> bool:
        """Whether one pass gave the logits and, of each of `outputs`, the gradient at the input.

        Not where the model computes in half precision, whose logits come from ids alone, or has a criterion of its own,
        nor where the pass does not fit in memory.
        """
        half = torch.finfo(self.model.dtype).bits < torch.finfo(torch.float32).bits
        if not self.outputs or half or self.model.criterion is not None:
            return False
        leaf = embed_batch(self.model, self.batch).detach().requires_grad_()
        rows = on_device(range(len(self.batch)), leaf.device, torch.long)
        try:
            with torch.enable_grad():
                logits = logits_fn(self.model, self.batch, short=True)(leaf, rows)
                self._choose(logits)
                for output in self.outputs:
                    score = output_of(self.model, output)(logits, self.explained_classes).sum()
                    last = output == self.outputs[-1]
                    (gradient,) = torch.autograd.grad(score, leaf, retain_graph=not last)
                    self._gradients[output] = gradient
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self._gradients.clear()
            return False
        return True

    @property
    def predicted(self) -> Int[Tensor, " B"]:
        """The class with the largest logit."""
        return self.logits.argmax(-1)

    def label(self, row: int, *classes: int) -> str:
        """The name of a text's class; "A - B" for a class against another."""
        item, n_classes = self.batch.encoded[row], self.logits.shape[-1]
        return " - ".join(
            self.task.name_of(self.model, class_, item, n_classes) for class_ in classes
        )

    def probability(self, classes: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Each example's probability of the given class on the full text."""
        return self.probabilities.gather(1, classes[:, None])[:, 0]

    def probe(self, removal: str) -> CachingProbe:
        """The removal operator's probe of this block."""
        if removal not in self._probes:
            self._probes[removal] = removal_probe(
                self.references, self.batch, removal, self.token_budget
            )
        return self._probes[removal]

    def unfit(self, removal: str) -> str | None:
        """Why the removal operator cannot be used on this block's texts; None where it can."""
        try:
            self.probe(removal)
        except InputError as error:
            return str(error)
        return None

    def blurring(
        self, row: int, stays: Float[np.ndarray, " T"], n_draws: int, name: str
    ) -> Float[np.ndarray, "n C"]:
        """Logits of draws of one example in which numbers of embeddings are 0 (see `BlurringProbe`)."""
        if self._blurring is None:
            self._blurring = BlurringProbe(self.references, self.batch, self.token_budget)
        return self._blurring(row, stays, n_draws, name)

    def context(self, output: str, seed: int) -> Context:
        """The context that methods are called with."""
        return Context(
            self.references,
            self.batch,
            self.explained_classes,
            self.logits,
            output,
            seed,
            self.token_budget,
            self.probe,
            self._gradients,
        )

    def explain(self, settings: Sequence[Setting]) -> dict[str, list[AttributionMap]]:
        """Maps of every setting, by setting id, in the order of the batch."""
        attributions: dict[str, Attribution] = {}
        for context, group in self._groups(settings):
            attributions |= explain(context, group)
        numbers = on_host(attributions)
        return {setting.id: self._maps(setting, numbers[setting.id]) for setting in settings}

    def families(self, settings: Sequence[Setting]) -> list[Family]:
        """The points that these settings share, before any gradient at them is taken."""
        groups = self._groups(settings)
        return [family for context, group in groups for family in plan(context, group).families]

    def _groups(self, settings: Sequence[Setting]) -> list[tuple[Context, list[Setting]]]:
        """Settings that differentiate the same score under the same seed."""
        groups: dict[tuple[str, int], list[Setting]] = {}
        for setting in settings:
            groups.setdefault((setting.output, setting.seed), []).append(setting)
        return [(self.context(output, seed), group) for (output, seed), group in groups.items()]

    @cached_property
    def _explained(self) -> list[tuple[int, int | None, str, float]]:
        """Of each example: the class, the class it is explained against, the name of both, and its probability."""
        classes = self.explained_classes.reshape(len(self.batch), -1).tolist()
        probability = self.probability(self.targets).tolist()
        return [
            (pair[0], pair[1] if len(pair) > 1 else None, self.label(row, *pair), probability[row])
            for row, pair in enumerate(classes)
        ]

    def _maps(self, setting: Setting, numbers: Numbers) -> list[AttributionMap]:
        name = "described", setting.name, setting.id
        parts = self.references.cache.get(BACKWARD_PARTS)
        flat = self.references.once(name, lambda: described(setting, parts))
        return [
            AttributionMap(
                encoded=item,
                setting=flat,
                target=target,
                label=label,
                probability=probability,
                against=against,
                **numbers.of(row, len(item)),
            )
            for row, (item, (target, against, label, probability)) in enumerate(
                zip(self.batch.encoded, self._explained, strict=True)
            )
        ]


def open_block(
    references: References,
    encoded: Sequence[Encoded],
    target: Target,
    token_budget: int,
    settings: Sequence[Setting] = (),
) -> OpenBlock:
    """The block of these examples, padded where their lengths differ.

    `settings` are those that will be explained, where they are known: if one needs the gradient at the input and nothing
    else, the pass that chooses the class takes it too.
    """
    outputs = [
        setting.output
        for setting in settings
        if setting.backend == "native"
        and about_of(setting.method).at_input
        and rule_of(setting) == PLAIN
    ]
    batch = collate(references.model, encoded)
    return OpenBlock(references, batch, target, token_budget, tuple(dict.fromkeys(outputs)))
