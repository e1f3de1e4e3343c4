"""The best and the worst order of removing the units of a text: the bounds of any ranking's AOPC.

The AOPC of an order is the mean over k of F(x) - F(x without its first k units).
"""

from collections.abc import Callable
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int

Drops = Callable[[Bool[np.ndarray, "N U"]], Float[np.ndarray, " N"]]


def orders_between(
    drops: Drops, n_units: int, beam_size: int, exact_up_to: int
) -> tuple[float, float]:
    """Returns the smallest and the largest AOPC of any order.

    Args:
        drops: F(x) - F(x without S) for sets of units.
        n_units: of the text, at least one.
        beam_size: the number of sets that are kept at each size, where not all are.
        exact_up_to: texts with at most this many units are solved exactly, from all 2^U sets instead of all U! orders: the
            best order that begins with a set does not depend on the units after it.
    """
    if n_units <= exact_up_to:
        return _exact(drops, n_units)
    down = beam_search(lambda removed: -drops(removed), n_units, beam_size)[0]
    return -down, beam_search(drops, n_units, beam_size)[0]


def _exact(drops: Drops, n_units: int) -> tuple[float, float]:
    sets = [units for size in range(n_units + 1) for units in combinations(range(n_units), size)]
    removed = np.zeros((len(sets), n_units), dtype=bool)
    for row, units in enumerate(sets):
        removed[row, list(units)] = True
    value = dict(zip(sets, drops(removed).tolist(), strict=True))
    lowest: dict[tuple[int, ...], float] = {(): 0.0}
    highest: dict[tuple[int, ...], float] = {(): 0.0}
    for units in sets[1:]:
        before = [units[:place] + units[place + 1 :] for place in range(len(units))]
        lowest[units] = value[units] + min(lowest[smaller] for smaller in before)
        highest[units] = value[units] + max(highest[smaller] for smaller in before)
    return lowest[sets[-1]] / n_units, highest[sets[-1]] / n_units


def beam_search(drops: Drops, n_units: int, beam_size: int) -> tuple[float, Int[np.ndarray, " U"]]:
    """Searches the largest AOPC and returns it with its order (Zhou & Shah 2023; Edin et al. 2025, section 4).

    At each size, the `beam_size` sets with the largest sums so far are kept.
    """
    removed = np.zeros((1, n_units), dtype=bool)
    sums = np.zeros(1)
    orders = np.zeros((1, 0), dtype=int)
    for _ in range(n_units):
        row, unit = np.nonzero(~removed)
        larger = removed[row]
        larger[np.arange(len(unit)), unit] = True
        totals = sums[row] + drops(larger)
        kept: list[int] = []
        seen: set[bytes] = set()
        for place in np.argsort(-totals, kind="stable").tolist():
            # Two orders that removed the same units continue alike: the better one is enough.
            if (key := larger[place].tobytes()) not in seen:
                seen.add(key)
                kept.append(place)
            if len(kept) == beam_size:
                break
        removed, sums = larger[kept], totals[kept]
        orders = np.column_stack([orders[row[kept]], unit[kept]])
    return float(sums[0]) / n_units, orders[0]
