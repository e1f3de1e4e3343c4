"""Datasets by name: functions that give examples. Importing this loads no pandas or pyarrow."""

from collections.abc import Callable

from saliency_bench.core.registry import Registry
from saliency_bench.data import file, hub, movie_reviews, shortcuts
from saliency_bench.data.example import Example

DATASETS: Registry[Callable[..., list[Example]]] = Registry("data", "saliency_bench.data")
DATASETS.add("movie_reviews", movie_reviews.load)
DATASETS.add("shortcuts", shortcuts.load)
DATASETS.add("file", file.load)
DATASETS.add("hub", hub.load)
