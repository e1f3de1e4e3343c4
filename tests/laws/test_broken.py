"""Every law refuses implementations with one thing wrong: without that it would say nothing."""

import importlib
from pathlib import Path

import pytest
from laws.law import LAWS

FOLDER = Path(__file__).parent
PACKAGE = FOLDER.parents[1] / "saliency_bench"

#: What is no law of attributions: this file, and what the interface refuses.
NO_LAWS = {"test_broken", "test_interface"}

MODULES = {
    path.stem: importlib.import_module(f"laws.{path.stem}")
    for path in sorted(FOLDER.glob("test_*.py"))
    if path.stem not in NO_LAWS
}

PAIRS = [(name, twin) for name, law in sorted(LAWS.items()) for twin in law.twins]


@pytest.mark.parametrize(
    ("name", "twin"),
    PAIRS,
    ids=[f"{name.removeprefix('test_')}-{twin.__name__}" for name, twin in PAIRS],
)
def test_a_broken_twin_breaks_the_law(name, twin):
    law = LAWS[name]
    with pytest.MonkeyPatch.context() as patch:
        twin(patch)
        with pytest.raises(AssertionError) as refusal:
            law.check(law.loosest)
    # The law must refuse it, and not the package's own checks.
    where = Path(str(refusal.traceback[-1].path))
    assert not where.is_relative_to(PACKAGE)


def test_every_law_has_a_broken_twin():
    tests = {
        name for module in MODULES.values() for name in vars(module) if name.startswith("test_")
    }
    assert tests == set(LAWS)
    assert all(law.twins for law in LAWS.values())


def test_every_broken_twin_is_refused_by_some_law():
    twins = {
        value
        for path in FOLDER.glob("twins_of_*.py")
        for name, value in vars(importlib.import_module(f"laws.{path.stem}")).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == f"laws.{path.stem}"
    }
    assert twins == {twin for law in LAWS.values() for twin in law.twins}
