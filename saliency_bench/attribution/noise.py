"""Random draws: their number and pairing, the size of the noise, and the standard error of their mean."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from saliency_bench.attribution.points import Draw
from saliency_bench.core.errors import InputError, unknown
from saliency_bench.core.rank_correlation import tau_b

#: The number of samples that depend on each other, by sampler. The noises of a centred block are N(0, I) each and sum to
#: 0, so that means stay unbiased. Of the Hermite terms of the gradient the first cancels, as in antithetic pairs (a block
#: of two), and the variance of the second is 4/3 of that of independent draws, not twice as in pairs.
SAMPLERS = {"iid": 1, "antithetic": 2, "centred": 4}
UNITS = ("std", "range", "absolute")
AUTO = "auto"

#: The samples of the first round of n_samples=auto, and at least eight independent groups: with fewer, the estimated
#: error is so uncertain that stopping at a small estimate would underestimate it. Each round doubles the number.
FIRST_ROUND = 32

#: The number of independent groups for the standard error, whose own relative error is then 1/sqrt(18), a quarter.
N_GROUPS = 10


@dataclass(frozen=True)
class Draws:
    """The number and the pairing of random draws.

    `sampler`: with iid all noises are independent. With antithetic each noise is used with both signs, so that odd terms
    of the gradient cancel. With centred the noises sum to 0 in blocks of four, so that odd terms nearly cancel and even
    ones are not doubled. The noise of a sample never depends on how many follow. An incomplete block would cancel
    nothing, so that the number of centred samples is a multiple of four.
    `n_samples`: a number, or "auto": draw until the standard error of a text's scores is at most `relative_error` of
    the scores (both as norms over its tokens), and at most `max_samples`.

    Raises:
        InputError: a value is not usable, or the number of samples does not fit the sampler.
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
        if self.auto and (self.max_samples is None or self.max_samples < FIRST_ROUND):
            raise InputError(
                f"max_samples={self.max_samples!r}: expected a whole number of at least {FIRST_ROUND}, the first round of "
                "n_samples=auto"
            )
        if self.auto and self.relative_error is None:
            raise InputError("relative_error=None: expected a number above 0")
        if self.sampler == "centred" and self.n % self.per_unit:
            key = "max_samples" if self.auto else "n_samples"
            less = self.n - self.n % self.per_unit
            near = " or ".join(str(n) for n in (less, less + self.per_unit) if n)
            raise InputError(
                f"{key}={self.n}: expected a multiple of {self.per_unit}, since centred noise cancels in blocks of "
                f"{self.per_unit}. Use {near}, or sampler=antithetic."
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
        """The number of samples that depend on each other."""
        return SAMPLERS[self.sampler]

    def rounds(self) -> Iterator[range]:
        """The samples of each round; one round of all samples unless their number is auto."""
        if not self.auto:
            yield range(self.n)
            return
        start, stop = 0, FIRST_ROUND
        while start < self.n:
            yield range(start, min(stop, self.n))
            start, stop = stop, 2 * stop

    def number_and_sign(self, sample: int) -> tuple[int, int]:
        """The number of the noise that a sample uses, and its sign."""
        if self.sampler == "antithetic":
            return sample // 2, 1 - 2 * (sample % 2)
        return sample, 1

    @property
    def block(self) -> int:
        """The size of the blocks in which noises are centred; 1 where they are not."""
        return self.per_unit if self.sampler == "centred" else 1

    def groups(self, samples: range) -> list[range]:
        """Splits samples into at most N_GROUPS contiguous, independent groups whose sizes are as equal as possible."""
        n_units = -(-len(samples) // self.per_unit)
        bounds = np.linspace(0, n_units, min(n_units, N_GROUPS) + 1).round().astype(int)
        ends = np.minimum(samples.start + self.per_unit * bounds, samples.stop)
        return [range(int(a), int(b)) for a, b in pairwise(ends)]


@dataclass(frozen=True)
class Noise:
    """Gaussian noise on the embeddings, with σ in exactly one unit; the other two are None.

    `noise_std`: standard deviations of the model's embedding matrix, one number per model.
    `noise_range`: the range max - min of the text's own embeddings (Smilkov et al. 2017, section 3.1). In transformers
    a few outlier dimensions determine it, so that one range is many standard deviations.
    `noise_absolute`: embedding units, as Captum's `stdevs`.

    Raises:
        InputError: not exactly one unit has a number.
    """

    noise_std: float | None
    noise_range: float | None
    noise_absolute: float | None
    noise_special_tokens: bool

    def __post_init__(self) -> None:
        levels = {f"noise_{unit}": getattr(self, f"noise_{unit}") for unit in UNITS}
        named = [name for name, level in levels.items() if level is not None]
        if len(named) != 1:
            raise InputError(
                f"{' and '.join(named) or 'no noise'} given: expected exactly one of {', '.join(levels)}; "
                "set the others to null"
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
    """The noisy copy of the input that a sample uses; without noise its σ is 0."""
    number, sign = draws.number_and_sign(sample)
    unit, level = ("absolute", 0.0) if noise is None else (noise.unit, noise.level)
    return Draw(number, sign, unit, level, draws.block)


def jackknife(
    estimate: Callable[[Float[np.ndarray, " G"]], Float[np.ndarray, "*shape"]],
    sizes: Sequence[int],
) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    """Standard errors and bias of an estimate from independent groups of draws, by leaving out one group at a time.

    The delete-m_j jackknife of Busing, Meijer & van der Leeden 1999, eq. 3 and 4, for groups of unequal size.

    Args:
        estimate: the estimate from the groups that a 0/1 vector keeps; it may be any smooth function of means,
            such as the norm of a mean gradient.
        sizes: the number of draws in each of at least two groups.
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
    """Kendall's τ-b of the scores from every other group and those from the remaining groups, over attributable tokens.

    It estimates the agreement of two runs with half as many draws. NaN where a text has fewer than two such tokens, or
    equal scores alone.
    """
    even = np.arange(n_groups) % 2 == 0
    halves = estimate(even.astype(float)), estimate((~even).astype(float))
    taus = []
    for row, tokens in enumerate(attributable):
        a, b = (half[row, : len(tokens)][tokens] for half in halves)
        tied = len(a) < 2 or not (np.ptp(a) and np.ptp(b))
        taus.append(np.nan if tied else tau_b(a, b))
    return np.array(taus)
