"""Where paths start: the embeddings that stand for "nothing here", for every token of a batch.

One vector for all places: mask, pad, unk, zero, mean, or the user's own (`vector:`). Else:

- `uniform`: random vectors, every dimension uniform with the mean and the standard deviation that it has in the
  embedding matrix (mean ± √3 std; the uniform baseline of Sturmfels, Lundberg & Lee 2020, at the scale of the model).
- `max_entropy`: the convex combination of the vocabulary at which the model knows least (Tan 2022, arXiv 2204.05948),
  the same at every attributable token and searched for with the special tokens in their places.
- `text:SOME WORDS`: these words, over and over or cut.

Adding one is one function in a file of this folder, registered by `@BASELINES.register` (or in an installed package,
entry point group `saliency_bench.baselines`): of a context and the places that get it, to one vector for all, one for
each text [B 1 D] or one for each token [B T D].

References of random paths are drawn from `references.REFERENCES`, at the text's own length.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saliency_bench.attribution.points import RandomStarts
from saliency_bench.core.errors import InputError, unknown
from saliency_bench.core.random import generator_for
from saliency_bench.core.registry import BASELINES
from saliency_bench.core.tensors import on_device, sent
from saliency_bench.models import references as model_references
from saliency_bench.models.contents import TEXT, VECTOR
from saliency_bench.models.extra import Extra, tensors_of
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import FRAME_TOKENS
from saliency_bench.models.tasks.scores import logits_fn

if TYPE_CHECKING:
    from saliency_bench.attribution.context import Context

#: Vectors [R T D] of rows: of a context, each row's example, and each row's stream.
RowsDraw = Callable[["Context", Sequence[int], Sequence[torch.Generator]], Float[Tensor, "R T D"]]

#: The search for the largest entropy ends with this share of log C, or after so many gradients. On the bundled model
#: it takes 1 to 9 for each frame (5 in the middle; 229 for 200 sentences of 48 lengths) and always gets there. They
#: count for no map, since equal frames share them.
ENOUGH = 0.999
MOST_GRADIENTS = 100

#: Below this share of log C the user is told.
LITTLE = 0.9

#: The length of the first step, as the standard deviation of the change of log-weights; doubled where it was good.
FIRST_STEP = 0.25
LAST_STEP = 1e-6


def embeddings(ctx: "Context", baseline: str, moved: Bool[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
    """The named baseline at every token; only those that are `moved` are meant to have it."""
    if baseline.startswith(TEXT):
        return _words(ctx, baseline)
    if baseline.startswith(VECTOR):
        return ctx.references.vector(baseline).expand_as(ctx.embeddings)
    start: Tensor = BASELINES[baseline](ctx, moved)
    return start.expand_as(ctx.embeddings)


def _token(name: str, ctx: "Context", moved: Bool[Tensor, "B T"]) -> Float[Tensor, "..."]:
    return ctx.references.replacement(name, ctx.batch, ctx.embeddings, moved)


for _name in model_references.NAMES:
    BASELINES.add(_name, partial(_token, _name))


@torch.no_grad()
def diagnostics(
    ctx: "Context", baseline: str, special_tokens: str = "keep"
) -> Float[np.ndarray, " B"]:
    """The entropy of the model's prediction at the start of each example's path, as a share of the largest, log C.

    A baseline that says nothing is near 1 (Tan 2022). It can be asked of any baseline, and takes one forward pass.
    """
    start = ctx.path(baseline, special_tokens).reference
    rows = torch.arange(len(ctx.batch), device=start.device)
    logits = logits_fn(ctx.references.model, ctx.batch)(start, rows)
    return np.asarray(_share(logits).cpu())


def random_reference(ctx: "Context", references: str, special_tokens: str) -> RandomStarts:
    """Random references at the text's own length; tokens that do not move stay as they are.

    Each draw has a stream of its own, which belongs to the seed, the text and the number of the draw, and to nothing
    else.
    """
    moved = _moved(ctx, special_tokens)
    name = model_references.identity(references)
    draw = _random_vectors if references == "uniform" else _random_tokens(ctx, references, moved)

    @lru_cache(maxsize=1)  # gradients and displacements of a chunk start at the same references
    def rows(examples: tuple[int, ...], numbers: tuple[int, ...]) -> Float[Tensor, "R T D"]:
        streams = [
            generator_for("cpu", "reference", name, ctx.seed, ctx.hashes[example], number)
            for example, number in zip(examples, numbers, strict=True)
        ]
        away = draw(ctx, examples, streams)
        index = on_device(examples, moved.device, torch.long)
        return torch.where(moved[index, :, None], away, ctx.embeddings[index])

    return RandomStarts(lambda examples, numbers: rows(tuple(examples), tuple(numbers)))


def _moved(ctx: "Context", special_tokens: str) -> Bool[Tensor, "B T"]:
    moved = {"keep": ctx.batch.attributable, "replace": ctx.batch.mask}
    if special_tokens not in moved:
        raise unknown("baseline_special_tokens", special_tokens, list(moved))
    return moved[special_tokens]


def _random_tokens(ctx: "Context", references: str, moved: Bool[Tensor, "B T"]) -> RowsDraw:
    """Single tokens of the vocabulary, each as likely, or a window of a text; all rows embedded in one call.

    They fill the places that move in order, so that a window of a text stays one.
    """
    corpus = ctx.references.corpus(references)
    places = [places_of_row.nonzero()[:, 0] for places_of_row in moved.cpu()]
    longest = max(map(len, places))
    model_references.require_length(len(corpus), longest, f"references={references}")
    pick = model_references.tokens if references == "vocabulary" else model_references.window

    def draw(
        ctx: "Context", examples: Sequence[int], streams: Sequence[torch.Generator]
    ) -> Float[Tensor, "R T D"]:
        ids = torch.zeros(len(examples), moved.shape[1], dtype=torch.long)
        for row, (example, stream) in enumerate(zip(examples, streams, strict=True)):
            item, places_of_row = ctx.batch.encoded[example], places[example]
            ids[row, : len(item)] = torch.tensor(item.input_ids)
            ids[row, places_of_row] = pick(corpus, len(places_of_row), stream)
        return model_references.embed_batch(
            ctx.references.model,
            ctx.batch,
            sent(ids, moved.device),
            on_device(examples, moved.device, torch.long),
        )

    return draw


def _random_vectors(
    ctx: "Context", examples: Sequence[int], streams: Sequence[torch.Generator]
) -> Float[Tensor, "R T D"]:
    """For each row a uniform baseline of its own: a vector for every token, whether it moves or not."""
    drawn = torch.zeros(len(examples), *ctx.embeddings.shape[1:])
    for row, (example, stream) in enumerate(zip(examples, streams, strict=True)):
        length = ctx.batch.lengths[example]
        drawn[row, :length] = torch.rand(length, drawn.shape[2], generator=stream)
    mean, std = ctx.references.spread
    half = math.sqrt(3) * std  # a uniform number of standard deviation 1 lies between ±√3
    dtype = torch.promote_types(ctx.embeddings.dtype, torch.float32)
    low, width = (mean - half).to(dtype), (2 * half).to(dtype)
    return (low + width * sent(drawn.to(dtype), low.device)).to(ctx.embeddings.dtype)


@BASELINES.register
def uniform(ctx: "Context", moved: Bool[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
    """Random vectors; those of a text belong to the text and the seed."""
    streams = [generator_for("cpu", "baseline", "uniform", ctx.seed, name) for name in ctx.hashes]
    return _random_vectors(ctx, range(len(ctx.batch)), streams)


def _words(ctx: "Context", baseline: str) -> Float[Tensor, "B T D"]:
    """The words at the attributable tokens, from the first; a special token that moves gets the word before it."""
    words = ctx.references.words(baseline).to(ctx.embeddings.device)
    order = (ctx.batch.attributable.cumsum(1) - 1).clamp_min(0)
    return model_references.embed_batch(ctx.references.model, ctx.batch, words[order % len(words)])


@dataclass(frozen=True)
class Frame:
    """What a text is without its words: its length, what frames it, and which tokens are attributable.

    `ids` hold the same token at every attributable place, except for tokens by which a model finds the end or the
    padding of a text.
    """

    ids: tuple[int, ...]
    types: tuple[int, ...] | None
    attributable: tuple[bool, ...]
    attended: tuple[bool, ...]
    extra: Extra = ()


@dataclass(frozen=True)
class LeastKnown:
    """The vector at which a frame's prediction has the largest entropy that was found, as a share of log C."""

    vector: Float[Tensor, " D"]
    share: float
    n_gradients: int


