"""What the JSON files of a run must look like before anything is made of them: they may be somebody else's."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from saliency_bench.core.errors import StorageError, shown
from saliency_bench.core.method_facts import COLOR, FACTS
from saliency_bench.core.ranges import MOST_RESAMPLES, MOST_SEED
from saliency_bench.core.rows import Setting

_FIELDS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "method": (str,),
    "backend": (str,),
    "reduction": (str,),
    "target": (str, int),
    "output": (str,),
    "seed": (int,),
}


def check_settings(settings: Sequence[Any], path: Path) -> None:
    """Every setting has its fields, and the id that they give: rows name settings by it.

    Raises:
        StorageError: the first that is wrong.
    """
    for place, one in enumerate(settings):
        if not isinstance(one, dict):
            raise StorageError(
                f"{path}: entry {place}: expected an object, got {shown(one)}. Restore the file."
            )
        for key, kinds in _FIELDS.items():
            if not isinstance(one.get(key), kinds) or isinstance(one.get(key), bool):
                expected = " or ".join("a text" if kind is str else "a number" for kind in kinds)
                got = shown(one[key]) if key in one else "nothing"
                raise StorageError(
                    f"{path}: entry {place}: {key}: expected {expected}, got {got}. Restore the file."
                )
        _check_facts(one.get(FACTS, {}), f"{path}: entry {place}: {FACTS}")
        if (given := one.get("setting_id")) != (real := _id(one)):
            raise StorageError(
                f"{path}: setting {shown(given)} ({shown(one['name'])}) has the hyperparameters of {real}, so that its "
                "rows would be shown as another's. Restore the file."
            )


def _check_facts(facts: Any, where: str) -> None:
    """What is said of a setting's method is of the kind that reports expect; older runs say nothing."""
    if not isinstance(facts, dict):
        raise StorageError(f"{where}: expected an object, got {shown(facts)}. Restore the file.")
    for key, (fits, expected) in _FACTS.items():
        if key in facts and not fits(facts[key]):
            got = shown(facts[key])
            raise StorageError(f"{where}.{key}: expected {expected}, got {got}. Restore the file.")


def _id(one: Mapping[str, Any]) -> str | None:
    hyper = {key: value for key, value in one.items() if key not in (*_FIELDS, "setting_id", FACTS)}
    try:
        return Setting(**{key: one[key] for key in _FIELDS}, hyper=hyper).id
    except (ValueError, RecursionError):  # no number that JSON has, or text that is no Unicode
        return None


def check_same_settings(settings: Sequence[Mapping[str, Any]], identity: Any, path: Path) -> None:
    """The settings are those that the run was claimed for.

    Raises:
        StorageError: others.
    """
    held = identity.get("settings")
    ids = [one["setting_id"] for one in settings]
    if not isinstance(held, list) or sorted(map(str, held)) != sorted(ids):
        raise StorageError(f"{path} names other settings than {path.parent}. Restore the files.")


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def _number(least: float, most: float) -> Callable[[Any], bool]:
    return lambda value: _is(int, float)(value) and least <= value <= most


def _whole(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: _is(int)(value) and least <= value <= most


def _tolerance(value: Any) -> bool:
    each = value.values() if isinstance(value, dict) else [value]
    return all(map(_number(0.0, float("inf")), each))


def _texts(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(one, str) for one in value)
    )


def _color(value: Any) -> bool:
    return value is None or (isinstance(value, str) and bool(COLOR.fullmatch(value)))


_OBJECT, _TEXT, _TRUTH = (
    (_is(dict), "an object"),
    (_is(str), "a text"),
    (_is(bool), "true or false"),
)
#: What is said of a setting's method.
_FACTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "label": _TEXT,
    "entry": _TEXT,
    "backend": _TEXT,
    "role": _TEXT,
    "reference": _TRUTH,
    "plain": _TRUTH,
    "explains_output": _TRUTH,
    "signed": (_is(bool, type(None)), "true, false or null"),
    "color": (_color, "#RRGGBB or null"),
}
#: What readers rely on, by dotted key: a check, and what is expected in words. All may be left out, or be null.
_MANIFEST: dict[str, tuple[Callable[[Any], bool], str]] = {
    "id": _TEXT,
    "cell_id": _TEXT,
    "name": _TEXT,
    "split": _TEXT,
    "command": _TEXT,
    "reference_setting": _TEXT,
    "model": _OBJECT,
    "data": _OBJECT,
    "identity": _OBJECT,
    "circumstances": _OBJECT,
    "circumstances.command": (_texts, "a list of texts"),
    "preflight": _OBJECT,
    "parity": _OBJECT,
    "parity.relative_tolerance": (_tolerance, "a number, or one per setting"),
    "chosen": _OBJECT,
    "chosen.best": _OBJECT,
    "config": _OBJECT,
    "config.seed": (_whole(0, MOST_SEED), "a whole number of at least 0"),
    "config.model": _OBJECT,
    "config.data": _OBJECT,
    "config.method": _OBJECT,
    "config.convergence": _OBJECT,
    "config.evaluation": _OBJECT,
    "config.report": _OBJECT,
    "config.report.n_examples": (_whole(0, 10**6), "a whole number of at least 0"),
    "config.convergence.largest_gap": (_number(0.0, float("inf")), "a number of at least 0"),
    "config.convergence.smallest_tau": (_number(-1.0, 1.0), "a number from -1 to 1"),
    "config.target": (_is(str, int, list), "a class"),
    "config.output": _TEXT,
    "config.statistics.endpoint": _TEXT,
    "model.name": _TEXT,
    "data.dataset": _TEXT,
    "data.sha256": _TEXT,
    "config.evaluation.removal": (_texts, "names"),
    "config.statistics": _OBJECT,
    "config.statistics.test": _TEXT,
    "config.statistics.confidence": (_number(1e-9, 1 - 1e-9), "a number between 0 and 1"),
    "config.statistics.n_resamples": (
        _whole(1, MOST_RESAMPLES),
        f"a whole number, 1 to {MOST_RESAMPLES}",
    ),
}


def check_manifest(manifest: Mapping[str, Any], path: Path) -> None:
    """What is read from a manifest is of the kind that readers expect.

    Raises:
        StorageError: the first field that is not.
    """
    for key, (fits, expected) in _MANIFEST.items():
        value: Any = manifest
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None and not fits(value):
            raise StorageError(
                f"{path}: {key}: expected {expected}, got {shown(value)}. Restore the file."
            )
