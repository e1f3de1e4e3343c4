"""Registries of parts by name: ours are found in a folder of the package, those of other packages by entry point."""

from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Any, Generic, TypeVar

from saliency_bench.core import signatures
from saliency_bench.core.errors import InputError, KeywordError, one_of, unknown

T = TypeVar("T", bound=Callable[..., Any])


class Registry(Generic[T]):
    """Functions of one kind by name.

    Args:
        kind: the word for such a function in messages.
        entry_point_group: the group of entry points by which installed packages add theirs.
        package: the package whose modules register ours; they are imported at the first use of the registry.
    """

    def __init__(self, kind: str, entry_point_group: str, package: str | None = None) -> None:
        self.kind = kind
        self.group = entry_point_group
        self.package = package
        self._functions: dict[str, T] = {}
        self._loaded = False

    def add(self, name: str, function: T) -> T:
        """Registers a function; a name belongs to one function only."""
        if self._functions.setdefault(name, function) is not function:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        return function

    def register(self, function: T) -> T:
        """Registers a function under its own name; a decorator."""
        return self.add(function.__name__, function)

    def names(self) -> list[str]:
        """Returns all names, sorted."""
        self._load()
        return sorted(self._functions)

    def __contains__(self, name: str) -> bool:
        return name in self.names()

    def __getitem__(self, name: str) -> T:
        one_of(self.kind, name, self.names())
        return self._functions[name]

    def hyperparameters(self, name: str) -> list[str]:
        """Returns the hyperparameters of a component, its keyword-only parameters; an entry must have all of them."""
        return list(signatures.parameters(self[name]))

    def call(self, name: str, subject: Any, hyper: Mapping[str, Any]) -> Any:
        """Calls the component on a subject, with hyperparameters as in a configuration."""
        return self[name](subject, **signatures.grouped(self[name], hyper))

    def entry(
        self, key: str, entry: Mapping[str, Any], where: str, others: Collection[str] = ()
    ) -> tuple[str, dict[str, Any]]:
        """Returns the component that an entry names under `key`, and its hyperparameters.

        Args:
            key: "method", "metric", ...
            entry: the entry of a configuration.
            where: the entry's own name, for messages.
            others: keys of the entry that are not hyperparameters.

        Raises:
            InputError: there is no such component, or a hyperparameter is unknown or missing.
        """
        if key not in entry:
            raise InputError(
                f"{where}.{key} is missing: it names the function. Is {where} selected?"
            )
        name = entry[key]
        one_of(f"{where}.{key}", name, self.names())
        hyper = {
            parameter: value
            for parameter, value in entry.items()
            if parameter not in (key, *others)
        }
        self.check(name, hyper, where)
        return name, hyper

    def check(self, name: str, hyper: Mapping[str, Any], where: str) -> None:
        """Raises a `KeywordError` for a hyperparameter that the component does not have, or that is missing."""
        expected = self.hyperparameters(name)
        for key in hyper:
            if key not in expected:
                message = unknown(f"hyperparameter of {name}", key, expected)
                raise KeywordError(f"{where}: {message}")
        missing = [key for key in expected if key not in hyper]
        if missing:
            raise KeywordError(f"{where}: {self.kind} {name!r} needs {', '.join(missing)}")

    def _load(self) -> None:
        if not self._loaded:
            self._loaded = True
            if self.package is not None:
                import_modules(self.package)
            for point in entry_points(group=self.group):
                self.add(point.name, point.load())


def import_modules(package: str) -> None:
    """Imports every module of a package, without its subpackages."""
    for module in iter_modules(import_module(package).__path__, f"{package}."):
        if not module.ispkg:
            import_module(module.name)


#: Functions of a context and the places to fill, which return vectors (see `attribution.baselines`).
BASELINES: Registry[Callable[..., Any]] = Registry(
    "baseline", "saliency_bench.baselines", "saliency_bench.attribution"
)
#: Functions of a model's references, a batch and a token budget, which return a `Probe` (see `evaluation.removal`).
REMOVALS: Registry[Callable[..., Any]] = Registry(
    "removal", "saliency_bench.removals", "saliency_bench.evaluation"
)
