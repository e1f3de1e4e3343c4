"""The premises of `validate`: Captum is handed our noise, baselines and references, so that these agree by themselves.

Here each is compared with something that shares nothing with it: plain torch on the model's own embedding layer, the
moments of the normal distribution, and Captum with noise that it draws itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from saliency_bench.attribution import baselines
from saliency_bench.attribution.context import Context
from saliency_bench.attribution.explain import explain
from saliency_bench.attribution.noise import SAMPLERS, UNITS, Draws, Noise, draw
from saliency_bench.attribution.settings import single_settings
from saliency_bench.core import conf as conf_files
from saliency_bench.models import references
from saliency_bench.studies.block import OpenBlock

#: The probability that a right implementation fails a check of random numbers.
CHANCE = 1e-6

#: Numbers that moments are taken of, at least: a variance that is off by 7 % is then seen.
N_NUMBERS = 20_000

#: σ of the draws, in each unit: small, and no 1, so that a square or a root of it is another number.
LEVEL = 0.25

#: Seeds, and samples under each, on either side of the comparison with Captum's own noise.
N_SEEDS, N_SAMPLES = 16, 16


@dataclass(frozen=True)
class Premise:
    """Something that both sides of a pair share: its distance from the right value, and the distance that it may have."""

    name: str
    model: str
    dtype: str
    difference: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the distance is allowed; one that is not a number is not."""
        return self.difference <= self.tolerance


def premises(block: OpenBlock, model: str, dtype: str, captums_noise: bool) -> list[Premise]:
    """All premises on one block; with `captums_noise` the comparison with Captum's own draws too, 1,500 gradients a text."""
    context = block.context("logit", 0)
    checks = [*_baselines(context), *_references(context)]
    for sampler in SAMPLERS:
        for unit in UNITS:
            checks += _noise(context, sampler, unit)
    if captums_noise:
        checks += _captums_noise(block)
    return [Premise(name, model, dtype, off, allowed) for name, off, allowed in checks]


Check = tuple[str, float, float]


# --- baselines, by token ids


def _baselines(ctx: Context) -> Iterator[Check]:
    """The start of paths: the embedding layer's output for the baseline's token, and the text's own embeddings elsewhere."""
    model, real = ctx.references.model, ctx.batch.mask
    embedded = _layer(ctx)(ctx.batch.input_ids).detach()
    for name in references.NAMES:
        if references.available(model, name):
            away = _vector(ctx, name)
            for kept, moved in (("keep", ctx.batch.attributable), ("replace", real)):
                expected = torch.where(moved[:, :, None], away, embedded)[real]
                reference = ctx.path(name, kept).reference[real]
                # A mean of V rows is rounded once for each; a row is copied.
                allowed = 10 * torch.finfo(embedded.dtype).eps if name == "mean" else 0.0
                yield (
                    f"baseline {name}, special tokens {kept}",
                    _apart(reference, expected),
                    allowed,
                )


def _vector(ctx: Context, name: str) -> Float[Tensor, " D"]:
    layer = _layer(ctx)
    table = layer.weight.detach()
    if name == "zero":
        return torch.zeros_like(table[0])
    if name == "mean":
        return torch.as_tensor(table.double().cpu().numpy().mean(0)).to(table)
    token = getattr(ctx.references.model.tokenizer, references.TOKENS[name])
    out: Tensor = layer(torch.tensor([token], device=table.device))[0]
    return out.detach()


def _references(ctx: Context) -> Iterator[Check]:
    """Random references of tokens: every one is a row of the embedding matrix, and not always the same."""
    drawn = baselines.random_reference(ctx, "vocabulary", "keep")
    moved = ctx.batch.attributable[0]
    texts = drawn([0] * 8, range(8))[:, moved]
    table = _layer(ctx).weight.detach()
    nearest = torch.stack([(table - row).abs().amax(1).min() for row in texts.flatten(0, 1)])
    yield "references are token embeddings", float(nearest.max()), 0.0
    different = np.unique(texts.flatten(1).cpu().numpy(), axis=0)
    yield "references that are the same", 1 - len(different) / len(texts), 0.5


# --- noise, by the moments of the normal distribution


