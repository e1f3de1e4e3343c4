"""The share of a map on special tokens, when their baseline is kept and when it is replaced."""

from collections.abc import Callable, Iterator

import numpy as np

from saliency_bench.attribution.context import SPECIAL_TOKENS
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.rows import Setting
from saliency_bench.evaluation.robustness import share
from saliency_bench.experiments.sanity.subjects import Row, Subject, explained, settings_of, valued

SHARE, ALL = "share", "all special tokens"
CASE = "baseline_special_tokens"
NO_CASE = "no baseline"


def rows(subject: Subject, progress: Callable[[int, int], None]) -> Iterator[Row]:
    """The share of all magnitude on each kind of special token; a path method that keeps them gives them 0."""
    model, config = subject.model, subject.config
    for done, case in enumerate(SPECIAL_TOKENS):
        progress(done, len(SPECIAL_TOKENS))
        settings = settings_of(model, config["methods"], config["seed"], **{CASE: case})
        if done:  # the others are as they were
            settings = {name: kept for name, kept in settings.items() if CASE in kept.hyper}
        maps = explained(model, subject.fixed, settings, subject.budget)
        for name, setting in settings.items():
            for map_ in maps[name]:
                for row in _shares(map_):
                    yield {"model": model.name, "method": name, "case": _case(setting)} | row


def _case(setting: Setting) -> str:
    return str(setting.hyper.get(CASE, NO_CASE))


def _shares(attribution: AttributionMap) -> Iterator[Row]:
    """The share of each special token by its name, and of all together."""
    tokens, special = np.array(attribution.tokens), ~np.array(attribution.attributable)
    for name in (*dict.fromkeys(tokens[special].tolist()), ALL):
        chosen = special if name == ALL else special & (tokens == name)
        value = share(attribution.scores, chosen)
        yield {
            "level": name,
            "measure": SHARE,
            "example_id": attribution.example_id,
        } | valued(value)
