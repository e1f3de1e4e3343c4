"""The versions of libraries."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

#: Libraries whose version can change a number, and those that only carry or draw it.
COMPUTING = (
    "torch",
    "transformers",
    "tokenizers",
    "captum",
    "peft",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
)


CARRYING = ("hydra-core", "omegaconf", "matplotlib", "seaborn")


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Returns the installed versions of packages; None for those that are not installed."""
    return {package: _version(package) for package in packages}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