@BASELINES.register
def max_entropy(ctx: "Context", moved: Bool[Tensor, "B T"]) -> Float[Tensor, "B 1 D"]:
    """The baseline of the largest entropy, the same vector at every token of a text; equal frames share it."""
    vectors_of = ctx.references.cache
    vectors = []
    for frame in _frames(ctx):
        if frame not in vectors_of:
            vectors_of[frame] = least_known(ctx.references, frame)
            _warn_once(ctx.references, frame)
        vectors.append(vectors_of[frame].vector)
    return torch.stack(vectors)[:, None, :]


def _warn_once(references: References, frame: Frame) -> None:
    """Tells of the first frame at which the model still knows something; `diagnostics` tells of all."""
    share = references.cache[frame].share
    if share >= LITTLE or references.has_warned:
        return
    references.has_warned = True
    warnings.warn(
        f"baseline=max_entropy: for a text of {len(frame.ids)} tokens no mixture of the vocabulary was found at which "
        f"{references.model.name} has more than {share:.2f} of the largest entropy; expected {LITTLE} or more. "
        "Attributions are relative to a prediction that is not uninformed: compare baseline=mask.",
        stacklevel=2,
    )


def _frames(ctx: "Context") -> list[Frame]:
    batch = ctx.batch
    kept = _kept_ids(ctx)
    ordinary = ctx.references.ordinary_tokens.tolist()
    word = next((token for token in ordinary if token not in kept), 0)
    types = None if batch.token_type_ids is None else batch.token_type_ids.tolist()
    frames = []
    for row, (item, length) in enumerate(zip(batch.encoded, batch.lengths, strict=True)):
        words = tuple(not special for special in item.special)
        ids = (
            word if is_word and token not in kept else token
            for token, is_word in zip(item.input_ids, words, strict=True)
        )
        frames.append(
            Frame(
                tuple(ids),
                None if types is None else tuple(types[row][:length]),
                words,
                item.attended,
                item.extra,
            )
        )
    return frames


