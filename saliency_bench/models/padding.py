"""Whether a text has the same outputs alone as padded beside a longer text.

A mask hides padding from the tokens of the text, but not from the padding itself. Where a layer has a window of attention, or
limits attention otherwise, a pad far from the text has nothing to attend to. The softmax of nothing is NaN in some
implementations, and NaN times the weight of a hidden token, 0, is NaN. Sums over more hidden tokens are rounded in another
order too. So padding is tried at the length at which it is used.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saliency_bench.models.intake import attempted
from saliency_bench.models.rounding import products, rounding_share

#: The fewest pads that are tried.
N_PADS = 3
#: The tokens of the padded text.
N_TOKENS = 2

#: The outputs for ids, with a mask or without, [R C], or those at some places alone, [R P C].
Output = Callable[
    [Int[Tensor, "R T"], Bool[Tensor, "R T"] | None, Int[Tensor, " P"]], Float[Tensor, "R ..."]
]


def size_of_trial(n_pads: int, max_length: int) -> int:
    """How many pads are tried for a block with so many: a power of two less one, so that few sizes are tried."""
    size = (1 << n_pads.bit_length()) - 1
    return max(N_PADS, min(size, max_length - N_TOKENS))


@torch.no_grad()
@products(tf32=False)
def is_exact(output: Output, ids: Int[Tensor, "2 T"], pad: int, n_pads: int) -> bool:
    """Whether both texts of a padded pass have the outputs of passes without padding, within rounding.

    Args:
        output: calls a model that is frozen.
        ids: two texts; the last token of each stands nowhere else in it (it may be the end of a text).
        pad: the token of padding.
        n_pads: how many of them follow the shorter text.
    """
    inner, short = ids[0, :-1], ids[1, -N_TOKENS:]
    n_inner = n_pads + N_TOKENS - 1
    long = torch.cat([inner.repeat(-(-n_inner // len(inner)))[:n_inner], ids[0, -1:]])
    both = torch.stack([long, torch.cat([short, short.new_full((n_pads,), pad)])])
    real = torch.ones_like(both, dtype=torch.bool)
    real[1, N_TOKENS:] = False
    places = torch.tensor([*range(N_TOKENS), len(long) - 1], device=ids.device)
    passes = (
        (both, real, places),
        (long[None], None, places),
        (short[None], None, places[:N_TOKENS]),
    )
    try:
        outputs = attempted(lambda: [output(*given) for given in passes])
    except torch.OutOfMemoryError:  # the blocks are shorter than the trial
        return False
    if outputs is None:
        return False
    together, *alone = outputs
    most = rounding_share(together.dtype) * max(float(logits.abs().max()) for logits in alone)
    return all(
        float((row[: len(expected)] - expected).abs().max()) <= most
        for row, (expected,) in zip(together, alone, strict=True)
    )
