"""Attention as an explanation: how far the token that is read out attends to the others.

These are contestants because they are what many look at first; none is a function of the gradient at the input, and
the first two know nothing of the class. All are read off one row of a matrix [T T] over tokens: `query` says which.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods.base import method
from saliency_bench.core.errors import InputError
from saliency_bench.core.tensors import Attribution
from saliency_bench.models.attentions import recorded_attentions
from saliency_bench.models.layers import opened_layers

#: What a sum of distances is not divided by.
TINY = torch.finfo(torch.float64).tiny

Layers = Sequence[Float[Tensor, "R H T T"]]

#: What each token is to each other one, from the layers' attention and the scores of the same pass.
Relevance = Callable[[Layers, Float[Tensor, " R"]], Float[Tensor, "R T T"]]


@method("token", label="Attention", color="#D55E00", signed=False, explains_output=False)
def raw_attention(ctx: Context, *, query: str) -> Attribution:
    """The last layer's attention from the query token, averaged over heads (what BertViz shows; Vig 2019)."""
    return _attribution(ctx, query, lambda layers, _: layers[-1].double().mean(1))


@method(
    "token",
    label="Attention rollout",
    family="raw_attention",
    color="#A63C00",
    signed=False,
    explains_output=False,
)
def attention_rollout(ctx: Context, *, query: str) -> Attribution:
    """Π_l (0.5 W_l + 0.5 I), rows renormalised, from the query token (Abnar & Zuidema 2020, section 3, eq. 1).

    W_l is the mean over heads, and the last layer stands leftmost. The half of I is the residual connection; it
    leaves the query's own score at 2^-L at least.
    """
    return _attribution(ctx, query, lambda layers, _: _rollout(layers))


@method(
    "token",
    label="Gradient-weighted attention",
    family="raw_attention",
    color="#F4A582",
    signed=False,
    own_gradient="it takes the gradient with respect to attention weights, of which a rule says nothing",
)
def gradient_attention(ctx: Context, *, query: str) -> Attribution:
    """R ← R + E_heads (∇A ⊙ A)⁺ R over the layers, from R = I (Chefer, Gur & Wolf 2021 ICCV, eqs. 5-6).

    ∇A is the gradient of the explained score with respect to a layer's attention weights, in one backward pass. The
    query's own score keeps the 1 it starts from: of interest only where the query is no special token.
    """
    return _attribution(ctx, query, _relevance, n_gradients=1)


@method("token", label="Value zeroing", family="raw_attention", signed=False, explains_output=False)
def value_zeroing(ctx: Context, *, query: str) -> Attribution:
    """Π_l C_l from the query token; C_l[i, j] is how far token i moves in layer l without the value of j.

    C_l[i, j] = 1 - cos(x̃_i without v_j, x̃_i), rows divided by their sums (Mohebbi et al. 2023, section 3): x̃ is what
    the whole layer gives of the clean states below it, v_j the value vectors of j in all heads. Layers are multiplied as
    in attention rollout, the last leftmost, but with no half of I, since a layer has its residual connection in it. A row
    that nothing moves keeps its token. It costs 1 + T forward rows for a text of T tokens, special ones included.
    """
    ctx.batch.require_text_alone()
    model, batch, width = ctx.references.model, ctx.batch, ctx.embeddings.shape[1]
    device = ctx.embeddings.device
    at_once = ctx.references.budget(ctx.token_budget).rows(width)

    def run(rows: Int[Tensor, " R"]) -> Callable[[], object]:
        return lambda: ctx.score(ctx.embeddings[rows], rows)

    examples = torch.arange(len(batch), device=device)
    found = []
    with torch.no_grad(), opened_layers(model, run(examples[:1])) as layers:
        for row in examples:
            states = [state[0] for state in layers.states(run(row[None]))]
            mixing = torch.zeros(len(states) - 1, width, width, dtype=torch.float64, device=device)
            for tokens in torch.split(
                torch.arange(batch.lengths[int(row)], device=device), at_once
            ):
                rows = row.expand(len(tokens))
                stays = torch.arange(width, device=device) != tokens[:, None]
                given = [state.expand(len(tokens), -1, -1) for state in states]
                for layer, moved in enumerate(layers.without_values(run(rows), stays, given)):
                    mixing[layer][:, tokens] = _distance(moved, states[layer + 1]).T
            found.append(_row(ctx, query, _mixed(mixing), row[None]) * batch.mask[row])
    return Attribution(torch.cat(found), n_gradients=0)


