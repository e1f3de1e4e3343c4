"""Baselines: embeddings that stand for the absence of a token, and the start of the paths that methods integrate over.

The baselines mask, pad, unk, zero, mean and the user's own vector (`vector:FILE`) have one vector for all tokens. Others:

- `uniform`: random vectors. Each dimension is uniform, with the mean and the standard deviation that it has in the
  embedding matrix (mean ± √3 std; the uniform baseline of Sturmfels, Lundberg & Lee 2020, at the scale of the model).
- `max_entropy`: the convex combination of the vocabulary for which the model's prediction has the largest entropy (Tan
  2022, arXiv 2204.05948). It is the same at every attributable token; special tokens keep their places in the search.
- `text:SOME WORDS`: these words, repeated or cut to the length of the text (`Context.baseline_vectors`).

To add a baseline, write one function in a file of this folder and register it by `@BASELINES.register` (in an installed
package: entry point group `saliency_bench.baselines`). It takes a context and a mask [B T] of the tokens to replace, and
returns one vector for all [D], one for each text [B 1 D] or one for each token [B T D].

Random references of path methods are drawn from `references.REFERENCES`, at the text's own length.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.points import RandomReference
from saliency_bench.core.errors import InputError, counted
from saliency_bench.core.random import generator_for
from saliency_bench.core.registry import BASELINES
from saliency_bench.core.tensors import on_device, sent
from saliency_bench.models import contents
from saliency_bench.models import references as model_references
from saliency_bench.models.extra import Extra, tensors_of
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import FRAME_TOKENS
from saliency_bench.models.tasks.scores import logits_fn

#: Draws vectors [R T D] for rows, from a context, the example of each row and the random stream of each row.
RowsDraw = Callable[[Context, Sequence[int], Sequence[torch.Generator]], Float[Tensor, "R T D"]]

#: The search for the largest entropy ends at this share of log C, or after this many gradients. On the bundled model it
#: takes 1 to 9 gradients for each frame (the median is 5; 200 sentences of 48 lengths take 229) and always reaches the
#: share. These gradients are not counted in the cost of a map, since equal frames share them.
ENOUGH = 0.999
MOST_GRADIENTS = 100

#: Below this share of log C a warning is given.
LITTLE = 0.9

#: The length of the first step, as the standard deviation of the change of the log-weights, and the smallest one.
FIRST_STEP = 0.25
LAST_STEP = 1e-6


def _token(name: str, ctx: Context, moved: Bool[Tensor, "B T"]) -> Float[Tensor, "..."]:
    return ctx.references.replacement(name, ctx.batch, ctx.embeddings, moved)


for _name in model_references.NAMES:
    BASELINES.add(_name, partial(_token, _name))


@torch.no_grad()
def diagnostics(
    ctx: Context, baseline: str, special_tokens: str = "keep"
) -> Float[np.ndarray, " B"]:
    """The entropy of the model's prediction at the start of each example's path, divided by its maximum log C.

    An uninformative baseline has a value near 1 (Tan 2022). The function works for any baseline, and takes one forward
    pass.

    Raises:
        InputError: the model has one class.
    """
    start = ctx.path(baseline, special_tokens).reference
    rows = torch.arange(len(ctx.batch), device=start.device)
    logits = logits_fn(ctx.references.model, ctx.batch)(start, rows)
    return np.asarray(_share(logits).cpu())


def random_reference(ctx: Context, references: str, special_tokens: str) -> RandomReference:
    """Random references at the text's own length; tokens that do not move stay as they are.

    Each draw has its own random stream, which depends only on the seed, the text and the number of the draw.

    Args:
        ctx: the batch.
        references: a name in `references.REFERENCES`, or file:PATH.
        special_tokens: see `Context.moved`.

    Raises:
        InputError: the texts of a file are shorter than the longest text.
    """
    moved = ctx.moved(special_tokens)
    name = contents.identity(references)
    draw = _random_vectors if references == "uniform" else _random_tokens(ctx, references, moved)

    @lru_cache(maxsize=1)  # gradients and displacements of a chunk start at the same references
    def rows(examples: tuple[int, ...], numbers: tuple[int, ...]) -> Float[Tensor, "R T D"]:
        streams = [
            generator_for("cpu", "reference", name, ctx.seed, ctx.hashes[example], number)
            for example, number in zip(examples, numbers, strict=True)
        ]
        vectors = draw(ctx, examples, streams)
        index = on_device(examples, moved.device, torch.long)
        return torch.where(moved[index, :, None], vectors, ctx.embeddings[index])

    return lambda examples, numbers: rows(tuple(examples), tuple(numbers))


def _random_tokens(ctx: Context, references: str, moved: Bool[Tensor, "B T"]) -> RowsDraw:
    """Draws independent tokens of the vocabulary or a window of a text, and embeds all rows in one call.

    The tokens fill the places that move in order, so that a window of a text keeps its order.
    """
    corpus = ctx.references.corpus(references)
    places = [places_of_row.nonzero()[:, 0] for places_of_row in moved.cpu()]
    longest = max(map(len, places))
    contents.require_length(len(corpus), longest, f"references={references}")
    pick = contents.draw_tokens if references == "vocabulary" else contents.draw_window

    def draw(
        ctx: Context, examples: Sequence[int], streams: Sequence[torch.Generator]
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
    ctx: Context, examples: Sequence[int], streams: Sequence[torch.Generator]
) -> Float[Tensor, "R T D"]:
    """The uniform baseline of each row: a random vector for every token, whether it moves or not."""
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
def uniform(ctx: Context, moved: Bool[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
    """Random vectors, which depend only on the text and the seed."""
    streams = [generator_for("cpu", "baseline", "uniform", ctx.seed, name) for name in ctx.hashes]
    return _random_vectors(ctx, range(len(ctx.batch)), streams)


@dataclass(frozen=True)
class Frame:
    """A text without its words: its length, its special tokens, and which tokens are attributable.

    `ids` holds the same token at every attributable place, except for tokens by which a model finds the end or the
    padding of a text.
    """

    ids: tuple[int, ...]
    types: tuple[int, ...] | None
    attributable: tuple[bool, ...]
    attended: tuple[bool, ...]
    extra: Extra = ()


@dataclass(frozen=True)
class EntropyMaximum:
    """The vector for which a frame's prediction has the largest entropy that the search reached.

    `share` is this entropy divided by log C; `n_gradients` is the cost of the search.
    """

    vector: Float[Tensor, " D"]
    share: float
    n_gradients: int


@BASELINES.register
def max_entropy(ctx: Context, moved: Bool[Tensor, "B T"]) -> Float[Tensor, "B 1 D"]:
    """The vector for which the prediction has the largest entropy, the same at every token of a text."""
    maxima = ctx.references.cache  # equal frames share a vector
    vectors = []
    for frame in _frames(ctx):
        if frame not in maxima:
            maxima[frame] = entropy_maximum(ctx.references, frame)
            _warn_once(ctx.references, frame, maxima[frame].share)
        vectors.append(maxima[frame].vector)
    return torch.stack(vectors)[:, None, :]


def _warn_once(references: References, frame: Frame, share: float) -> None:
    """Warns of the first frame whose largest entropy is small; `diagnostics` has the values of all texts."""
    if share >= LITTLE or references.has_warned:
        return
    references.has_warned = True
    warnings.warn(
        f"baseline=max_entropy: for a text of {counted(len(frame.ids), 'token')} the search found no mixture of the vocabulary for "
        f"which the prediction of {references.model.name} has more than {share:.2f} of the largest entropy; expected "
        f"{LITTLE} or more. Attributions are relative to a prediction that is not uninformed: compare baseline=mask.",
        stacklevel=2,
    )


def _frames(ctx: Context) -> list[Frame]:
    """The frame of each text of the batch."""
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


def _kept_ids(ctx: Context) -> set[int]:
    """Ids of tokens whose place the model uses: RoBERTa counts positions past pads, BART pools at the end token.

    Without a tokenizer they may be among the attributable tokens.
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


