"""A benchmark of gradient saliency methods for transformer text models.

Names are loaded when they are first used: importing the package imports neither torch nor anything heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from saliency_bench.core.version import __version__ as __version__

if TYPE_CHECKING:
    from saliency_bench.api import attribute as attribute
    from saliency_bench.api import evaluate as evaluate
    from saliency_bench.api.catalogue import explain_parameters as explain_parameters
    from saliency_bench.api.catalogue import methods as methods
    from saliency_bench.api.catalogue import metrics as metrics
    from saliency_bench.api.study import study as study
    from saliency_bench.core.errors import InputError as InputError
    from saliency_bench.core.maps import AttributionMap as AttributionMap
    from saliency_bench.models.loading import load_model as load_model
    from saliency_bench.models.loading import wrap_model as wrap_model

_HOMES = {
    "attribute": "api",
    "evaluate": "api",
    "study": "api.study",
    "methods": "api.catalogue",
    "metrics": "api.catalogue",
    "explain_parameters": "api.catalogue",
    "load_model": "models.loading",
    "wrap_model": "models.loading",
    "AttributionMap": "core.maps",
    "InputError": "core.errors",
}

__all__ = [
    "AttributionMap",
    "InputError",
    "attribute",
    "evaluate",
    "explain_parameters",
    "load_model",
    "methods",
    "metrics",
    "study",
    "wrap_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
