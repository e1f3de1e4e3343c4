"""The density of nodes for quadrature=calibrated, learnt once for each model and baseline, and cached.

It is learnt from bundled sentences (the training split of the movie reviews), or from random tokens if the model has no
tokenizer. Any density gives a consistent rule; one that was learnt from other texts is only less efficient.
"""

import hashlib
from collections.abc import Hashable
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from saliency_bench.attribution.adaptive import token_integrand
from saliency_bench.attribution.context import Context
from saliency_bench.attribution.density import Density, learn
from saliency_bench.core.errors import InputError
from saliency_bench.core.random import generator_for
from saliency_bench.core.rows import digest
from saliency_bench.core.text import Encoded
from saliency_bench.data import movie_reviews
from saliency_bench.models.tasks.encoding import collate, encode, encoded_ids
from saliency_bench.store import cache

#: The number of texts, and of equally spaced nodes on the path of each.
N_TEXTS = 24
N_NODES = 65

#: The lengths of random texts, for models without a tokenizer.
RANDOM_LENGTHS = (8, 16, 24)

#: The version of the files in the cache; raise it when a change of this module changes densities.
VERSION = 1
KIND = "densities"

_DENSITIES: "WeakKeyDictionary[nn.Module, dict[Hashable, Density]]" = WeakKeyDictionary()


def density_of(ctx: Context, baseline: str, special_tokens: str) -> Density:
    """The density for the paths of `ctx.path(baseline, special_tokens)` and the context's output.

    The first call costs N_TEXTS × N_NODES gradients. The density of a loaded model is also stored in the user's cache
    folder, under the digests of its weights. That of a wrapped module is kept as long as the module lives and its weights
    do not change.

    Raises:
        InputError: the task asks about places of a text, which calibration texts do not have.
    """
    model = ctx.references.model
    if ctx.batch.positions is not None or ctx.batch.boundaries is not None:
        raise InputError(
            "quadrature=calibrated learns from bundled texts, in which no place to explain is marked: for "
            f"{model.task} use another rule, midpoint or gauss_legendre"
        )
    facts = (
        baseline,
        special_tokens,
        ctx.output,
        str(ctx.embeddings.dtype),
        str(ctx.embeddings.device),
    )
    key = facts, model.forward, model.criterion, model.embedding, ctx.references.weights
    densities = _DENSITIES.setdefault(model.module, {})
    if key not in densities:
        name = _cache_name(ctx, facts)
        density = _read(name)
        if density is None:
            density = learn(_integrands(ctx, baseline, special_tokens))
            _write(name, density)
        densities[key] = density
    return densities[key]


def _integrands(ctx: Context, baseline: str, special_tokens: str) -> list[Float[np.ndarray, "S _"]]:
    """Σ_d (x - x')_d ∂_d F at equally spaced nodes, for every token of every calibration text."""
    by_length: dict[int, list[Encoded]] = {}
    for text in _texts(ctx):
        by_length.setdefault(len(text), []).append(text)
    return [
        integrand
        for items in by_length.values()
        for integrand in _integrands_of(ctx, items, baseline, special_tokens)
    ]


def _integrands_of(
    ctx: Context, items: list[Encoded], baseline: str, special_tokens: str
) -> Float[np.ndarray, "B S T"]:
    """The integrands of texts of equal length."""
    model = ctx.references.model
    batch = collate(model, items)
    with torch.no_grad():
        outputs = model.output(batch.input_ids, None, batch.token_type_ids, extra=batch.extra)
        logits = batch.read(outputs)
    target = logits.argmax(-1)
    of_texts = Context(
        ctx.references, batch, target, logits, ctx.output, 0, ctx.token_budget, ctx.probe
    )
    path = of_texts.path(baseline, special_tokens)
    nodes = np.linspace(0, 1, N_NODES).tolist()
    integrands = np.zeros((len(items), N_NODES, batch.input_ids.shape[1]))
    for rows in of_texts.engine.rows(path, nodes, of_texts.clean):
        integrands[rows.examples, rows.nodes] = token_integrand(path, rows).cpu().numpy()
    return integrands


def _texts(ctx: Context) -> list[Encoded]:
    """The calibration texts: the sentences whose hashes are smallest, or random tokens."""
    model = ctx.references.model
    if callable(model.tokenizer):
        examples = sorted(
            movie_reviews.load(split="train"),
            key=lambda example: hashlib.sha256(example.text.encode()).hexdigest(),
        )
        return encode(model, [replace(example, label=None) for example in examples[:N_TEXTS]])
    return [_random_text(ctx, index) for index in range(N_TEXTS)]


def _random_text(ctx: Context, index: int) -> Encoded:
    tokens = ctx.references.ordinary_tokens
    length = min(RANDOM_LENGTHS[index % len(RANDOM_LENGTHS)], ctx.references.model.max_length)
    stream = generator_for("cpu", "calibration", index)
    ids = tokens[torch.randint(len(tokens), (length,), generator=stream)]
    return encoded_ids(
        ctx.references.model, {"input_ids": ids}, str(index), None, "a calibration text"
    )


def _cache_name(ctx: Context, facts: tuple[str, ...]) -> str | None:
    """The name of a loaded model's density in the cache; None for a wrapped module."""
    about = ctx.references.model.facts
    if about.get("source") not in ("folder", "hub", "prepared") and "adapter_sha256" not in about:
        return None
    return digest([dict(about), facts, N_TEXTS, N_NODES, VERSION], 32)


def _read(name: str | None) -> Density | None:
    """The density in the cache; None if there is none, or if the file holds anything else."""
    if name is None:
        return None
    try:
        fields = cache.read(KIND, name)
        density = Density(np.array(fields["alphas"], float), np.array(fields["values"], float))
        ends = density.alphas[[0, -1]].tolist() == [0.0, 1.0]
        rising = bool((np.diff(density.alphas) > 0).all())
        return density if ends and rising and bool((density.values > 0).all()) else None
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def _write(name: str | None, density: Density) -> None:
    if name is not None:
        fields = {"alphas": density.alphas.tolist(), "values": density.values.tolist()}
        cache.write(KIND, name, fields)
