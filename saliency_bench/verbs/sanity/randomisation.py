"""Do maps depend on what the model has learnt (Adebayo et al. 2018, section 3)?

A map that stays as it was when weights are random does not show what they hold. That it changes proves little: so
does the map of a method that is wrong. Products with the input keep its magnitudes, so that their unsigned maps stay
alike for a reason that has nothing to do with weights.
"""

from collections.abc import Callable, Iterator, Sequence

from saliency_bench.models.randomisation import Stage, fresh_weights, randomised, stages
from saliency_bench.verbs.sanity.asking import Row, Subject, compared, explained, settings_of

CASCADING, INDEPENDENT = "cascading", "independent"
ORDERS = (CASCADING, INDEPENDENT)


def rows(subject: Subject, progress: Callable[[int, int], None]) -> Iterator[Row]:
    """How alike maps are to the trained model's, for every part of the model that is made random."""
    model, config = subject.model, subject.config
    parts = stages(model.module)
    fresh = fresh_weights(model.module, config["seed"])
    settings = settings_of(model, config["methods"], config["seed"])
    before = explained(model, subject.fixed, settings, subject.budget)
    orders = config["randomisation"]["orders"]
    for number, order in enumerate(orders):
        for depth, part in enumerate(parts):
            progress(number * len(parts) + depth, len(orders) * len(parts))
            changed = randomised(model, _random(parts, depth, order), fresh)
            after = explained(changed, subject.fixed, settings, subject.budget)
            for row in compared(before, after):
                yield {"model": model.name, "case": order, "level": part.name} | row


def _random(parts: Sequence[Stage], depth: int, order: str) -> Sequence[Stage]:
    return parts[: depth + 1] if order == CASCADING else parts[depth : depth + 1]