def entropy_maximum(references: References, frame: Frame) -> EntropyMaximum:
    """Maximises the entropy of a frame's prediction over convex combinations of the vocabulary (Tan 2022).

    The search takes conjugate natural gradients, starting from the mean of the vocabulary. The step is doubled after an
    improvement and cut to a quarter otherwise. The result is deterministic and does not depend on other frames. It may
    be a local maximum, and some models are certain at every mixture: `share` is the value that was reached.

    Raises:
        InputError: the model has one class, or no embedding matrix.
    """
    matrix = references.matrix()
    matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    start = torch.zeros(len(matrix), dtype=torch.float64, device=matrix.device)
    best = _mixture(references, frame, matrix, start)
    direction, step, n_gradients = best.slope, FIRST_STEP, 1
    while best.share < ENOUGH and n_gradients < MOST_GRADIENTS and step > LAST_STEP:
        length = _dot(best, direction, direction).sqrt()
        if not length > 0:  # no mixture nearby is better
            break
        trial = _mixture(references, frame, matrix, best.logits + step * direction / length)
        n_gradients += 1
        if trial.share > best.share:
            direction, best, step = _conjugate(best, trial, direction), trial, 2 * step
        elif direction is not best.slope and step < math.sqrt(LAST_STEP):
            direction, step = best.slope, FIRST_STEP
        else:
            step /= 4
    return EntropyMaximum(best.vector, best.share, n_gradients)


def _conjugate(
    before: Mixture, after: Mixture, direction: Float[Tensor, " V"]
) -> Float[Tensor, " V"]:
    """The next direction (Polak & Ribière 1969, never against the slope)."""
    change = _dot(after, after.slope, after.slope - before.slope)
    turned = after.slope + direction * (change / _dot(after, before.slope, before.slope)).clamp_min(
        0
    )
    return turned if _dot(after, turned, after.slope) > 0 else after.slope


def _dot(mixture: Mixture, a: Float[Tensor, " V"], b: Float[Tensor, " V"]) -> Float[Tensor, ""]:
    """The dot product of two directions in the Fisher metric of softmax weights."""
    return mixture.weights @ (a * b)


def _mixture(
    references: References, frame: Frame, matrix: Float[Tensor, "V D"], logits: Float[Tensor, " V"]
) -> Mixture:
    """The mixture of these log-weights with its entropy and slope, by one gradient."""
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
                f"baseline=max_entropy needs one prediction for a text, and {model.task} has one for every token: use "
                "another baseline"
            )
        share = _share(out)[0]
        (gradient,) = torch.autograd.grad(share, vector)
    slope = (matrix @ gradient.to(matrix.dtype)).double()
    return Mixture(logits, weights, vector.detach(), share.item(), slope - weights @ slope)


def _share(logits: Float[Tensor, "R C"]) -> Float[Tensor, " R"]:
    """The entropy of each prediction divided by log C.

    Raises:
        InputError: there is one class.
    """
    n_classes = logits.shape[-1]
    if n_classes < 2:
        raise InputError(
            "the entropy of a prediction needs at least 2 classes, and this model has 1: use another baseline"
        )
    logs = logits.double().log_softmax(-1)
    return -(logs.exp() * logs).sum(-1) / math.log(n_classes)
