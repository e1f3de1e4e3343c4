"""Datasets by name: functions that return examples. Importing this loads no pandas or pyarrow.

A new dataset is one file here with a function `load`, registered by `@dataset` (or, in an installed package, by the entry
point group `saliency_bench.data`), and one yaml in conf/data/.
"""

from collections.abc import Callable

from saliency_bench.core.registry import Registry
from saliency_bench.data.example import Example

Dataset = Callable[..., list[Example]]
DATASETS: Registry[Dataset] = Registry("data", "saliency_bench.data", __name__)


def dataset(load: Dataset) -> Dataset:
    """Registers a module's function under the module's name."""
    return DATASETS.add(load.__module__.rpartition(".")[2], load)
