"""Methods that explain by attention: by how much the token that is read out attends to the others.

They are included because they are widely used. None is a function of the gradient at the input, and only
`gradient_attention` depends on the class. The scores are one row of a matrix [T T] over tokens, which `query` selects.
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

#: The smallest divisor of a sum of distances, so that nothing is divided by 0.
TINY = torch.finfo(torch.float64).tiny

Layers = Sequence[Float[Tensor, "R H T T"]]

#: The relevance of each token for each other one, from the layers' attention and the scores of the same pass.
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

    W_l is the mean over heads, and the last layer is leftmost in the product. The term 0.5 I stands for the residual
    connection; because of it the query's own score is at least 2^-L.
    """
    return _attribution(ctx, query, lambda layers, _: _rollout(layers))


@method(
    "token",
    label="Gradient-weighted attention",
    family="raw_attention",
    color="#F4A582",
    signed=False,
    no_rule="it takes the gradient with respect to attention weights, for which rules are not defined",
)
def gradient_attention(ctx: Context, *, query: str) -> Attribution:
    """R ← R + E_heads (∇A ⊙ A)⁺ R over the layers, from R = I (Chefer, Gur & Wolf 2021 ICCV, eqs. 5-6).

    ∇A is the gradient of the explained score with respect to a layer's attention weights, in one backward pass. The score
    of the query token itself includes the 1 of the identity, which matters only if the query is not a special token.

    Raises:
        InputError: the score does not depend on the attention weights that the model returns.
    """
    return _attribution(ctx, query, _relevance, n_gradients=1)


@method("token", label="Value zeroing", family="raw_attention", signed=False, explains_output=False)
def value_zeroing(ctx: Context, *, query: str) -> Attribution:
    """Π_l C_l from the query token; C_l[i, j] is the change of token i in layer l when the value vectors of j are zeroed.

    C_l[i, j] = 1 - cos(x̃_i without v_j, x̃_i), rows divided by their sums (Mohebbi et al. 2023, section 3). x̃ is the
    output of the whole layer for the clean states below it, and v_j are the value vectors of token j in all heads. Layers
    are multiplied as in attention rollout, the last one leftmost, but without 0.5 I, since the layer includes its residual
    connection. A row of zeros is replaced by that of the identity. A text of T tokens, special ones included, takes 1 + T
    forward rows.
    """
    ctx.batch.require_text_alone()
    model, batch, width = ctx.references.model, ctx.batch, ctx.embeddings.shape[1]
    device = ctx.embeddings.device
    at_once = ctx.references.budget(ctx.token_budget).rows(width)

    def run(rows: Int[Tensor, " R"]) -> Callable[[], object]:
        return lambda: ctx.score(ctx.embeddings[rows], rows)

    examples = torch.arange(len(batch), device=device)
    scores = []
    with torch.no_grad(), opened_layers(model, run(examples[:1])) as layers:
        for row in examples:
            states = [state[0] for state in layers.states(run(row[None]))]
            mixing = torch.zeros(len(states) - 1, width, width, dtype=torch.float64, device=device)
            for tokens in torch.split(
                torch.arange(batch.lengths[int(row)], device=device), at_once
            ):
                rows = row.expand(len(tokens))
                stays = torch.arange(width, device=device) != tokens[:, None]
                inputs = [state.expand(len(tokens), -1, -1) for state in states]
                for layer, zeroed in enumerate(layers.without_values(run(rows), stays, inputs)):
                    mixing[layer][:, tokens] = _distance(zeroed, states[layer + 1]).T
            scores.append(_row(ctx, query, _multiplied(mixing), row[None]) * batch.mask[row])
    return Attribution(torch.cat(scores), n_gradients=0)


def _distance(zeroed: Float[Tensor, "R T D"], clean: Float[Tensor, "T D"]) -> Float[Tensor, "R T"]:
    """1 - cos, computed as half the squared difference of unit vectors, which is accurate for small angles."""
    zeroed, clean = (functional.normalize(side.double(), dim=-1) for side in (zeroed, clean))
    return (zeroed - clean).square().sum(-1) / 2


def _multiplied(mixing: Float[Tensor, "L T T"]) -> Float[Tensor, "1 T T"]:
    """The product of the layers' matrices with rows divided by their sums, the last layer leftmost."""
    total = torch.eye(mixing.shape[-1], dtype=mixing.dtype, device=mixing.device)
    for layer in mixing:
        sums = layer.sum(-1, keepdim=True)
        identity = torch.eye(len(layer)).to(layer)
        total = torch.where(sums == 0, identity, layer / sums.clamp_min(TINY)) @ total
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
    """∇A for every layer. Rows are independent, so that the gradient of their sum has each row's gradient."""
    gradients: list[Tensor | None] = [None]
    if all(layer.requires_grad for layer in layers):
        gradients = list(torch.autograd.grad(scores.sum(), list(layers), allow_unused=True))
    if any(gradient is None for gradient in gradients):
        raise InputError(
            "gradient_attention: expected the score to depend on the attention weights of every layer, but those "
            "that the model returns do not enter its output. Use attention_rollout."
        )
    return [gradient for gradient in gradients if gradient is not None]


def _identity(layer: Float[Tensor, "R H T T"]) -> Float[Tensor, "1 T T"]:
    return torch.eye(layer.shape[-1], dtype=torch.float64, device=layer.device)[None]


def _attribution(
    ctx: Context, query: str, relevance: Relevance, n_gradients: int = 0
) -> Attribution:
    """The scores of each example: the query token's row of its relevance, in passes within the token budget."""
    ctx.batch.require_text_alone()
    examples = torch.arange(len(ctx.batch), device=ctx.embeddings.device)
    rows_at_once = max(1, ctx.token_budget // ctx.embeddings.shape[1])
    parts = []
    with recorded_attentions(ctx.references.model) as attentions:
        for rows in torch.split(examples, rows_at_once):
            # The weights require no gradient, so that the embeddings must for a graph to be built.
            points = ctx.embeddings[rows].requires_grad_(n_gradients > 0)
            with torch.set_grad_enabled(n_gradients > 0):
                scores = ctx.score(points, rows)
            mask = ctx.batch.mask[rows]
            parts.append(_row(ctx, query, relevance(attentions.take(), scores), rows) * mask)
    return Attribution(torch.cat(parts), n_gradients)


def _row(
    ctx: Context, query: str, relevance: Float[Tensor, "R T T"], rows: Int[Tensor, " R"]
) -> Float[Tensor, "R T"]:
    """The query token's row of relevance.

    If the task explains the output at a token, that token is the query, whatever `query` is.
    """
    token = ctx.batch.positions
    if ctx.batch.boundaries is not None:  # the classes are the tokens of the text
        token = ctx.target if ctx.target.ndim == 1 else ctx.target[:, 0]
    if token is None:
        return QUERIES[query](relevance, ctx.batch.mask[rows])
    return relevance[torch.arange(len(rows), device=rows.device), token.to(rows.device)[rows]]


#: By name, the functions that select a row [R T] of relevance [R T T], from it and the mask.
QUERIES: dict[
    str, Callable[[Float[Tensor, "R T T"], Bool[Tensor, "R T"]], Float[Tensor, "R T"]]
] = {
    "first": lambda relevance, mask: relevance[:, 0],
    "last": lambda relevance, mask: relevance[
        torch.arange(len(mask), device=mask.device), mask.sum(1) - 1
    ],
    "mean": lambda relevance, mask: (relevance * mask[:, :, None]).sum(1) / mask.sum(1)[:, None],
}
