"""A counter-based generator of normal numbers: each depends only on a key and on its place.

Philox 4x32-10 (Salmon et al. 2011, section 3.3) maps a counter of 128 bits, under a key of 64 bits, to four words of 32
bits. Two words give two normal numbers (Box & Muller 1958). There is no state, so that a few operations draw all rows of
a pass. These are operations on whole numbers, and sums, products, quotients and square roots in float64, which IEEE 754
rounds in one way only. A CPU and a GPU therefore give the same bytes.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saliency_bench.core.tensors import on_device

#: The name of this generator in the identity of a run. Change it if a number changes.
GENERATOR = "philox4x32-10 box-muller"

WORD = 0xFFFFFFFF  # the largest word of 32 bits
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10

#: The number of counters in one pass on a CPU, so that intermediate numbers stay in its cache.
_CACHED = 16384

#: The bits of sqrt(1/2) in float64. Logarithms are computed from mantissas between sqrt(1/2) and sqrt(2).
_ROOT_HALF = 0x3FE6A09E667F3BCD

# The series of atanh(x)/x, sin(x)/x and cos(x) in x². Each ends where the next term is below 1e-10 in the range of x:
# |x| <= (√2 - 1) / (√2 + 1) < 0.172 and |x| <= π/2. The rounding of float32 is 600 times as large.
_ATANH = [1 / (2 * k + 1) for k in range(6)]
_SIN = [(-1) ** k / math.factorial(2 * k + 1) for k in range(8)]
_COS = [(-1) ** k / math.factorial(2 * k) for k in range(8)]


def normal(
    keys: Sequence[int], numbers: Sequence[int], shape: tuple[int, int], device: torch.device
) -> Float[Tensor, "N T D"]:
    """Independent normal numbers in float32, a matrix [T D] for each pair of a key and a number.

    Entry (t, d) depends on key, number, t and d alone. It is computed from the counter (d // 4, t, number): the first two
    of its words give the entries with d % 4 = 0 and 1, the last two those with 2 and 3.

    Args:
        keys: N whole numbers of 64 bits, one for each stream.
        numbers: N whole numbers of 64 bits, the numbers of the draws in their streams.
        shape: (T, D), the tokens and dimensions of each draw.
        device: the device on which the numbers are computed.
    """
    n_tokens, depth = shape
    n_blocks = -(-depth // 4)
    step = len(keys)
    if device.type == "cpu":
        step = max(1, _CACHED // (n_tokens * n_blocks))
    low, high, low_key, high_key = (
        on_device([value >> shift & WORD for value in values], device)[:, None, None]
        for values in (numbers, keys)
        for shift in (0, 32)
    )
    block = torch.arange(n_blocks, device=device)
    token = torch.arange(n_tokens, device=device)[:, None]
    drawn = torch.empty(len(keys), n_tokens, n_blocks, 4, dtype=torch.float32, device=device)
    for start in range(0, len(keys), step):
        rows = slice(start, start + step)
        made = words((block, token, low[rows], high[rows]), (low_key[rows], high_key[rows]))
        for place in (0, 2):
            pair = normal_pair(made[place], made[place + 1])
            drawn[rows, :, :, place], drawn[rows, :, :, place + 1] = pair
    return drawn.flatten(2)[:, :, :depth]


def words(
    counter: tuple[Int[Tensor, "..."], ...], key: tuple[Int[Tensor, "..."], ...]
) -> tuple[Int[Tensor, "..."], ...]:
    """Philox 4x32-10: four words for each counter of four words and key of two. Shapes are broadcast."""
    first, second, third, fourth = counter
    low_key, high_key = key
    for _ in range(_ROUNDS):
        # The upper half of a product is used now. Its lower half is used a round later, and is cut to a word there.
        left, right = first * _MULTIPLIERS[0], third * _MULTIPLIERS[1]
        first = ((right >> 32) ^ second ^ low_key) & WORD
        third = ((left >> 32) ^ fourth ^ high_key) & WORD
        second, fourth = right, left
        low_key, high_key = low_key + _WEYL[0], high_key + _WEYL[1]
    return first, second & WORD, third, fourth & WORD


def normal_pair(
    radius: Int[Tensor, "..."], angle: Int[Tensor, "..."]
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """Two independent normal numbers from two words, in float64: r cos θ and r sin θ.

    r² = -2 ln u with u = (radius + 1/2) / 2^32, and θ = 2π angle / 2^32. Both are within 1e-10 r of these formulas.
    """
    r = _log(radius.double().add_(0.5).mul_(2.0**-32)).mul_(-2).sqrt_()
    # θ from -π/2 to π/2; on the other half of the circle r has the opposite sign.
    turned = (angle + (1 << 30)) & WORD
    theta = ((turned & 0x7FFFFFFF) - (1 << 30)).double().mul_(2 * math.pi / 2**32)
    r.mul_((turned >> 31).mul_(-2).add_(1))
    square = theta * theta
    return _series(_COS, square).mul_(r), _series(_SIN, square).mul_(theta).mul_(r)


def _log(u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The natural logarithm e ln 2 + 2 atanh((m - 1) / (m + 1)) of normal float64 numbers u = 2^e m."""
    bits = u.view(torch.int64)
    exponent = (bits - _ROOT_HALF) >> 52
    mantissa = (bits - (exponent << 52)).view(torch.float64)
    ratio = (mantissa - 1).div_(mantissa + 1)
    tail = _series(_ATANH, ratio * ratio).mul_(ratio).mul_(2)
    return exponent.double().mul_(math.log(2)).add_(tail)


def _series(coefficients: Sequence[float], x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Σ_k coefficients[k] x^k by Horner's rule."""
    *lower, highest = coefficients
    total = torch.full_like(x, highest)
    for coefficient in reversed(lower):
        total.mul_(x).add_(coefficient)
    return total
