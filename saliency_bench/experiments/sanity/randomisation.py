"""Randomisation of the model's parameters (Adebayo et al. 2018, section 3).

A map that stays the same when weights are random does not show what they hold. A map that changes proves little: so
does the map of a method that is wrong. Products with the input keep its magnitudes, so that their unsigned maps stay
alike for a reason that has nothing to do with weights.

What is nearest to the output is drawn many times: whether one random head turns the signs of scores round is chance.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from saliency_bench.experiments.sanity.subjects import (
    Row,
    Subject,
    compared,
    explained,
    settings_of,
)
from saliency_bench.models.randomisation import Stage, fresh_weights, randomised, stages

CASCADING, INDEPENDENT = "cascading", "independent"
ORDERS = (CASCADING, INDEPENDENT)


def rows(subject: Subject, progress: Callable[[int, int], None]) -> Iterator[Row]:
    """The agreement of maps with the trained model's, for every part that is made random and every draw of its weights.

    Draw d has the seed `seed + d`. What two orders make random alike is explained once.
    """
    model, config = subject.model, subject.config
    settings = settings_of(model, config["methods"], config["seed"])
    planned = _planned(stages(model.module), config["randomisation"])
    for number, (random, draw) in enumerate(planned):
        progress(number, len(planned))
        fresh = fresh_weights(model.module, config["seed"] + draw)
        changed = randomised(model, random, fresh)
        after = explained(changed, subject.fixed, settings, subject.budget)
        for row in compared(subject.maps, after):
            for case, level in planned[random, draw]:
                yield {"model": model.name, "case": case, "level": level, "draw": str(draw)} | row


def _planned(
    parts: Sequence[Stage], config: Mapping[str, Any]
) -> dict[tuple[tuple[Stage, ...], int], list[tuple[str, str]]]:
    """The parts that are random and the draw of their weights, with the order and the part by which tables name them."""
    named: dict[tuple[tuple[Stage, ...], int], list[tuple[str, str]]] = {}
    for order in config["orders"]:
        for depth, part in enumerate(parts):
            random = tuple(parts[: depth + 1] if order == CASCADING else [part])
            for draw in range(config["n_draws_deeper" if depth else "n_draws"]):
                named.setdefault((random, draw), []).append((order, part.name))
    return named
