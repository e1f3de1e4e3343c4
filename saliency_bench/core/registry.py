"""Parts by name: ours are found in a folder of the package, third parties' by entry point."""

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
        kind: what they are called in messages.
        entry_point_group: where installed packages may add theirs.
        package: whose modules register ours. They are imported when the registry is first asked.
    """

    def __init__(self, kind: str, entry_point_group: str, package: str | None = None) -> None:
        self.kind = kind
        self.group = entry_point_group
        self.package = package
        self._known: dict[str, T] = {}
        self._loaded = False

    def add(self, name: str, function: T) -> T:
        """Registers a function; a name belongs to one function only."""
        if self._known.setdefault(name, function) is not function:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        return function

    def register(self, function: T) -> T:
        """Registers a function under its own name; a decorator."""
        return self.add(function.__name__, function)

    def names(self) -> list[str]:
        """All known names, sorted."""
        self._load()
        return sorted(self._known)

    def __contains__(self, name: str) -> bool:
        return name in self.names()

    def __getitem__(self, name: str) -> T:
        one_of(self.kind, name, self.names())
        return self._known[name]

    def hyperparameters(self, name: str) -> list[str]:
        """The hyperparameters of a component, all of which an entry must have: its keyword-only parameters."""
        return list(signatures.parameters(self[name]))

    def call(self, name: str, subject: Any, given: Mapping[str, Any]) -> Any:
        """Calls the component on a subject, with hyperparameters as in a configuration."""
        return signatures.call(self[name], subject, given=given)

    def entry(
        self, key: str, entry: Mapping[str, Any], where: str, others: Collection[str] = ()
    ) -> tuple[str, dict[str, Any]]:
        """Reads the component that an entry names under `key`, and its hyperparameters; none may be unknown or missing.

        `others` are keys of the entry that are no hyperparameters.
        """
        if key not in entry:
            raise InputError(
                f"{where}.{key} is missing: it names the function. Is {where} selected at all?"
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

    def check(self, name: str, given: Mapping[str, Any], where: str) -> None:
        """Refuses hyperparameters that the component does not have, and names those that are missing."""
        known = self.hyperparameters(name)
        for key in given:
            if key not in known:
                raise KeywordError(f"{where}: {unknown(f'hyperparameter of {name}', key, known)}")
        missing = [key for key in known if key not in given]
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


#: Of a context and the places that get it: vectors (see `attribution.baselines`).
BASELINES: Registry[Callable[..., Any]] = Registry(
    "baseline", "saliency_bench.baselines", "saliency_bench.attribution"
)
#: Of a model's references, a batch and a token budget: what answers for texts without tokens (see `evaluation.removal`).
REMOVALS: Registry[Callable[..., Any]] = Registry(
    "removal", "saliency_bench.removals", "saliency_bench.evaluation"
)
