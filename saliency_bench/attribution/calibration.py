"""A model's density of nodes for one baseline: learnt once, off the texts that are explained, and kept.

It is learnt from bundled sentences (the training split of the movie reviews), or from random tokens where a model has
no tokenizer. Other texts than one's own make a rule less efficient, never wrong.
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

#: Texts, and equally spaced nodes on the path of each.
N_TEXTS = 24
N_NODES = 65

#: Lengths of random texts, for models without a tokenizer.
RANDOM_LENGTHS = (8, 16, 24)

#: Of the files in the cache: raised when how a density is learnt changes.
VERSION = 1
KIND = "densities"

_KNOWN: "WeakKeyDictionary[nn.Module, dict[Hashable, Density]]" = WeakKeyDictionary()


def density_of(ctx: Context, baseline: str, special_tokens: str) -> Density:
    """The density for paths from this baseline, as `ctx.path` has them, and for the context's output.

    Costs N_TEXTS × N_NODES gradients the first time. A model that was loaded is recognised by the digests of its
    weights, and its density is then kept in the user's cache folder too; one that was wrapped is known for as long
    as it lives and its weights are not changed.
    """
    if ctx.batch.positions is not None or ctx.batch.boundaries is not None:
        raise InputError(
            "quadrature=calibrated learns from texts of its own, of which nobody has said what is asked about them: in "
            f"{ctx.references.model.task} take another rule, midpoint or gauss_legendre"
        )
    module = ctx.references.model.module
    facts = (
        baseline,
        special_tokens,
        ctx.output,
        str(ctx.embeddings.dtype),
        str(ctx.embeddings.device),
    )
    model = ctx.references.model
    as_called = facts, model.forward, model.criterion, model.embedding, ctx.references.weights
    densities = _KNOWN.setdefault(module, {})
    if as_called not in densities:
        name = _cache_name(ctx, facts)
        density = _read(name)
        if density is None:
            density = learn(_integrands(ctx, baseline, special_tokens))
            _write(name, density)
        densities[as_called] = density
    return densities[as_called]


def _integrands(ctx: Context, baseline: str, special_tokens: str) -> list[Float[np.ndarray, "S _"]]:
    """Σ_d (x - x')_d ∂_d F at equally spaced nodes, for every token of every calibration text."""
    alike: dict[int, list[Encoded]] = {}
    for text in _texts(ctx):
        alike.setdefault(len(text), []).append(text)
    return [
        integrand
        for items in alike.values()
        for integrand in _on(ctx, items, baseline, special_tokens)
    ]


def _on(
    ctx: Context, items: list[Encoded], baseline: str, special_tokens: str
) -> Float[np.ndarray, "B S T"]:
    model = ctx.references.model
    batch = collate(model, items)
    with torch.no_grad():
        outputs = model.output(batch.input_ids, None, batch.token_type_ids, extra=batch.extra)
        logits = batch.read(outputs)
    other = Context(
        ctx.references,
        batch,
        logits.argmax(-1),
        logits,
        ctx.output,
        0,
        ctx.token_budget,
        ctx.probe,
    )
    path = other.path(baseline, special_tokens)
    nodes = np.linspace(0, 1, N_NODES).tolist()
    integrands = np.zeros((len(items), N_NODES, batch.input_ids.shape[1]))
    for rows in other.engine.rows(path, nodes, other.clean):
        integrands[rows.examples, rows.nodes] = token_integrand(path, rows).cpu().numpy()
    return integrands


def _texts(ctx: Context) -> list[Encoded]:
    model = ctx.references.model
    if callable(model.tokenizer):
        examples = sorted(
            movie_reviews.load(split="train"), key=lambda example: _hash(example.text)
        )
        plain = [replace(example, label=None) for example in examples[:N_TEXTS]]
        return encode(model, plain)
    return [_random_text(ctx, index) for index in range(N_TEXTS)]


def _random_text(ctx: Context, index: int) -> Encoded:
    tokens = ctx.references.ordinary_tokens
    length = min(RANDOM_LENGTHS[index % len(RANDOM_LENGTHS)], ctx.references.model.max_length)
    stream = generator_for("cpu", "calibration", index)
    ids = tokens[torch.randint(len(tokens), (length,), generator=stream)]
    return encoded_ids(
        ctx.references.model, {"input_ids": ids}, str(index), None, "a calibration text"
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _cache_name(ctx: Context, facts: tuple[str, ...]) -> str | None:
    """Under what a loaded model's density is kept between processes; nothing for a module that was wrapped."""
    about = ctx.references.model.facts
    if about.get("source") not in ("default", "folder", "hub"):
        return None
    return digest([dict(about), facts, N_TEXTS, N_NODES, VERSION], 32)


def _read(name: str | None) -> Density | None:
    """What an earlier process has kept; anything else than a density is as good as nothing."""
    if name is None:
        return None
    try:
        kept = cache.read(KIND, name)
        density = Density(np.array(kept["alphas"], float), np.array(kept["values"], float))
        ends = density.alphas[[0, -1]].tolist() == [0.0, 1.0]
        rising = bool((np.diff(density.alphas) > 0).all())
        return density if ends and rising and bool((density.values > 0).all()) else None
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def _write(name: str | None, density: Density) -> None:
    if name is not None:
        kept = {"alphas": density.alphas.tolist(), "values": density.values.tolist()}
        cache.write(KIND, name, kept)