def _distance(moved: Float[Tensor, "R T D"], plain: Float[Tensor, "T D"]) -> Float[Tensor, "R T"]:
    """1 - cos, from the difference of unit vectors, so that small angles keep their digits."""
    one, other = (functional.normalize(side.double(), dim=-1) for side in (moved, plain))
    return (one - other).square().sum(-1) / 2


def _mixed(mixing: Float[Tensor, "L T T"]) -> Float[Tensor, "1 T T"]:
    total = torch.eye(mixing.shape[-1], dtype=mixing.dtype, device=mixing.device)
    for layer in mixing:
        sums = layer.sum(-1, keepdim=True)
        kept = torch.eye(len(layer)).to(layer)
        total = torch.where(sums == 0, kept, layer / sums.clamp_min(TINY)) @ total
    return total[None]


def _rollout(layers: Layers) -> Float[Tensor, "R T T"]:
    rollout = _identity(layers[0])
    for layer in layers:
        mixed = 0.5 * layer.double().mean(1) + 0.5 * _identity(layer)
        rollout = mixed / mixed.sum(-1, keepdim=True) @ rollout
    return rollout


def _relevance(layers: Layers, scores: Float[Tensor, " R"]) -> Float[Tensor, "R T T"]:
    relevance = _identity(layers[0])
    for layer, gradient in zip(layers, _gradients(layers, scores), strict=True):
        weighted = (gradient.double() * layer.detach().double()).clamp_min(0).mean(1)
        relevance = relevance + weighted @ relevance
    return relevance


def _gradients(layers: Layers, scores: Float[Tensor, " R"]) -> Layers:
    """∇A for every layer; rows are independent, so the gradient of their sum is each row's own."""
    found: list[Tensor | None] = [None]
    if all(layer.requires_grad for layer in layers):
        found = list(torch.autograd.grad(scores.sum(), list(layers), allow_unused=True))
    if any(one is None for one in found):
        raise InputError(
            "gradient_attention: expected the score to depend on the attention weights of every layer, but those "
            "that the model returns do not enter its output. Use attention_rollout."
        )
    return [one for one in found if one is not None]


def _identity(layer: Float[Tensor, "R H T T"]) -> Float[Tensor, "1 T T"]:
    return torch.eye(layer.shape[-1], dtype=torch.float64, device=layer.device)[None]


def _attribution(
    ctx: Context, query: str, relevance: Relevance, n_gradients: int = 0
) -> Attribution:
    """The query's row of each example's relevance, computed a token budget at a time.

    Where a task asks about a token, that token is the query, whatever else is said: another's row answers another
    question.
    """
    ctx.batch.require_text_alone()
    examples = torch.arange(len(ctx.batch), device=ctx.embeddings.device)
    rows_at_once = max(1, ctx.token_budget // ctx.embeddings.shape[1])
    found = []
    with recorded_attentions(ctx.references.model) as attentions:
        for rows in torch.split(examples, rows_at_once):
            # No weight asks for gradients, so it is the embeddings that make a graph.
            points = ctx.embeddings[rows].requires_grad_(n_gradients > 0)
            with torch.set_grad_enabled(n_gradients > 0):
                scores = ctx.score(points, rows)
            mask = ctx.batch.mask[rows]
            found.append(_row(ctx, query, relevance(attentions.take(), scores), rows) * mask)
    return Attribution(torch.cat(found), n_gradients)


def _row(
    ctx: Context, query: str, relevance: Float[Tensor, "R T T"], rows: Int[Tensor, " R"]
) -> Float[Tensor, "R T"]:
    asked = ctx.batch.positions
    if ctx.batch.boundaries is not None:  # the classes are the tokens of the text
        asked = ctx.target if ctx.target.ndim == 1 else ctx.target[:, 0]
    if asked is None:
        return QUERIES[query](relevance, ctx.batch.mask[rows])
    return relevance[torch.arange(len(rows), device=rows.device), asked.to(rows.device)[rows]]


#: Rows of [R T T] that are read, by name: [R T].
QUERIES: dict[
    str, Callable[[Float[Tensor, "R T T"], Bool[Tensor, "R T"]], Float[Tensor, "R T"]]
] = {
    "first": lambda relevance, mask: relevance[:, 0],
    "last": lambda relevance, mask: relevance[
        torch.arange(len(mask), device=mask.device), mask.sum(1) - 1
    ],
    "mean": lambda relevance, mask: (relevance * mask[:, :, None]).sum(1) / mask.sum(1)[:, None],
}
