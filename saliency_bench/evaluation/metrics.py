"""The registry of metrics, with the facts that tables need: direction, unit, bounds and source.

To add a metric, write one function in a file of this folder (in an installed package: entry point group
`saliency_bench.metrics`) and one yaml in conf/metric/. The function takes the `Curve`, `AttributionMap`, `Query` or `Truth`
of one example, as declared by `reads`. Its keyword-only parameters are set in the yaml, which may also set the fields of
`View`: `removal`, `granularity`, `output` and `ranking`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Num

from saliency_bench.core.registry import Registry

Reads = Literal["curve", "attribution", "query", "truth"]


class NotApplicable(Exception):
    """The metric has no value for this example, for the reason in the message. It becomes a row, not an error."""


@dataclass(frozen=True)
class MetricInfo:
    """The declared facts of a metric.

    `higher_is_better` is None if neither direction is better. `bounds` may be infinite. `reads` is the kind of its argument.
    """

    unit: str
    higher_is_better: bool | None
    bounds: tuple[float, float]
    source: str
    reads: Reads


def correlation(
    statistic: Callable[..., float],
    a: Num[np.ndarray, " N"],
    b: Float[np.ndarray, " N"],
    reason: str,
) -> float:
    """A correlation coefficient of two samples; NaN if a value of `b` is NaN.

    Raises:
        NotApplicable: the values of a sample are all equal, with this reason.
    """
    if np.isnan(b).any():
        return float("nan")
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        raise NotApplicable(reason)
    return float(statistic(a, b))


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
    """Registers a function of one example's curve, attribution, query or truth as a metric; see `MetricInfo`."""

    def register(function: Metric) -> Metric:
        METRICS.add(name, function)
        INFO[name] = MetricInfo(unit, higher_is_better, bounds, source, reads)
        return function

    return register
