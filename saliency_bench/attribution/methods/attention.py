"""Attention as an explanation: how far the token that is read out attends to the others.

These are contestants because they are what many look at first; none is a function of the gradient at the input, and
the first two know nothing of the class. All are read off one row of a matrix [T T] over tokens: `query` says which.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods.base import method
from saliency_bench.core.errors import InputError
from saliency_bench.core.tensors import Attribution
from saliency_bench.models.attentions import recorded_attentions

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