def _kept_ids(ctx: "Context") -> set[int]:
    """Tokens that mean more to the model than their embedding: RoBERTa counts positions past pads, BART pools at ends.

    Without a tokenizer they may be among the attributable ones.
    """
    model = ctx.references.model
    kept = set(getattr(model.tokenizer, "all_special_ids", ()))
    for name in FRAME_TOKENS:
        ids = model.fact(f"{name}_token_id")
        kept |= set(ids) if isinstance(ids, list | tuple) else {ids}
    return kept - {None}


@dataclass(frozen=True)
class Mixture:
    """A convex combination of the vocabulary's embeddings, softmax(`logits`), as a frame's baseline.

    `slope` is the gradient of `share` with respect to the weights, minus its mean under them: the natural gradient
    with respect to `logits`, in the metric of `_dot`.
    """

    logits: Float[Tensor, " V"]
    weights: Float[Tensor, " V"]
    vector: Float[Tensor, " D"]
    share: float
    slope: Float[Tensor, " V"]


def least_known(references: References, frame: Frame) -> LeastKnown:
    """The largest entropy of a frame's prediction over convex combinations of the vocabulary (Tan 2022).

    Conjugate natural gradients from the vocabulary's mean: a step that helps doubles the next one, a step that does
    not is cut to a quarter. Nothing is drawn at random and no other frame has a say. What is found may be a local
    maximum, and not every model can be brought to know nothing: `share` says how far it came.

    Raises:
        InputError: the model has one class, or no embedding matrix.
    """
    matrix = references.matrix()
    matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    start = torch.zeros(len(matrix), dtype=torch.float64, device=matrix.device)
    here = _mixture(references, frame, matrix, start)
    way, step, spent = here.slope, FIRST_STEP, 1
    while here.share < ENOUGH and spent < MOST_GRADIENTS and step > LAST_STEP:
        length = _dot(here, way, way).sqrt()
        if not length > 0:  # no mixture nearby is better
            break
        there = _mixture(references, frame, matrix, here.logits + step * way / length)
        spent += 1
        if there.share > here.share:
            way, here, step = _conjugate(here, there, way), there, 2 * step
        elif way is not here.slope and step < math.sqrt(LAST_STEP):
            way, step = here.slope, FIRST_STEP
        else:
            step /= 4
    return LeastKnown(here.vector, here.share, spent)


def _conjugate(here: Mixture, there: Mixture, way: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
    """The next direction (Polak & Ribière 1969, never against the slope)."""
    change = _dot(there, there.slope, there.slope - here.slope)
    turned = there.slope + way * (change / _dot(there, here.slope, here.slope)).clamp_min(0)
    return turned if _dot(there, turned, there.slope) > 0 else there.slope


def _dot(at: Mixture, a: Float[Tensor, " V"], b: Float[Tensor, " V"]) -> Float[Tensor, ""]:
    """The Fisher metric of softmax weights."""
    return at.weights @ (a * b)


def _mixture(
    references: References, frame: Frame, matrix: Float[Tensor, "V D"], logits: Float[Tensor, " V"]
) -> Mixture:
    """One gradient of a frame alone."""
    model, device = references.model, matrix.device
    weights = logits.softmax(0)
    ids = torch.tensor([frame.ids], device=device)
    types = None if frame.types is None else torch.tensor([frame.types], device=device)
    moved = torch.tensor([frame.attributable], device=device)[:, :, None]
    mask = None if all(frame.attended) else torch.tensor([frame.attended], device=device)
    extra = tensors_of(model, [frame.extra], [len(frame.ids)], len(frame.ids))
    around = model.embed(ids, mask, types, extra=extra)
    vector = (weights.to(matrix.dtype) @ matrix).to(around.dtype).requires_grad_()
    with torch.enable_grad():
        out = model.output(ids, mask, types, torch.where(moved, vector, around), extra=extra)
        if model.per_token:
            raise InputError(
                f"baseline=max_entropy is of one prediction for a text, and {model.task} has one for every token: "
                "use another baseline"
            )
        share = _share(out)[0]
        (gradient,) = torch.autograd.grad(share, vector)
    slope = (matrix @ gradient.to(matrix.dtype)).double()
    return Mixture(logits, weights, vector.detach(), share.item(), slope - weights @ slope)


def _share(logits: Float[Tensor, "R C"]) -> Float[Tensor, " R"]:
    """The entropy of each prediction over log C."""
    n_classes = logits.shape[-1]
    if n_classes < 2:
        raise InputError(
            "the entropy of a prediction needs at least 2 classes, and this model has 1: use another baseline"
        )
    logs = logits.double().log_softmax(-1)
    return -(logs.exp() * logs).sum(-1) / math.log(n_classes)
