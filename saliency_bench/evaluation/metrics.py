"""Metrics by name, with what a table must know of them: direction, unit, bounds, source.

Adding one is one function in a file of this folder (or in an installed package, entry point group
`saliency_bench.metrics`) and one yaml in conf/metric/. It takes one example's `Curve`, `AttributionMap`, `Query` or
`Truth`, as it declares by `reads`; its keyword-only parameters are what the yaml says. An entry may also say how the text is looked at (`View`): `removal`,
`granularity`, `output` and `ranking`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from saliency_bench.core.registry import Registry

Reads = Literal["curve", "attribution", "query", "truth"]


class NotApplicable(Exception):
    """An answer, not an error: the metric says nothing of this example, for the reason in the message."""


@dataclass(frozen=True)
class MetricInfo:
    """What is declared of a metric; `higher_is_better` is None where neither is, and `bounds` may be infinite."""

    unit: str
    higher_is_better: bool | None
    bounds: tuple[float, float]
    source: str
    reads: Reads


Metric = Callable[..., float]
METRICS: Registry[Metric] = Registry("metric", "saliency_bench.metrics", __package__)
INFO: dict[str, MetricInfo] = {}


def metric(
    name: str,
    *,
    unit: str,
    higher_is_better: bool | None,
    bounds: tuple[float, float],
    source: str,
    reads: Reads,
) -> Callable[[Metric], Metric]:
    """Registers a function of one example's curve, attribution, query or truth as a metric."""

    def register(function: Metric) -> Metric:
        METRICS.add(name, function)
        INFO[name] = MetricInfo(unit, higher_is_better, bounds, source, reads)
        return function

    return register
