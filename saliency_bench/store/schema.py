"""Checks the JSON files of a run before they are used, since a run may come from somebody else."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from saliency_bench.core.errors import InputError, StorageError, shown
from saliency_bench.core.method_facts import COLOR, FACTS
from saliency_bench.core.ranges import range_of
from saliency_bench.core.rows import Setting

#: A kind of value in words, and whether a value is of that kind.
Kind = tuple[str, Callable[[Any], bool]]


def _is(*types: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, types) and (bool in types or not isinstance(value, bool))


def _tolerance(value: Any) -> bool:
    numbers = value.values() if isinstance(value, dict) else [value]
    return all(_is(int, float)(number) and number >= 0 for number in numbers)


def _texts(value: Any) -> bool:
    return all(isinstance(text, str) for text in (value if isinstance(value, list) else [value]))


def _classes(value: Any) -> bool:
    pair = isinstance(value, list) and len(value) == 2
    return all(map(_is(str, int), value if pair else [value]))


def _color(value: Any) -> bool:
    return value is None or (isinstance(value, str) and bool(COLOR.fullmatch(value)))


OBJECT: Kind = ("an object", _is(dict))
TEXT: Kind = ("a text", _is(str))
TEXTS: Kind = ("a text, or a list of texts", _texts)
TOLERANCE: Kind = ("a number, or one per setting", _tolerance)
CLASS: Kind = ("a class, or a list of two", _classes)
TRUTH: Kind = ("true or false", _is(bool))

#: The fields of a setting.
SETTING: Mapping[str, Kind] = {
    **dict.fromkeys(("name", "method", "backend", "reduction", "output"), TEXT),
    "target": CLASS,
    "seed": ("a number", _is(int)),
}
#: The facts of a setting's method.
METHOD: Mapping[str, Kind] = {
    **dict.fromkeys(("label", "entry", "backend", "role"), TEXT),
    **dict.fromkeys(("reference", "plain", "explains_output"), TRUTH),
    "signed": ("true, false or null", _is(bool, type(None))),
    "color": ("#RRGGBB or null", _color),
}
#: The kinds of the fields of a manifest that are read, by dotted key. All may be left out, or be null.
MANIFEST: Mapping[Kind, Sequence[str]] = {
    OBJECT: (
        "model", "data", "identity", "identity.code", "identity.computation", "circumstances", "preflight", "parity", "chosen", "chosen.best", "config",
        "config.model", "config.data", "config.method", "config.convergence", "config.evaluation", "config.report",
        "config.statistics", "config.runtime", "placement", "replaced_by",
    ),
    TEXT: (
        "id", "cell_id", "name", "split", "command", "reference_setting", "model.name", "data.dataset", "data.sha256",
        "config.output", "config.statistics.endpoint", "config.statistics.test",
    ),
    TEXTS: ("circumstances.command", "config.evaluation.removal"),
    CLASS: ("config.target",),
    TOLERANCE: ("parity.relative_tolerance",),
}  # fmt: skip
_RESTORE = " Restore the file."
#: Numbers in a manifest, whose ranges are in `core.ranges`; all may be left out, or be null.
NUMBERS = (
    "config.seed",
    "config.report.n_examples",
    "config.convergence.largest_gap",
    "config.convergence.smallest_tau",
    "config.statistics.confidence",
    "config.statistics.n_resamples",
)


def refuse_unreadable(settings: Sequence[Any], manifest: Mapping[str, Any]) -> None:
    """Refuses what a run would write, and could not read again.

    Raises:
        InputError: a value is of another kind; the message names the first.
    """
    try:
        check_settings(settings, Path("settings"))
        check_manifest(manifest, Path("manifest"))
    except StorageError as error:
        raise InputError(str(error).removesuffix(_RESTORE)) from error


def check_settings(settings: Sequence[Any], path: Path) -> None:
    """Checks that every setting has its fields, and the id of these fields, by which rows name settings.

    Raises:
        StorageError: a setting is wrong; the message names the first.
    """
    for place, setting in enumerate(settings):
        where = f"{path}: entry {place}"
        _require(setting, OBJECT, where)
        for key, kind in SETTING.items():
            _require(setting.get(key), kind, f"{where}: {key}")
        facts = setting.get(FACTS, {})
        _require(facts, OBJECT, f"{where}: {FACTS}")
        for key in METHOD.keys() & facts.keys():
            _require(facts[key], METHOD[key], f"{where}: {FACTS}.{key}")
        if (written := setting.get("setting_id")) != (real := _id(setting)):
            raise StorageError(
                f"{path}: setting {shown(written)} ({shown(setting['name'])}) has the hyperparameters of {real}, so that "
                f"its rows would be shown as another's.{_RESTORE}"
            )


def _require(value: Any, kind: Kind, where: str) -> None:
    expected, fits = kind
    if not fits(value):
        got = "nothing" if value is None else shown(value)
        raise StorageError(f"{where}: expected {expected}, got {got}.{_RESTORE}")


def _id(setting: Mapping[str, Any]) -> str | None:
    others = (*SETTING, "setting_id", FACTS)
    hyper = {key: value for key, value in setting.items() if key not in others}
    try:
        return Setting(**{key: setting[key] for key in SETTING}, hyper=hyper).id
    except (ValueError, RecursionError):  # no number that JSON has, or text that is no Unicode
        return None


def check_same_settings(settings: Sequence[Mapping[str, Any]], identity: Any, path: Path) -> None:
    """Checks that the settings are those in the run's identity.

    Raises:
        StorageError: they are others.
    """
    claimed = identity.get("settings")
    ids = [setting["setting_id"] for setting in settings]
    if not isinstance(claimed, list) or sorted(map(str, claimed)) != sorted(ids):
        raise StorageError(f"{path} names other settings than {path.parent}. Restore the files.")


def check_manifest(manifest: Mapping[str, Any], path: Path) -> None:
    """Checks that the fields of a manifest are of the kinds in `MANIFEST` and in the ranges of `NUMBERS`.

    Raises:
        StorageError: a field is not; the message names the first.
    """
    kinds = {key: kind for kind, keys in MANIFEST.items() for key in keys}
    kinds |= {key: _number(key) for key in NUMBERS}
    for key, kind in kinds.items():
        value: Any = manifest
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            _require(value, kind, f"{path}: {key}")
    for name, entry in ((manifest.get("config") or {}).get("method") or {}).items():
        _require(entry, OBJECT, f"{path}: config.method.{name}")


def _number(key: str) -> Kind:
    allowed = range_of(key)
    assert allowed is not None, key
    return str(allowed), lambda value: _is(int, float)(value) and value in allowed
