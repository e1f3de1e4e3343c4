"""Random draws: how many, how they are paired, how large the noise is, and how sure their mean is."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeGuard

import numpy as np
from jaxtyping import Float

from saliency_bench.attribution.points import Draw
from saliency_bench.core.errors import InputError, unknown
from saliency_bench.core.rank_correlation import tau_b

#: How many samples of each sampler depend on each other. Those of a centred block sum to 0 and are N(0, I) each, so
#: that means stay unbiased: of the Hermite terms of the gradient the first cancels, as in antithetic pairs (a block
#: of two), but the second is hardly inflated: its variance is 4/3 of that of independent draws, not twice.
SAMPLERS = {"iid": 1, "antithetic": 2, "centred": 4}
UNITS = ("std", "range", "absolute")
AUTO = "auto"

#: The first round of n_samples=auto: at least eight independent groups, since stopping where an error that is itself
#: unsure looks small finds errors that are too small. Each further round doubles what has been drawn.
FIRST_ROUND = 32

#: Independent groups that the standard error is taken over. With ten its own relative error is 1/sqrt(18), a quarter.
N_GROUPS = 10


@dataclass(frozen=True)
class Draws:
    """How a mean over random draws is taken.

    `sampler`: iid; antithetic: each noise is used with both signs, so that odd terms of the gradient cancel; or
    centred: blocks of four whose noises sum to 0, so that odd terms nearly cancel and even ones are not doubled. The
    noise of a sample never depends on how many follow, and a block that is not whole cancels nothing, so that the
    number of centred samples is a multiple of four.
    `n_samples`: a number, or "auto": until the standard error of a text's scores is at most `relative_error` of
    them (both as norms over its tokens), and at most `max_samples`.
    """

    n_samples: int | str
    sampler: str
    relative_error: float | None  # null where n_samples is a number
    max_samples: int | None  # likewise

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise unknown("sampler", self.sampler, list(SAMPLERS))
        if isinstance(self.n_samples, str) and self.n_samples != AUTO:
            raise InputError(f"n_samples={self.n_samples!r}: expected a whole number, or auto")
        if self.auto and not (_is_whole(self.max_samples) and self.max_samples >= FIRST_ROUND):
            raise InputError(
                f"max_samples={self.max_samples!r}: expected a whole number of at least {FIRST_ROUND}, with which "
                "n_samples=auto starts"
            )
        if self.auto and not (_is_number(self.relative_error) and self.relative_error > 0):
            raise InputError(f"relative_error={self.relative_error!r}: expected a number above 0")
        if self.sampler == "centred" and self.n % self.per_unit:
            key = "max_samples" if self.auto else "n_samples"
            less = self.n - self.n % self.per_unit
            near = " or ".join(str(n) for n in (less, less + self.per_unit) if n)
            raise InputError(
                f"{key}={self.n}: centred noise cancels in blocks of {self.per_unit}, so that another number would be "
                f"less exact than a smaller one. Use {near}, or sampler=antithetic."
            )

    @property
    def auto(self) -> bool:
        """Whether the number of samples is found for each text."""
        return self.n_samples == AUTO

    @property
    def n(self) -> int:
        """The number of samples, or the most that there may be."""
        n = self.max_samples if isinstance(self.n_samples, str) else self.n_samples
        assert n is not None
        return n

    @property
    def per_unit(self) -> int:
        """Samples that depend on each other."""
        return SAMPLERS[self.sampler]

    def rounds(self) -> Iterator[range]:
        """The samples in the rounds in which they are drawn; one round where their number is given."""
        if not self.auto:
            yield range(self.n)
            return
        start, stop = 0, FIRST_ROUND
        while start < self.n:
            yield range(start, min(stop, self.n))
            start, stop = stop, 2 * stop

    def number_and_sign(self, sample: int) -> tuple[int, int]:
        """Which noise a sample is made of, and with which sign."""
        if self.sampler == "antithetic":
            return sample // 2, 1 - 2 * (sample % 2)
        return sample, 1

    @property
    def block(self) -> int:
        """The size of the blocks in which noises are centred; 1 where they are not."""
        return self.per_unit if self.sampler == "centred" else 1

    def groups(self, samples: range) -> list[range]:
        """Contiguous groups that are independent of each other, as even as may be, at most N_GROUPS."""
        n_units = -(-len(samples) // self.per_unit)
        bounds = np.linspace(0, n_units, min(n_units, N_GROUPS) + 1).round().astype(int)
        ends = np.minimum(samples.start + self.per_unit * bounds, samples.stop)
        return [range(int(a), int(b)) for a, b in pairwise(ends)]


@dataclass(frozen=True)
class Noise:
    """Gaussian noise on the embeddings, its σ in exactly one unit.

    `noise_std`: standard deviations of the model's embedding matrix, one number per model.
    `noise_range`: of the range max - min of the text's own embeddings (Smilkov et al. 2017, section 3.1). In
    transformers a few outlier dimensions set it, so that one range is many standard deviations.
    `noise_absolute`: embedding units, as Captum's `stdevs`.
    """

    noise_std: float | None
    noise_range: float | None
    noise_absolute: float | None
    noise_special_tokens: bool

    def __post_init__(self) -> None:
        given = {f"noise_{unit}": getattr(self, f"noise_{unit}") for unit in UNITS}
        named = [name for name, value in given.items() if value is not None]
        if len(named) != 1:
            raise InputError(
                f"{' and '.join(named) or 'no noise'} given: expected exactly one of {', '.join(given)}; "
                "set the others to null"
            )
        level = given[named[0]]
        if not (_is_number(level) and np.isfinite(level) and level >= 0):
            raise InputError(f"{named[0]}={level!r}: expected a finite number of at least 0")
        if not isinstance(self.noise_special_tokens, bool):
            raise InputError(
                f"noise_special_tokens={self.noise_special_tokens!r}: expected true or false"
            )

    @property
    def unit(self) -> str:
        """The unit in which σ is given."""
        return next(unit for unit in UNITS if getattr(self, f"noise_{unit}") is not None)

    @property
    def level(self) -> float:
        """σ in that unit."""
        return float(getattr(self, f"noise_{self.unit}"))


def draw(draws: Draws, noise: Noise | None, sample: int) -> Draw:
    """The noisy copy that a sample stands for; without noise its σ is 0."""
    number, sign = draws.number_and_sign(sample)
    unit, level = ("absolute", 0.0) if noise is None else (noise.unit, noise.level)
    return Draw(number, sign, unit, level, draws.block)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def jackknife(
    estimate: Callable[[Float[np.ndarray, " G"]], Float[np.ndarray, "*shape"]],
    sizes: Sequence[int],
) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    """Standard errors and bias of an estimate from independent groups of draws, by leaving out one group at a time.

    Args:
        estimate: the estimate from the groups that a 0/1 vector keeps; it may be any smooth function of means,
            such as the norm of a mean gradient.
        sizes: draws in each group. At least two groups.

    Source: the delete-m_j jackknife of Busing, Meijer & van der Leeden 1999, eq. 3 and 4, for groups of unequal size.
    """
    n, n_groups = sum(sizes), len(sizes)
    everything = np.ones(n_groups)
    whole = estimate(everything)
    ratio = [n / size for size in sizes]
    pseudo = []
    for left_out, h in enumerate(ratio):
        kept = everything.copy()
        kept[left_out] = 0
        pseudo.append(h * whole - (h - 1) * estimate(kept))
    mean = sum(value / h for value, h in zip(pseudo, ratio, strict=True))
    variance = sum((value - mean) ** 2 / (h - 1) for value, h in zip(pseudo, ratio, strict=True))
    return np.asarray(np.sqrt(variance / n_groups)), np.asarray(whole - mean)


def split_half(
    estimate: Callable[[Float[np.ndarray, " G"]], Float[np.ndarray, "B T"]],
    n_groups: int,
    attributable: Sequence[np.ndarray],
) -> Float[np.ndarray, " B"]:
    """Kendall's τ-b between the scores of every other group and those of the rest, over attributable tokens.

    It is what a second run with half as many draws would agree by; NaN where fewer than two tokens, or ties only.
    """
    even = np.arange(n_groups) % 2 == 0
    halves = estimate(even.astype(float)), estimate((~even).astype(float))
    found = []
    for row, own in enumerate(attributable):
        a, b = (half[row, : len(own)][own] for half in halves)
        tied = len(a) < 2 or not (np.ptp(a) and np.ptp(b))
        found.append(np.nan if tied else tau_b(a, b))
    return np.array(found)