def _noise(ctx: Context, sampler: str, unit: str) -> Iterator[Check]:
    """σ in its unit, mean and kurtosis of what is added to the embeddings; 0 on special tokens and padding."""
    levels: dict[str, Any] = {f"noise_{name}": LEVEL if name == unit else None for name in UNITS}
    noise = Noise(**levels, noise_special_tokens=False)
    noisy = ctx.batch.attributable
    n_draws = max(8, 4 * -(-N_NUMBERS // (4 * int(noisy.sum()) * ctx.embeddings.shape[2])))
    draws = Draws(n_draws, sampler, None, None)
    cloud = ctx.noise_cloud(noise.noise_special_tokens)
    rows = torch.arange(len(ctx.batch))
    sigma = LEVEL * _unit(ctx, unit)
    values, elsewhere = [], 0.0
    for sample in range(n_draws):
        shift = cloud.at(rows, [draw(draws, noise, sample)] * len(rows)) - ctx.embeddings
        elsewhere = max(elsewhere, float(shift[~noisy].abs().sum()))
        values.append((shift.double() / sigma[:, None, None])[noisy].flatten())
    together = torch.stack(values)
    name = f"noise in {unit}, {sampler}"
    # Of n independent normal numbers, mean x² has the variance 2/n, x 1/n, x⁴ 96/n. In a group of g that depend on
    # each other, even moments are correlated by 1/(g-1)² at most and by 1 in a pair: g/(g-1) and 2 times the variance.
    n = together.numel() / 2
    off = float(stats.norm.isf(CHANCE / 2)) / n**0.5
    yield f"{name}: variance", abs(float(together.square().mean()) - 1), off * 2**0.5
    yield f"{name}: mean", abs(float(together.mean())), off
    yield f"{name}: fourth moment", abs(float(together.pow(4).mean()) - 3), off * 96**0.5
    yield f"{name}: elsewhere", elsewhere, 0.0
    if (size := SAMPLERS[sampler]) > 1:
        sums = together.view(-1, size, together.shape[1]).sum(1)
        # Each of `size` numbers of a few σ is rounded where it is added to an embedding.
        largest = float(ctx.embeddings.abs().max()) / float(sigma.min()) + 10
        allowed = 4 * size * torch.finfo(ctx.embeddings.dtype).eps * largest
        yield f"{name}: sum of a group", float(sums.abs().max()), allowed


def _unit(ctx: Context, unit: str) -> Float[Tensor, " B"]:
    """The unit of σ of each text, in plain numpy."""
    if unit == "absolute":
        return torch.ones(len(ctx.batch), dtype=torch.float64)
    if unit == "std":
        table = _layer(ctx).weight.detach().double().cpu().numpy()
        spread = np.sqrt(np.square(table - table.mean()).mean())
        return torch.full((len(ctx.batch),), float(spread), dtype=torch.float64)
    embedded = _layer(ctx)(ctx.batch.input_ids).detach().double().cpu().numpy()
    texts = [text[: int(mask.sum())] for text, mask in zip(embedded, ctx.batch.mask, strict=True)]
    return torch.tensor([np.ptp(text) for text in texts], dtype=torch.float64)


# --- noise that Captum draws itself


def _captums_noise(block: OpenBlock) -> Iterator[Check]:
    """Means over seeds of maps by our draws and by Captum's, in standard errors of their difference."""
    from captum.attr import NoiseTunnel, Saliency

    context = block.context("logit", 0)
    sigma = LEVEL * float(_unit(context, "std")[0])
    rows = torch.arange(len(context.batch))
    real = context.batch.mask.cpu().numpy()
    for method in ("smoothgrad", "vargrad"):  # Captum's names too
        theirs = []
        for seed in range(N_SEEDS):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                values = NoiseTunnel(Saliency(context.score)).attribute(
                    context.embeddings.clone().requires_grad_(),
                    additional_forward_args=rows,
                    nt_type=method,
                    nt_samples=N_SAMPLES,
                    stdevs=sigma,
                    abs=False,
                )
            moved = values * context.embeddings if method == "smoothgrad" else values
            theirs.append(moved.sum(-1).cpu().numpy()[real])
        # Captum's tunnel has no special tokens. Draws that depend on each other have another sample variance.
        samplers = [*SAMPLERS] if method == "smoothgrad" else ["iid"]
        for sampler in samplers:
            ours = [_ours(block, method, sampler, seed)[real] for seed in range(N_SEEDS)]
            far = _standard_errors_apart(np.stack(ours), np.stack(theirs))
            # Welch's test has at least N_SEEDS - 1 degrees of freedom; the largest of all tokens is taken.
            allowed = float(stats.t.isf(CHANCE / 2 / far.size, N_SEEDS - 1))
            yield f"Captum's own noise, {method}, {sampler}", float(far.max()), allowed


def _ours(block: OpenBlock, method: str, sampler: str, seed: int) -> Float[np.ndarray, "B T"]:
    entry = conf_files.method_defaults(method) | {
        "reduction": "dot" if method == "smoothgrad" else "sum",
        "n_samples": N_SAMPLES,
        "sampler": sampler,
        "noise_std": LEVEL,
        "noise_special_tokens": True,
    }
    setting = single_settings({method: entry}, seed=seed)[method]
    return np.asarray(explain(block.context("logit", seed), [setting])[setting.id].scores.cpu())


def _standard_errors_apart(
    ours: Float[np.ndarray, "S N"], theirs: Float[np.ndarray, "S N"]
) -> Float[np.ndarray, " N"]:
    errors = [values.std(0, ddof=1) / len(values) ** 0.5 for values in (ours, theirs)]
    return np.asarray(np.abs(ours.mean(0) - theirs.mean(0)) / np.hypot(*errors))


def _layer(ctx: Context) -> Any:
    """The model's own embedding layer, as transformers has it."""
    return ctx.references.model.embedding


def _apart(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    size = float(expected.abs().max())
    return float((actual - expected).abs().max()) / (size or 1.0)
